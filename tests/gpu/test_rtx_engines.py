"""TensorRT for RTX on a real GPU: what is built without one runs there. `pytest -m gpu tests/gpu`.

Until these have run on a machine, nothing in this repository claims that such an engine computes.
"""

from __future__ import annotations

import numpy as np
import pytest

from scrfdconv.checks.verification import Demand, verify
from scrfdconv.converters.checkpoint.loading import load_source
from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.formats import formats, open_artifact
from scrfdconv.converters.formats.tensorrt.sidecar import sidecar_path
from scrfdconv.recipes.artifacts.conversion import convert
from scrfdconv.recipes.artifacts.target import target_of

pytestmark = pytest.mark.gpu
FIXED = {"shape": (320, 320)}
DYNAMIC = {"min": ("1x64x64",), "opt": ("1x320x320",), "max": ("4x320x640",)}


@pytest.fixture(autouse=True)
def _gpu():
    if missing := formats()["tensorrt-rtx"].why_not_run():
        pytest.skip(missing)


@pytest.fixture(scope="module")
def source():
    return load_source("scrfd_500m_kps")


def engine_of(source, out, precision, images=(), **options):
    target = target_of("tensorrt-rtx", precision, options)
    return convert(source, target, out, Demand(images[:4], weights=False), images=images)


@pytest.mark.parametrize("options", [FIXED, DYNAMIC], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_is_its_checkpoint(precision, options, source, tmp_path):
    made = engine_of(source, tmp_path / "m.engine", precision, **options)

    assert made.not_run == ""
    assert made.report.passed, made.report.summary()
    assert any(r.check == "parity" and r.metric == "max_abs" for r in made.report.results)
    assert made.artifact.precision == precision


def test_int8_is_verified_on_photographs(source, data, tmp_path):
    images = tuple(sorted((data / "images/calibration").iterdir()))
    trained = load_source(str(data / "checkpoints/scrfd_500m_bnkps.pth"))

    made = engine_of(trained, tmp_path / "m.engine", "int8", images, shape=(640, 640))

    assert made.report.passed, made.report.summary()
    assert {"recall", "precision"} <= {r.metric for r in made.report.results}


def test_the_engine_says_what_it_computes_in(source, tmp_path):
    out = tmp_path / "m.engine"
    engine_of(source, out, "fp16", **FIXED)

    said = formats()["tensorrt-rtx"].describe(out)

    assert said["runs_here"] is True
    found = said["engine_convolutions"]
    # Convolutions that would leave FP16's range stay float32.
    assert found.get("fp16", 0) > found.get("fp32", 0)


def test_an_engine_without_its_sidecar_is_a_foreign_one_that_runs(source, tmp_path):
    out = tmp_path / "m.engine"
    engine_of(source, out, "fp32", **DYNAMIC)
    sidecar_path(out).unlink()

    runner = open_artifact(out)

    assert runner.interface.outputs == source.architecture.output_names
    assert verify(source, out, Demand(weights=False)).passed
    with pytest.raises(ArtifactError, match="no profile takes"):
        runner.run(np.ones((8, 3, 64, 64), np.float32))


def test_a_damaged_engine_is_refused(source, tmp_path):
    out = tmp_path / "m.engine"
    engine_of(source, out, "fp32", **FIXED)
    sidecar_path(out).unlink()
    out.write_bytes(out.read_bytes()[:-1000])

    with pytest.raises(ArtifactError):
        open_artifact(out)
