"""Packs: folders that a server or an app loads as they are.

A pack is one file beside this file with one subclass of ``Pack``; `packs` finds all of them. The
command line knows a kind of pack by this declaration alone. The declaration imports no library;
methods do.
"""

from __future__ import annotations

import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.declarations import declared_below
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats import Format, format_of, formats
from scrfdconv.converters.options import Option, Options

if TYPE_CHECKING:
    from scrfdconv.checks.results import CheckResult

Contents = Mapping[str, Path | str]  # name in the folder -> a file to copy, or a text

README = "README.md"
# What insightface allows as the identity of a package; servers and apps take it as a folder, too.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class PackOptions(Options):
    """What every kind of pack lets a user choose."""

    name: Annotated[
        str | None,
        Option(help="Name under which the model is loaded.", shown_default="MODEL's stem"),
    ] = None


class Pack(ABC):
    """One kind of folder."""

    name: ClassVar[str]  # KIND on the command line
    title: ClassVar[str]  # the consumer, for people
    summary: ClassVar[str]  # help of the kind
    suffixes: ClassVar[tuple[str, ...]] = ()  # of the files that the consumer loads
    remedy: ClassVar[str] = ""  # what to do where a file does not read as it should
    converted_with: ClassVar[str] = ""  # options of the verb that makes such files
    options: ClassVar[type] = PackOptions

    def takes(self, maker: Format) -> bool:
        """True for the formats whose files the consumer loads."""
        return maker.suffixes == self.suffixes

    def source_at(self, path: Path) -> Artifact:
        """The model to pack; UsageError, with what to type, for one that cannot be loaded."""
        found = format_of(path)
        if self.takes(found):
            return found.artifact_at(path, found.precision_of(path))
        taken = [one for one in formats().values() if self.takes(one)]
        start = path if found.source is None or found.from_itself else "SOURCE"
        verb = f"scrfdconv {taken[0].name} {start} {self.converted_with}".rstrip()
        raise UsageError(
            f"{path}: is of kind {found.name}; {self.title} can load "
            f"{' or '.join(one.title for one in taken)} only: type {verb}, and pack what is made."
        )

    def model_name(self, source: Artifact, options: Any) -> str:
        """The name under which the consumer knows the model; UsageError for an impossible one."""
        name = options.name or source.name
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"--name {name}: give letters, digits, dots, dashes and underscores, at most 128."
            )
        return str(name)

    def home(self, out: Path, name: str) -> Path:
        """The folder that is written whole, at or below ``out``."""
        return out / name

    @abstractmethod
    def contents(self, source: Artifact, name: str, options: Any) -> Contents:
        """All files of the folder; raises a ScrfdconvError for a model that does not fit."""

    @abstractmethod
    def results(self, folder: Path, source: Artifact, options: Any) -> Iterator[CheckResult]:
        """Measure the files in ``folder`` as the consumer reads them."""


@cache
def packs() -> dict[str, Pack]:
    """All kinds of packs by name."""
    return declared_below(__name__, __path__, Pack)  # type: ignore[type-abstract]


def write_contents(contents: Contents, folder: Path) -> None:
    """Write every file of ``contents`` below ``folder``, which is made."""
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        else:
            path.write_text(content, "utf-8", newline="\n")
