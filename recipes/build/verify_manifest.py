"""Check a folder of artifacts against its manifest: the digests and, on request, all numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scrfdconv.checks.results import Report
from scrfdconv.converters.artifact import digest_of
from scrfdconv.converters.errors import InputFileError, MissingError
from scrfdconv.recipes.build.manifest import Entry, MadeFrom, digest_result, load_manifest

# Of files that builds start from: checkpoints, and what can be lifted.
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors", ".onnx")


@dataclass(frozen=True)
class Rerun:
    """How to measure again: where checkpoints are searched by digest, and on which images."""

    references: tuple[Path, ...] = ()  # files and folders
    images: tuple[Path, ...] = ()


def verify_manifest(
    path: Path,
    rerun: Rerun | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Report]:
    """Compare each file beside the manifest at ``path`` with its entry there.

    Raises InputFileError for a file that is no manifest, and for a checkpoint that is not found.
    """
    entries = load_manifest(path)
    sources = _Sources(rerun.references if rerun else ())
    found: dict[str, Report] = {}
    for done, entry in enumerate(entries, 1):
        digest = digest_result(path, entry)
        found[entry.path] = Report.of([digest])
        if rerun and digest.passed:  # numbers of another file would mean nothing
            again = _measured(path.parent / entry.path, entry, sources, rerun)
            found[entry.path] = Report.of([digest, *again.results], again.notes)
        progress(done, len(entries))
    return found


def _measured(file: Path, entry: Entry, sources: _Sources, rerun: Rerun) -> Report:
    from scrfdconv.checks.verification import Demand, verify

    checkpoint = sources.find(entry)
    images = () if checkpoint.seeded else rerun.images
    loosen = entry.options.tolerance.loosen
    try:
        return verify(checkpoint, file, Demand(images, loosen, weights=False))
    except MissingError as error:  # for example, an engine of another machine
        return Report.of((), [f"not measured: {error}"])


class _Sources:
    """Finds checkpoints by digest among the given files; the last checkpoint stays loaded."""

    def __init__(self, places: Sequence[Path]) -> None:
        self._places = places
        self._paths: dict[str, Path] | None = None
        self._last: tuple[MadeFrom, Any] | None = None

    def find(self, entry: Entry) -> Any:
        """The checkpoint that an artifact was made from."""
        if self._last is None or self._last[0] != entry.checkpoint:
            self._last = (entry.checkpoint, self._load(entry))
        return self._last[1]

    def _load(self, entry: Entry) -> Any:
        from scrfdconv.converters.checkpoint.loading import load_source

        wanted = entry.checkpoint
        if wanted.sha256 is None:
            found = load_source(str(wanted.model), seed=wanted.seed or 0)
        else:
            path = self._path(wanted.name, wanted.sha256)
            found = self._read(path, wanted)
        if found.weights_digest != wanted.weights_sha256:
            raise InputFileError(
                f"{found.name}: its weights are not those of {entry.path} (sha256 "
                f"{found.weights_digest[:12]}... not {wanted.weights_sha256[:12]}...)."
            )
        return found

    def _read(self, path: Path, wanted: MadeFrom) -> Any:
        """The checkpoint at ``path``, lifted from a file that is no checkpoint."""
        from scrfdconv.converters.checkpoint.loading import load_checkpoint
        from scrfdconv.recipes.artifacts.network import GRAPH, network_in

        if path.suffix not in GRAPH.suffixes:
            return load_checkpoint(path, architecture=wanted.architecture)
        found: Any = network_in(GRAPH.artifact_at(path)).source
        return replace(found, architecture=wanted.architecture)

    def _path(self, name: str, sha256: str) -> Path:
        if self._paths is None:
            self._paths = {digest_of(path): path for path in self._candidates()}
        if sha256 not in self._paths:
            raise InputFileError(
                f"{name}: its checkpoint (sha256 {sha256[:12]}...) is not "
                f"among the {len(self._paths)} files given; name it or its folder with --reference."
            )
        return self._paths[sha256]

    def _candidates(self) -> Iterator[Path]:
        for place in self._places:
            files = sorted(place.rglob("*")) if place.is_dir() else [place]
            yield from (f for f in files if not place.is_dir() or f.suffix in CHECKPOINT_SUFFIXES)
