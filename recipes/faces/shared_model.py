"""A model that worker processes open, here or on another machine that sees the same files."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from scrfdconv.converters.errors import InputFileError
from scrfdconv.converters.formats import Source, formats
from scrfdconv.converters.runner import Runner
from scrfdconv.converters.system.machine import usable_cores
from scrfdconv.converters.system.workers import THREADS
from scrfdconv.recipes.artifacts.sources import SourceOptions, open_source
from scrfdconv.recipes.build.plan import MEASURERS
from scrfdconv.recipes.cluster import Common
from scrfdconv.recipes.faces.detection import open_runner, runs_here


@dataclass(frozen=True)
class SharedModel:
    """A model by its name, which means the same file in every working directory."""

    name: str
    digest: str
    options: SourceOptions

    @classmethod
    def of(cls, name: str, source: Source, options: SourceOptions) -> SharedModel:
        """The model that was opened as ``source``."""
        anywhere = replace(
            options,
            config=options.config and options.config.resolve(),
            architecture=options.architecture and _anywhere(options.architecture),
        )
        return cls(_anywhere(name), source.digest, anywhere)

    def runner(self) -> Runner:
        """The model on one thread, opened once; raises InputFileError if the file has changed."""
        # Once per thread, too: not every runtime may run in two at a time.
        return _opened(self, threading.get_ident())


@cache
def _opened(model: SharedModel, _thread: int) -> Runner:
    source = open_source(model.name, model.options)
    if source.digest != model.digest:
        raise InputFileError(f"{model.name}: has changed since the evaluation began; start again.")
    return open_runner(source, THREADS)


def default_workers(*sources: Source) -> int:
    """One process for each core; one alone for models on a device, whose memory they share."""
    return usable_cores() if all(map(runs_here, sources)) else 1


def common_to_run(*sources: Source) -> Common:
    """What workers need in common with this process to run models with the same numbers."""
    own = (name for source in sources for name in formats()[source.format].libraries)
    return Common.of((*MEASURERS, *own))


def _anywhere(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).is_file() else name
