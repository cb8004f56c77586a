"""Folders for the insightface package: ROOT/models/NAME, for FaceAnalysis(name=NAME, root=ROOT).

Every version opens each .onnx of the folder. Later ones (2026) read a manifest of version 2 first:
``tasks.detection`` with file, sha256, mean and std, and a file that must be called MODEL.LICENSE.
Versions up to 0.7.3 take outputs without a batch axis only, later ones both; all of them tell
outputs by their position, and feed one picture, RGB, with one mean and one std. Later ones feed
bytes, too, where the manifest says that the graph normalises them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from scrfdconv.converters.artifact import Artifact, digest_of, replacing
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats import formats, open_artifact
from scrfdconv.converters.normalization import STANDARD
from scrfdconv.converters.options import Option
from scrfdconv.recipes.packs import README, Contents, Pack, PackOptions, write_contents

if TYPE_CHECKING:
    from scrfdconv.checks.reports.outcome import Outcome
    from scrfdconv.checks.results import CheckResult
    from scrfdconv.converters.normalization import Normalization
    from scrfdconv.converters.runner import Outputs
    from scrfdconv.recipes.build.plan import Step

FOLDER = "insightface"  # of a build
MODELS = "models"  # the package looks there, below its root
LICENSE_NAME, MANIFEST = "MODEL.LICENSE", "manifest.json"
LICENSE = {
    "license": "to be filled in by whoever distributes this package",
    "note": "the weights that InsightFace released are for non-commercial research only",
}
OLD = "0.7.3"  # the last version that takes outputs without a batch axis only
_BATCHED_RANK = 3  # outputs with an axis for images
_BYTES = "uint8"


@dataclass(frozen=True, kw_only=True)
class InsightfaceOptions(PackOptions):
    """Which versions of the package must load the folder."""

    versions: Annotated[
        Literal["later", "0.7.3"],
        Option(help="0.7.3: that version and those before it, too; needs --outputs flat."),
    ] = "later"


class Insightface(Pack):
    """A model folder of the insightface package."""

    name = "insightface"
    title = "insightface"
    summary = "A folder for insightface: FaceAnalysis(name=NAME, root=DIR) loads it."
    suffixes = (".onnx",)
    options: ClassVar[type] = InsightfaceOptions

    def home(self, out: Path, name: str) -> Path:
        """Where the package looks below its root."""
        return out / MODELS / name

    def contents(self, source: Artifact, name: str, options: InsightfaceOptions) -> Contents:
        """Model, manifest, license and loading code; UsageError for a model that does not fit."""
        _require_readable(source, options)
        interface = open_artifact(source.path).interface
        wanted = interface.form.normalization(interface.normalization)
        one_value = wanted.color == "rgb" and len({*wanted.mean}) == len({*wanted.std}) == 1
        if interface.form.layout != "nchw" or not one_value:
            raise UsageError(
                f"{source.path}: wants {interface.form.words(interface.normalization)}; "
                "insightface feeds NCHW, RGB, with one mean and one std."
            )
        if options.versions == OLD and wanted != STANDARD:
            raise UsageError(
                f"{source.path}: wants {wanted}, and insightface up to {OLD} feeds {STANDARD}."
            )
        return {
            source.path.name: source.path,
            LICENSE_NAME: _json(LICENSE),
            MANIFEST: _json(_manifest(source, name, wanted)),
            README: _readme(name),
        }

    def results(self, folder: Path, source: Artifact, options: Any) -> Iterator[CheckResult]:
        """Read the packed file by position, as the package does, and compare with our reading."""
        from scrfdconv.checks.consumers import read_by_position, reading_results

        path = folder / source.path.name
        first = formats()[source.format].signature(path).outputs[0]
        batched = len(first.dims) == _BATCHED_RANK

        def read(outputs: Outputs) -> Outputs:
            return read_by_position(list(outputs.values()), batched=batched)

        yield from reading_results(open_artifact(path), read)


def _require_readable(source: Artifact, options: InsightfaceOptions) -> None:
    """Raise UsageError, with what to type, for inputs and outputs that the package misreads."""
    from scrfdconv.checks.consumers import POSITIONS

    signature = formats()[source.format].signature(source.path)
    image, outputs = signature.image, signature.outputs
    ranks = {len(tensor.dims) for tensor in outputs}
    again = f"type scrfdconv {source.format} {source.path} -o NAME{source.path.suffix}"
    if ranks not in ({_BATCHED_RANK - 1}, {_BATCHED_RANK}) or len(outputs) not in POSITIONS:
        raise UsageError(
            f"{source.path}: has other outputs than insightface reads ({outputs[0]} ...): "
            f"{again} --outputs raw, or flat for versions up to {OLD}."
        )
    if options.versions == OLD and ranks == {_BATCHED_RANK}:
        raise UsageError(
            f"{source.path}: its outputs have an axis for images, which insightface up to {OLD} "
            f"misreads: {again} --outputs flat."
        )
    if image.dims[0] not in (None, 1):
        raise UsageError(
            f"{source.path}: has a fixed batch of {image.dims[0]}, and insightface feeds one "
            "picture: convert it without --batch."
        )
    kinds = ["float32"] if options.versions == OLD else ["float32", _BYTES]
    if image.kind not in kinds:
        raise UsageError(
            f"{source.path}: takes {image.kind}, and insightface feeds {' or '.join(kinds)}."
        )


def _manifest(source: Artifact, name: str, wanted: Normalization) -> dict[str, Any]:
    # The package feeds bytes only to models that say so in this word.
    kind = formats()[source.format].signature(source.path).image.kind
    embedded = "embedded" if kind == _BYTES else ""
    return {
        "manifest_version": 2,
        "model_id": name,
        "display_name": name,
        "license": LICENSE_NAME,
        "tasks": {
            "detection": {
                "file": source.path.name,
                "sha256": digest_of(source.path),
                "preprocessing": embedded or {"mean": wanted.mean[0], "std": wanted.std[0]},
                "preprocessing_version": "insightface-scrfd-1",
            }
        },
    }


def _json(content: object) -> str:
    import json  # here, because --help reads only the declaration

    return json.dumps(content, indent=2) + "\n"


def _readme(name: str) -> str:
    return f"""# {name} for insightface

`ROOT` is the folder that has `{MODELS}/{name}`. Fill in {LICENSE_NAME} before you pass this folder
on.

```python
import cv2
from insightface.app import FaceAnalysis

app = FaceAnalysis(name="{name}", root="ROOT", allowed_modules=["detection"])
app.prepare(ctx_id=-1, det_size=(640, 640))
for face in app.get(cv2.imread("photo.jpg")):
    print(face.bbox, face.det_score, face.kps)
```
"""


# ---------------------------------------------------------------- of a build


def package_files(steps: Iterable[Step], out: Path) -> list[Path]:
    """Every file that `write_packages` may write for the steps of a build."""
    kind = Insightface()
    return [
        kind.home(out / FOLDER, step.checkpoint.name) / name
        for step in steps
        if kind.takes(step.target.maker)
        for name in (Path(step.name).name, LICENSE_NAME, MANIFEST, README)
    ]


def write_packages(outcomes: Iterable[Outcome], out: Path) -> Iterator[str]:
    """One folder for each checkpoint with a good ONNX artifact, below ``out``/insightface/models.

    Yields a sentence for each. Networks that want another input than the package feeds get none. A
    license that was filled in stays.
    """
    from scrfdconv.checks.reports.files import make_folder

    kind = Insightface()
    for outcome in _chosen(kind, outcomes):
        source = formats()[outcome.format].artifact_at(out / outcome.name, outcome.precision)
        home = kind.home(out / FOLDER, outcome.checkpoint)
        try:
            contents = kind.contents(source, outcome.checkpoint, InsightfaceOptions())
        except UsageError as error:
            yield f"no package for insightface: {error}"
            continue
        make_folder(home)
        for name, content in contents.items():
            if name != LICENSE_NAME or not (home / name).exists():
                with replacing(home / name) as part:
                    write_contents({name: content}, part.parent)
        yield f"package for insightface: {home}"


def _chosen(kind: Insightface, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """For each checkpoint its float ONNX, the dynamic one first: it takes every det_size."""
    best: dict[str, Outcome] = {}
    for outcome in outcomes:
        loadable = kind.takes(formats()[outcome.format])
        if loadable and outcome.state in ("built", "cached"):
            best.setdefault(outcome.checkpoint, outcome)
            best[outcome.checkpoint] = min(best[outcome.checkpoint], outcome, key=_rank)
    yield from best.values()


def _rank(outcome: Outcome) -> tuple[bool, bool, bool]:
    return outcome.precision != "fp32", outcome.shape != "dynamic", outcome.batch != 1
