"""The files of one network for every runtime of this machine, to compare their speed.

A process of its own makes them: one that a library ends costs the file that was being made.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scrfdconv.checks.verification import Demand
from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.errors import (
    ArtifactError,
    CheckFailed,
    ScrfdconvError,
    UsageError,
    reason_of,
)
from scrfdconv.converters.formats import Format, Source, formats
from scrfdconv.converters.precision import FLOAT, precisions
from scrfdconv.converters.precision.int8 import DEFAULT_FACE_LOSS
from scrfdconv.converters.system.scratch import temporary_files_in
from scrfdconv.converters.system.workers import Died, Worker
from scrfdconv.recipes.artifacts.conversion import convert
from scrfdconv.recipes.artifacts.naming import default_output
from scrfdconv.recipes.artifacts.network import GRAPH, network_in
from scrfdconv.recipes.artifacts.target import target_of
from scrfdconv.recipes.faces.pictures import spread
from scrfdconv.recipes.order import Stage, silent

logger = logging.getLogger(__name__)

# For one file: the search for INT8 of 34G at 640x640 took a quarter of an hour on two cores. What
# takes longer than this hangs.
PATIENCE_SECONDS = 3600.0
# A file's faces are counted on all photographs where the file is timed: its verification, which
# runs the reference again for each file, needs only some.
MOST_VERIFIED = 8


@dataclass(frozen=True)
class Candidate:
    """A format in one of its precisions."""

    format: Format
    precision: str

    @property
    def name(self) -> str:
        """``onnx-int8``, as users name one."""
        return f"{self.format.name}-{self.precision}"

    @property
    def label(self) -> str:
        """``ONNX int8``, for people."""
        return f"{self.format.title} {self.precision}"

    @property
    def calibrated(self) -> bool:
        """True if its values are measured on photographs."""
        native = self.precision in self.format.native_precisions
        return not native and precisions()[self.precision].needs_images


@dataclass(frozen=True, kw_only=True)
class FileForRuntime:
    """A verified file, or why there is none."""

    candidate: Candidate
    path: Path | None = None
    plan: Path | None = None  # what was measured and decided, where that was much
    why_not: str = ""
    missing: bool = False  # this machine cannot make it, or not run it

    @property
    def label(self) -> str:
        """``ONNX int8``."""
        return self.candidate.label


def all_candidates() -> tuple[Candidate, ...]:
    """Every format in each of its precisions; first the float graph that the others come from."""
    made = [one for one in formats().values() if one.source]
    made.sort(key=lambda one: one is not GRAPH)
    return tuple(Candidate(one, precision) for one in made for precision in one.precisions)


def candidates_called(names: Sequence[str]) -> tuple[Candidate, ...]:
    """The candidates of formats (``onnx``) or with a precision (``onnx-int8``); no names: all.

    Raises UsageError, with the known names, for an unknown one.
    """
    every = all_candidates()
    known = dict.fromkeys([*(one.format.name for one in every), *(one.name for one in every)])
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"{unknown[0]} is no candidate; known are {', '.join(known)}.")
    return tuple(one for one in every if not names or one.name in names or one.format.name in names)


@dataclass(frozen=True, kw_only=True)
class RuntimeFiles:
    """Makes verified files of fixed size in each format and precision that runs here.

    INT8 that is calibrated needs ``images``. Candidates of one arrangement of INT8 share one
    search.
    """

    source: Source
    folder: Path
    shape: tuple[int, int]
    batch: int = 1
    images: tuple[Path, ...] = ()
    candidates: tuple[Candidate, ...] = ()  # none: all
    max_face_loss: float = DEFAULT_FACE_LOSS  # that calibrated files are searched within
    stage: Stage = silent

    def made(self) -> Iterator[FileForRuntime]:
        """All files; what cannot be made or run comes with the reason."""
        source = _network(self.source)
        wanted = self.candidates or all_candidates()
        with Worker[_Order, str](_made, None) as worker:
            graph = self._file(Candidate(GRAPH, FLOAT), source, None, worker)
            parent = GRAPH.artifact_at(graph.path) if graph.path else None
            for one in wanted:
                if one == graph.candidate:
                    yield graph
                else:
                    fits = one.format.chain()[0] is GRAPH
                    yield self._file(one, source, parent if fits else None, worker)

    def _file(
        self, one: Candidate, source: Source, parent: Artifact | None, worker: Worker[_Order, str]
    ) -> FileForRuntime:
        maker, precision = one.format, one.precision
        if missing := maker.why_not_built() or maker.why_not_run():
            return FileForRuntime(candidate=one, why_not=missing, missing=True)
        if one.calibrated and not self.images:
            return FileForRuntime(candidate=one, why_not="is calibrated on --images.")
        out = self.folder / maker.name / default_output(
            source.name, maker.suffix, self.shape, precision
        )  # fmt: skip
        out.parent.mkdir(exist_ok=True)
        given: dict[str, Any] = {"shape": self.shape, "batch": self.batch}
        plan = self.folder / f"{precision}-{maker.int8_target}.json" if one.calibrated else None
        if plan:
            given |= {"plan": plan, "max_face_loss": self.max_face_loss}
        order = _Order(
            name=maker.name,
            precision=precision,
            options=given,
            source=source,
            parent=parent,
            images=self.images,
            out=out,
        )
        with self.stage(f"making {one.label}"):
            why_not = worker.ask(order, PATIENCE_SECONDS)
        if isinstance(why_not, Died):
            why_not = f"{why_not.why}."
        if why_not:
            return FileForRuntime(candidate=one, why_not=why_not)
        return FileForRuntime(candidate=one, path=out, plan=plan)


@dataclass(frozen=True, kw_only=True)
class _Order:
    """What the process that makes files must know of one."""

    name: str  # of the format
    precision: str
    options: Mapping[str, Any]
    source: Source
    parent: Artifact | None
    images: tuple[Path, ...]
    out: Path


def _made(order: _Order) -> str:
    """Make and verify a file; why there is none, or "" if there is one."""
    try:
        target = target_of(order.name, order.precision, order.options)
        demand = Demand(spread(order.images, MOST_VERIFIED), weights=False)
        with temporary_files_in(order.out.parent):
            convert(
                order.source,
                target,
                order.out,
                demand,
                images=order.images,
                parent=order.parent,
            )
    except ScrfdconvError as error:
        return str(error).replace(str(order.out), order.out.name)
    except MemoryError:
        return "memory ran out."
    except Exception as error:  # of any library
        logger.info("%s", order.out.name, exc_info=True)
        return f"{type(error).__name__}: {reason_of(error)}."
    return ""


def _network(source: Source) -> Source:
    """The network in an ONNX file, which every format is made from; else the source as it is."""
    if isinstance(source, Artifact) and source.format == GRAPH.name:
        with suppress(ArtifactError, CheckFailed):
            return network_in(source).source
    return source
