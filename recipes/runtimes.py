"""The files of one network for every runtime of this machine, to compare their speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scrfdconv.checks.verification import Demand
from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.errors import ArtifactError, CheckFailed, ScrfdconvError
from scrfdconv.converters.formats import Format, Source, formats
from scrfdconv.converters.precision import FLOAT, precisions
from scrfdconv.recipes.artifacts.conversion import convert
from scrfdconv.recipes.artifacts.network import GRAPH, network_in
from scrfdconv.recipes.artifacts.target import target_of
from scrfdconv.recipes.order import Stage, silent


@dataclass(frozen=True, kw_only=True)
class FileForRuntime:
    """A verified file, or why there is none."""

    label: str  # format and precision
    path: Path | None = None
    why_not: str = ""


@dataclass(frozen=True, kw_only=True)
class RuntimeFiles:
    """Makes verified files of fixed size in each format and precision that runs here.

    INT8 that is calibrated needs ``images``.
    """

    source: Source
    folder: Path
    shape: tuple[int, int]
    batch: int = 1
    images: tuple[Path, ...] = ()
    stage: Stage = silent

    def made(self) -> Iterator[FileForRuntime]:
        """All files; what cannot be made or run comes with the reason."""
        source = _network(self.source)
        graph = self._made(GRAPH, FLOAT, source, None)
        yield graph
        parent = GRAPH.artifact_at(graph.path) if graph.path else None
        here = [one for one in formats().values() if one.source]
        for one in sorted(here, key=lambda one: one is not GRAPH):
            for precision in one.precisions:
                if one is not GRAPH or precision != FLOAT:
                    fits = one.chain()[0] is GRAPH
                    yield self._made(one, precision, source, parent if fits else None)

    def _made(
        self, one: Format, precision: str, source: Source, parent: Artifact | None
    ) -> FileForRuntime:
        label = f"{one.title} {precision}"
        if missing := one.why_not_built() or one.why_not_run():
            return FileForRuntime(label=label, why_not=missing)
        calibrated = precision not in one.native_precisions and precisions()[precision].needs_images
        if calibrated and not self.images:
            return FileForRuntime(label=label, why_not="is calibrated on --images.")
        out = self.folder / one.name / f"{source.name}_{precision}{one.suffix}"
        out.parent.mkdir(exist_ok=True)
        try:
            target = target_of(one.name, precision, {"shape": self.shape, "batch": self.batch})
            demand = Demand(self.images, weights=False)
            convert(
                source, target, out, demand, images=self.images, parent=parent, stage=self.stage
            )
        except ScrfdconvError as error:
            return FileForRuntime(label=label, why_not=str(error))
        return FileForRuntime(label=label, path=out)


def _network(source: Source) -> Source:
    """The network in an ONNX file, which every format is made from; else the source as it is."""
    if isinstance(source, Artifact) and source.format == GRAPH.name:
        with suppress(ArtifactError, CheckFailed):
            return network_in(source).source
    return source
