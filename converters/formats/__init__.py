"""Formats: how one kind of model file is recognised, built and opened, and what it needs.

A format is one file or folder beside this file with one subclass of ``Format``; `formats` finds all
of them. The command line, recipes, builds and reports know a format by this declaration alone. The
declaration imports no library; methods and sibling modules do.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from scrfdconv.converters.artifact import (
    Artifact,
    digest_of_files,
    put_in_place,
    readable,
    require_distinct,
    scratch_beside,
)
from scrfdconv.converters.declarations import declared_below
from scrfdconv.converters.errors import ArtifactError, InputFileError, OutputError, UsageError
from scrfdconv.converters.options import NoOptions
from scrfdconv.converters.precision import FLOAT
from scrfdconv.converters.system.permissions import allowing_host_code

if TYPE_CHECKING:
    from scrfdconv.converters.checkpoint.loading import Checkpoint
    from scrfdconv.converters.graph.convolution import Convolution
    from scrfdconv.converters.layers import Layers
    from scrfdconv.converters.runner import Runner
    from scrfdconv.converters.signature import Serving, Signature

    Source = Checkpoint | Artifact
else:
    Source = Any  # torch need not be loaded to annotate a function

Verify = Callable[[Path], None]  # raises CheckFailed

_HEAD = 64  # bytes that tell the kind of a file


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One measurement that a format makes of its own files, with its limit."""

    check: str
    subject: str
    metric: str
    measured: float
    limit: float
    at_least: bool = False
    detail: str = ""

    @property
    def passed(self) -> bool:
        """True if the value keeps its limit; NaN does not."""
        if self.at_least:
            return self.measured >= self.limit
        return self.measured <= self.limit


@dataclass(frozen=True, kw_only=True)
class Lint:
    """What is wrong with the source of a format, and what a user should know about the source."""

    findings: tuple[Finding, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """Files from which another machine builds an artifact that cannot be built here."""

    files: tuple[Path, ...]
    facts: Mapping[str, Any]  # for --json
    lines: tuple[str, ...]  # for people
    notes: tuple[str, ...] = field(default=())


class Format(ABC):
    """One kind of model, in one file or in several that belong together."""

    name: ClassVar[str]  # the verb, and the recipe's `format`
    title: ClassVar[str]  # for people
    summary: ClassVar[str]  # help of the verb
    suffixes: ClassVar[tuple[str, ...]]  # the main file first
    source: ClassVar[str | None] = "onnx"  # the format that it is built from
    precisions: ClassVar[tuple[str, ...]] = (FLOAT,)
    # Precisions that the format makes itself, from the float ONNX.
    native_precisions: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[type] = NoOptions
    libraries: ClassVar[tuple[str, ...]] = ()  # distributions whose versions decide the bytes
    modules: ClassVar[tuple[str, ...]] = ()  # what building and running import
    extra: ClassVar[str] = ""  # the package's extra that installs them
    int8_target: ClassVar[str] = "cpu"  # fastest arrangement of the INT8 graph in this format
    # True: the search for INT8 judges its candidates in this format, which is built in a second.
    judges_int8: ClassVar[bool] = False
    reproducible: ClassVar[bool] = True  # the same inputs give the same bytes
    # True: the bytes depend on earlier work of the process, so builds start a new one.
    fresh_process: ClassVar[bool] = False
    runs_on_cpu: ClassVar[bool] = True
    # True: an artifact is made for the machine that builds it; other machines skip the build.
    bound_to_machine: ClassVar[bool] = False
    keeps_metadata: ClassVar[bool] = True  # False: its files cannot say what pictures they want
    from_itself: ClassVar[bool] = False  # True: a file of the format is a source, too
    # Why its files take no bytes, no NHWC and no other order of channels; "": they take them.
    why_no_input_forms: ClassVar[str] = ""
    why_no_faces: ClassVar[str] = ""  # why its files cannot end with faces; "": they can
    has_providers: ClassVar[bool] = False  # True: ``open_on`` takes names of execution providers
    serving: ClassVar[Serving | None] = None  # how Triton serves its files; None: Triton does not

    # ------------------------------------------------------------ what a format writes

    @abstractmethod
    def recognises(self, path: Path, head: bytes) -> bool:
        """True if the main file ``path``, which begins with ``head``, is of this format."""

    @abstractmethod
    def build(self, source: Source, options: Any, out: Path, precision: str) -> None:
        """Write ``out`` and its companions from ``source``, in a folder without other files.

        ``options`` is an instance of ``self.options``; for the ONNX format in a reduced precision,
        it is that precision's settings.
        """

    @abstractmethod
    def open(self, path: Path, threads: int | None = None) -> Runner:
        """Open an artifact of this format, from here or from elsewhere."""

    def open_on(self, provider: str, path: Path, threads: int | None = None) -> Runner:
        """Open an artifact with the execution provider that a user names."""
        raise UsageError(f"{path}: is {self.title}, whose runtime has no --provider {provider}.")

    def signature(self, path: Path) -> Signature:
        """Names, types and shapes of inputs and outputs, as the file declares them."""
        raise UsageError(f"{path}: {self.title} files do not declare their inputs and outputs.")

    def describe(self, path: Path) -> dict[str, Any]:
        """What ``inspect`` says of a file beside its digest, as plain types in reading order."""
        from scrfdconv.converters.graph.facts import facts_of_runner

        return facts_of_runner(self.open(path))

    def precision_of(self, path: Path) -> str:
        """The precision that a file of this format computes in, whatever its metadata claim."""
        return FLOAT

    def precision_name(self, options: Any, precision: str) -> str:
        """The precision as limits and reports name it."""
        return precision

    def findings(self, runner: Runner) -> Iterator[Finding]:
        """What the format itself measures of an opened file, such as the types of its layers."""
        yield from ()

    def findings_unrun(self, path: Path, source: Artifact, options: Any) -> Iterator[Finding]:
        """What is measured of a new artifact where it was built but cannot be run."""
        yield from ()

    def convolutions(self, path: Path) -> Iterator[Convolution] | None:
        """The weights of a float or FP16 file at rest; None where they cannot be read."""
        return None

    def layers(self, path: Path) -> Layers | None:
        """The file as layers whose values can be seen and set; None where they cannot."""
        return None

    def lint(self, source: Artifact) -> Lint:
        """What speaks against building from ``source``, found before the build."""
        return Lint()

    def why_not_built(self) -> str:
        """What this machine lacks to build, as a sentence with the remedy; "" if nothing."""
        absent = [name for name in self.modules if importlib.util.find_spec(name) is None]
        if not absent:
            return ""
        wanted = f"scrfdconv[{self.extra}]" if self.extra else "scrfdconv"
        return f"{self.title} needs {', '.join(absent)}: pip install '{wanted}'."

    def why_plainly_not_built(self) -> str:
        """What this machine lacks to build, as far as can be told without loading a library."""
        return Format.why_not_built(self)

    def why_not_run(self) -> str:
        """What this machine lacks to run an artifact; "" if nothing."""
        return self.why_not_built()

    def why_not_verified(self, options: Any) -> str:
        """Why an artifact of ``options`` cannot be compared with its source; "" if it can."""
        return ""

    def remark(self, precision: str) -> str:
        """What a user should know before choosing this format in this precision."""
        return ""

    def facts_made(self, path: Path) -> dict[str, Any]:
        """What ``--json`` says of an artifact that was just made, beside its files."""
        return {}

    def remark_made(self, path: Path, precision: str) -> str:
        """What a user should know of the artifact at ``path``, which was just made."""
        return ""

    def settled_options(self, source: Artifact, options: Any) -> Any:
        """``options`` with everything that follows from ``source``, before anything is built."""
        return options

    def require_possible(  # noqa: B027 - most formats build whatever they are given
        self, source: Source, options: Any, sizes: Any
    ) -> None:
        """Raise UsageError for an impossible build, before work that takes minutes."""

    def instructions(self, source: Artifact, options: Any, out: Path) -> Instructions | None:
        """Write what another machine needs to build ``out``, where a format knows how."""
        return None

    def instruction_files(self, out: Path) -> tuple[Path, ...]:
        """The files that ``instructions`` writes."""
        return ()

    def libraries_for(self, options: Any) -> tuple[str, ...]:
        """Distributions whose versions decide the bytes of an artifact of ``options``."""
        return self.libraries

    def companions(self, path: Path) -> tuple[Path, ...]:
        """Paths of the other files of the artifact with the main file ``path``."""
        return tuple(path.with_suffix(suffix) for suffix in self.suffixes[1:])

    # ------------------------------------------------------------ what holds for all

    @property
    def own_folder(self) -> bool:
        """True if builds keep the artifacts apart: two formats may use one suffix."""
        return len(self.suffixes) > 1 and not self.bound_to_machine

    @property
    def verb(self) -> str:
        """The verb that makes files of the format."""
        return self.name.replace("_", "-")

    @property
    def suffix(self) -> str:
        """The suffix of the main file."""
        return self.suffixes[0]

    def chain(self) -> tuple[Format, ...]:
        """The formats that are built on the way from a checkpoint, this format last."""
        before = formats()[self.source] if self.source else None
        return (*before.chain(), self) if before and before.source else (self,)

    def files(self, path: Path) -> tuple[Path, ...]:
        """The existing files of the artifact with the main file ``path``."""
        return (path, *(c for c in self.companions(path) if c.is_file()))

    def files_read(self, path: Path) -> tuple[Path, ...]:
        """All files that opening ``path`` reads: the artifact's own, and weights beside them."""
        return self.files(path)

    def artifact_at(self, path: Path, precision: str = FLOAT) -> Artifact:
        """Describe files that are already there."""
        files = self.files(path)
        return Artifact(
            path=path,
            format=self.name,
            precision=precision,
            digest=digest_of_files(files),
            parents=(),
            companions=files[1:],
        )

    def convert(
        self,
        source: Source,
        out: Path,
        options: Any,
        verify: Verify | None,
        precision: str = FLOAT,
    ) -> Artifact:
        """Build ``out`` from ``source``: all files or none, and none before ``verify`` passes.

        Subclasses do not override it. Raises UsageError for a source of another kind, and
        OutputError where a file would replace the source or a file of another artifact.
        """
        sources = (self.source, self.name) if self.from_itself else (self.source,)
        if source.format not in sources:
            raise UsageError(
                f"{self.name} is built from {' or '.join(map(str, sources))}, not from "
                f"{source.format}."
            )
        require_other_files(self, out, source)
        with scratch_beside(out) as folder:
            part = folder / out.name
            self.build(source, options, part, precision)
            parts = self.files(part)
            if verify is not None:
                with allowing_host_code():  # the library's own, written by this build
                    verify(part)
            digest = digest_of_files(parts)
            files = (out, *self.companions(out))
            put_in_place(parts, files)
        named = self.precision_name(options, precision)
        return Artifact(
            path=out,
            format=self.name,
            precision=named,
            digest=digest,
            parents=(source.digest,),
            companions=files[1:],
        )


def files_read(source: Source) -> dict[Path, str]:
    """The files of a source, with what each is: nothing may replace them."""
    if isinstance(source, Artifact):
        return dict.fromkeys(formats()[source.format].files_read(source.path), "the source")
    return {source.path: "the checkpoint"} if source.path else {}


def require_other_files(target: Format, out: Path, source: Source) -> None:
    """Raise OutputError where ``out`` would replace the source or another artifact's companion."""
    companions = target.companions(out)
    if out in companions:
        raise OutputError(f"{out}: name the main file of {target.title}, {target.suffix}.")
    require_distinct((out, *companions), files_read(source))
    for other in formats().values():
        if other.name == target.name:
            continue
        for main in (c.with_suffix(other.suffix) for c in companions if c.exists()):
            if set(other.companions(main)) & set(companions) and main.exists():
                raise OutputError(
                    f"{out}: its {companions[0].name} would replace that of {main.name}; give "
                    "another name."
                )


@cache
def formats() -> dict[str, Format]:
    """All formats by name; heavy libraries load when one is used, not here."""
    return declared_below(__name__, __path__, Format)  # type: ignore[type-abstract]


def reference_format() -> Format:
    """The format of checkpoints: built from no other format, and the reference of every check."""
    return next(one for one in formats().values() if one.source is None)


def format_of(path: Path) -> Format:
    """The format of a file, by its content: deployed files may have any suffix.

    Raises InputFileError for files that are missing, unreadable or of no known format.
    """
    with readable(path).open("rb") as file:
        head = file.read(_HEAD)
    for one in formats().values():
        if one.recognises(path, head):
            return one
    for one in formats().values():
        main = path.with_suffix(one.suffix)
        if path in one.companions(main) and main.is_file():
            raise InputFileError(f"{path}: belongs to {main.name}; give that file.")
    if head.startswith(b"PK"):
        raise InputFileError(_about_archive(path))
    titles = [one.title for one in formats().values() if one.source is not None]
    known = f"{', '.join(titles[:-1])} or {titles[-1]}"
    raise InputFileError(
        f"{path}: is neither a checkpoint (.pth, .safetensors) nor a file of {known}."
    )


def _about_archive(path: Path) -> str:
    from scrfdconv.converters.system.archive import archive_members

    if archive_members(path) is None:
        return f"{path}: is a damaged or truncated zip archive; fetch it again."
    return f"{path}: is a zip archive, but holds no torch model."


def require_format(path: Path, name: str) -> Format:
    """The format of ``path``; raises ArtifactError unless the format is called ``name``."""
    found = format_of(path)
    if found.name != name:
        raise ArtifactError(f"{path}: is of kind {found.name}, expected {name}.")
    return found


def open_artifact(path: Path, threads: int | None = None) -> Runner:
    """Open any model file by its content."""
    return format_of(path).open(path, threads)
