"""Model packages for the insightface package: a folder with a manifest of its version 2.

The package reads (python-package, 2026): ``tasks.detection`` with file, sha256 and mean and std of
the pre-processing, and a file that must be called MODEL.LICENSE. The package refuses FP16 inputs;
the inputs here are float32 in every precision.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from scrfdconv.checks.reports.outcome import Outcome
from scrfdconv.converters.artifact import replacing
from scrfdconv.converters.formats import formats, open_artifact
from scrfdconv.converters.input_form import PLAIN
from scrfdconv.converters.normalization import Normalization

FOLDER = "insightface"
LICENSE_NAME = "MODEL.LICENSE"
LICENSE = {
    "license": "to be filled in by whoever distributes this package",
    "note": "the weights that InsightFace released are for non-commercial research only",
}


def write_packages(outcomes: Iterable[Outcome], out: Path) -> Iterator[str]:
    """One package for each checkpoint with a good ONNX artifact, below ``out``/insightface.

    Yields a sentence for each. The package feeds RGB with one mean and one std: networks that want
    another input get none.
    """
    for outcome in _chosen(outcomes):
        interface = open_artifact(out / outcome.name).interface
        wanted = interface.normalization
        if interface.form != PLAIN:
            form = interface.form.words(wanted)
            yield f"no package for insightface: {outcome.checkpoint} takes {form}"
        elif wanted.color == "rgb" and len({*wanted.mean}) == len({*wanted.std}) == 1:
            yield f"package for insightface: {_write(outcome, out, wanted)}"
        else:
            yield f"no package for insightface: {outcome.checkpoint} wants {wanted}"


def _chosen(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """For each checkpoint its float ONNX, the dynamic one first: it takes every det_size."""
    best: dict[str, Outcome] = {}
    for outcome in outcomes:
        # The package loads ONNX: the one format whose files are simplified from themselves.
        loadable = formats()[outcome.format].from_itself
        if loadable and outcome.state in ("built", "cached"):
            best.setdefault(outcome.checkpoint, outcome)
            best[outcome.checkpoint] = min(best[outcome.checkpoint], outcome, key=_rank)
    yield from best.values()


def _rank(outcome: Outcome) -> tuple[bool, bool, bool]:
    return outcome.precision != "fp32", outcome.shape != "dynamic", outcome.batch != 1


def _write(outcome: Outcome, out: Path, wanted: Normalization) -> Path:
    folder = out / FOLDER / outcome.checkpoint
    folder.mkdir(parents=True, exist_ok=True)
    model = Path(outcome.name).name
    with replacing(folder / model) as part:
        shutil.copyfile(out / outcome.name, part)
    manifest = {
        "manifest_version": 2,
        "model_id": outcome.checkpoint,
        "display_name": outcome.checkpoint,
        "license": LICENSE_NAME,
        "tasks": {
            "detection": {
                "file": model,
                "sha256": outcome.sha256,
                "preprocessing": {"mean": wanted.mean[0], "std": wanted.std[0]},
                "preprocessing_version": "insightface-scrfd-1",
            }
        },
    }
    if not (folder / LICENSE_NAME).exists():  # a license that was filled in must not be overwritten
        _write_json(folder / LICENSE_NAME, LICENSE)
    _write_json(folder / "manifest.json", manifest)
    return folder


def _write_json(path: Path, content: object) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
