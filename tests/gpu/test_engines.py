"""The same ground as with the fake, on a real GPU. Run with `pytest -m gpu tests/gpu`.

Until these have run on a machine, nothing in this repository claims that an engine was built.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from scrfdconv.checks.verification import Demand, verify
from scrfdconv.converters.checkpoint.loading import load_source
from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.formats import formats, open_artifact
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.tensorrt import TensorRTOptions
from scrfdconv.converters.formats.tensorrt.sidecar import read_sidecar, sidecar_path
from scrfdconv.recipes.artifacts.conversion import convert, plan_only
from scrfdconv.recipes.artifacts.target import Target

pytestmark = pytest.mark.gpu
SMALL = TensorRTOptions(min=("1x64x64",), opt=("1x320x320",), max=("4x320x640",), level=1)


@pytest.fixture(autouse=True)
def _gpu():
    if missing := formats()["tensorrt"].why_not_built():
        pytest.skip(missing)


def wanted(precision="fp32", options=SMALL, **sizes):
    return Target("tensorrt", precision, (options, OnnxOptions(**sizes)))


def build_engine(source, out, demand, precision="fp32", options=SMALL, images=(), **sizes):
    return convert(source, wanted(precision, options, **sizes), out, demand, images=images)


@pytest.fixture(scope="module")
def source():
    return load_source("scrfd_500m_kps")


@pytest.mark.parametrize("name", ["scrfd_500m_kps", "scrfd_2.5g"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_is_its_checkpoint(tmp_path, name, precision):
    out = tmp_path / "model.engine"

    made = build_engine(load_source(name), out, Demand(weights=False), precision)

    assert made.report.passed, made.report.summary()
    assert made.artifact.precision == precision
    assert read_sidecar(out).plan_sha256 == made.artifact.digest


def test_tf32_keeps_its_own_limits(source, tmp_path):
    out = tmp_path / "model.engine"

    made = build_engine(source, out, Demand(weights=False), options=replace(SMALL, tf32=True))

    assert made.report.passed, made.report.summary()
    assert made.artifact.precision == "tf32"


def test_int8_is_audited_and_verified(source, tmp_path, data):
    images = tuple(sorted(data.rglob("*.jpg")))[:32]
    if not images:
        pytest.skip("no photographs to calibrate on")
    out = tmp_path / "model.engine"

    made = build_engine(
        source,
        out,
        Demand(images[:4]),
        "int8",
        options=TensorRTOptions(),
        images=images,
        shape=(640, 640),
    )

    assert made.report.passed, made.report.summary()


def test_two_profiles_a_fixed_shape_and_foreign_engines_run(source, tmp_path):
    two = replace(
        SMALL, min=("1x64x64", "8x64x64"), opt=("1x64x64", "8x64x64"), max=("1x64x96", "8x96x96")
    )
    dynamic, fixed = tmp_path / "two.engine", tmp_path / "fixed.engine"
    build_engine(source, dynamic, None, options=two)
    demand = Demand(weights=False)
    build_engine(source, fixed, demand, options=TensorRTOptions(), shape=(64, 96), batch=2)
    sidecar_path(dynamic).unlink()  # now it is a foreign one

    runner = open_artifact(dynamic)

    assert runner.interface.outputs == source.architecture.output_names
    assert len(runner.interface.profiles) == 2
    for n, h, w in ((1, 64, 96), (8, 96, 96), (1, 64, 64)):
        assert runner.run(np.ones((n, 3, h, w), np.float32))["score_8"].shape[0] == n
    with pytest.raises(ArtifactError, match="no profile takes"):
        runner.run(np.ones((2, 3, 64, 64), np.float32))
    assert verify(source, dynamic, Demand(weights=False)).passed


def test_the_timing_cache_makes_the_second_build_faster(source, tmp_path):
    cache = tmp_path / "timing.cache"
    options = replace(SMALL, level=3, timing_cache=cache)
    seconds = []
    for _ in range(2):
        began = time.monotonic()
        build_engine(source, tmp_path / "m.engine", None, options=options)
        seconds.append(time.monotonic() - began)

    assert cache.stat().st_size > 0
    assert seconds[1] < seconds[0]


def test_ctrl_c_cancels_a_build(source, tmp_path):
    main = threading.main_thread().ident
    begun = threading.Timer(1.0, signal.pthread_kill, (main, signal.SIGINT))  # it takes longer

    begun.start()
    with pytest.raises(KeyboardInterrupt):
        build_engine(source, tmp_path / "m.engine", None, options=replace(SMALL, level=5))

    assert [p.name for p in tmp_path.iterdir()] == []


def test_parser_errors_name_the_node(tiny_onnx, tmp_path):
    import onnx

    model = onnx.load(str(tiny_onnx))
    model.graph.node[0].op_type = "NoSuchOperator"
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(model.SerializeToString())

    with pytest.raises(ArtifactError, match="NoSuchOperator"):
        formats()["tensorrt"].convert(
            formats()["onnx"].artifact_at(broken), tmp_path / "m.engine", SMALL, None
        )


def test_a_damaged_engine_is_refused(source, tmp_path):
    out = tmp_path / "m.engine"
    build_engine(source, out, None)
    sidecar_path(out).unlink()
    out.write_bytes(out.read_bytes()[:-1000])

    with pytest.raises(ArtifactError):
        open_artifact(out)


@pytest.mark.skipif(shutil.which("trtexec") is None, reason="trtexec is not on the PATH")
def test_the_script_builds_an_engine_that_is_the_checkpoint(source, tmp_path):
    planned = plan_only(source, wanted("fp16"), tmp_path / "m.engine", None)

    script = planned.instructions.facts["script"]
    subprocess.run([script], check=True, timeout=500)

    report = verify(source, tmp_path / "m.engine", Demand(weights=False))
    assert report.passed, report.summary()


def test_the_command_line_builds_and_trtexec_loads(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "scrfdconv.cli", "tensorrt", "--shape", "64", "64", "--json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=500, env=os.environ, check=False,
    )  # fmt: skip

    content = json.loads(done.stdout)
    assert done.returncode == 0, content
    if shutil.which("trtexec"):
        engine = tmp_path / content["path"]
        subprocess.run(["trtexec", f"--loadEngine={engine}"], check=True, timeout=100)
