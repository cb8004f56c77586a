"""Engines, built with a strict fake of each TensorRT version and run on the CPU."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import numpy as np
import pytest

from scrfdconv.checks.verification import Demand, verify
from scrfdconv.converters.errors import ArtifactError, InputFileError, MissingError
from scrfdconv.converters.formats import formats, open_artifact
from scrfdconv.converters.formats.tensorrt import TensorRTOptions
from scrfdconv.converters.formats.tensorrt.engine_file import engine_plan
from scrfdconv.converters.formats.tensorrt.sidecar import read_sidecar, sidecar_path

SMALL = TensorRTOptions(min=("1x64x64",), opt=("1x64x96",), max=("3x96x128",))


@pytest.fixture
def onnx(tiny_onnx):
    return formats()["onnx"].artifact_at(tiny_onnx)


@pytest.fixture
def build(onnx, tmp_path):
    """build(options, verify) -> the engine's path."""

    def build(options=SMALL, verify=None, name="tiny.engine"):
        formats()["tensorrt"].convert(onnx, tmp_path / name, options, verify)
        return tmp_path / name

    return build


def test_an_engine_gives_the_numbers_of_its_checkpoint(machine, build, tiny):
    path = build(verify=lambda part: None)

    report = verify(tiny, path, Demand(weights=False))

    assert report.passed, report.summary()
    assert machine.built[0]["typed"]


def test_every_profile_is_measured_at_min_opt_and_max(newest_machine, build):
    options = replace(
        SMALL, min=("1x64x64", "4x64x64"), opt=("1x64x96", "4x64x64"), max=("3x96x128", "4x64x96")
    )

    interface = open_artifact(build(options)).interface

    assert interface.measured_at == (
        (1, 64, 96), (1, 64, 64), (3, 96, 128), (4, 64, 64), (4, 64, 96),
    )  # fmt: skip


def test_a_wrong_batch_slot_fails_verification(newest_machine, build, tiny):
    path = build()
    newest_machine.bad_slot = 2

    report = verify(tiny, path, Demand(weights=False))

    assert not report.passed
    assert any("slot 2" in result.detail for result in report.failures)


def test_tf32_is_off_unless_asked_for_and_recorded(machine, build):
    tf32 = machine.trt.BuilderFlag.TF32.value

    plain = build()
    fast = build(replace(SMALL, tf32=True), name="fast.engine")

    assert tf32 not in machine.built[0]["flags"]
    assert tf32 in machine.built[1]["flags"]
    assert read_sidecar(plain).precision == "fp32"
    assert read_sidecar(fast).precision == "tf32"
    assert open_artifact(fast).precision == "tf32"


def test_options_arrive_at_the_builder_by_symbol(machine, build):
    flags = machine.trt.BuilderFlag
    options = replace(
        SMALL, workspace=512, level=4, version_compatible=True, hardware="ampere+", refit=True,
    )  # fmt: skip

    build(options)

    built = machine.built[0]
    assert {flags.VERSION_COMPATIBLE.value, flags.REFIT.value} == set(built["flags"])
    assert built["pools"] == {"WORKSPACE": 512 << 20}
    assert built["values"]["builder_optimization_level"] == 4
    assert built["values"]["hardware_compatibility_level"].name == "AMPERE_PLUS"
    assert built["values"]["profiling_verbosity"].name == "DETAILED"


def test_a_stripped_plan_says_that_it_cannot_run(machine, build):
    path = build(replace(SMALL, strip_plan=True))

    assert machine.trt.BuilderFlag.STRIP_PLAN.value in machine.built[0]["flags"]
    with pytest.raises(ArtifactError, match="no weights"):
        open_artifact(path)


def test_a_name_that_a_version_lacks_is_refused_with_the_version(machine, build):
    options = replace(SMALL, hardware="same-compute-capability")

    if machine.version == "10.3.0":
        with pytest.raises(MissingError, match=r"needs TensorRT 10.16 or later; this is 10.3.0"):
            build(options)
    else:
        build(options)
        level = machine.built[0]["values"]["hardware_compatibility_level"]
        assert level.name == "SAME_COMPUTE_CAPABILITY"


def test_all_parser_errors_are_shown_with_nodes_and_what_can_be_done(machine, build, tmp_path):
    machine.parser_faults = [
        ("Resize", "/neck/Resize", "Assertion failed: scales.is_weights()"),
        ("Foo", "/head/Foo", "No importer registered for op: Foo."),
    ]

    with pytest.raises(ArtifactError) as caught:
        build()

    text = str(caught.value)
    assert "'/neck/Resize' (Resize): Assertion failed" in text
    assert "--opset 13" in text
    assert "'/head/Foo' (Foo): No importer registered" in text
    assert list(tmp_path.iterdir()) == []


def test_no_engine_raises_with_what_tensorrt_said(machine, build, tmp_path):
    machine.refuses = "Error Code 10: Could not find any implementation for node {ForeignNode}."

    with pytest.raises(ArtifactError, match="Could not find any implementation for node"):
        build()

    assert list(tmp_path.iterdir()) == []


def test_a_dynamic_model_gets_default_profiles_that_fit_into_memory(newest_machine, onnx):
    newest_machine.free = 1 << 40
    plan = engine_plan(onnx, TensorRTOptions(level=1))  # host memory bounds it, too

    assert plan.profiles[0].min == (1, 320, 320)
    assert plan.profiles[0].opt == (1, 640, 640)

    newest_machine.free = 1 << 20
    small = engine_plan(onnx, TensorRTOptions(level=2))

    assert small.profiles[0].max == (1, 640, 640)


def test_without_tensorrt_nothing_is_built(monkeypatch, build, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)

    with pytest.raises(MissingError, match="--plan-only"):
        build()

    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- cancellation


def test_ctrl_c_cancels_the_build_and_leaves_the_old_engine(machine, build, tmp_path):
    path = build()
    before = path.read_bytes(), sidecar_path(path).read_bytes()
    main = threading.main_thread().ident
    machine.steps.clear()
    machine.during_build = lambda: _interrupt(main, machine)

    with pytest.raises(KeyboardInterrupt):
        build()

    assert (path.read_bytes(), sidecar_path(path).read_bytes()) == before
    assert len(machine.steps) < 5  # it did not run to its end
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.engine", "tiny.engine.json"]


def _interrupt(main, machine):
    import signal
    import time

    if len(machine.steps) == 1:
        signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.5)  # until the main thread noticed


# ---------------------------------------------------------------- timing cache


def test_a_timing_cache_is_created_and_added_to(machine, build, tmp_path):
    cache = tmp_path / "timing.cache"
    options = replace(SMALL, timing_cache=cache)

    build(options)
    first = cache.read_bytes()
    build(options)

    assert first.startswith(b"FAKECACHE")
    assert cache.read_bytes() == first


def test_a_build_keeps_what_another_one_measured_meanwhile(newest_machine, build, tmp_path):
    cache = tmp_path / "timing.cache"
    owner = f"{newest_machine.gpu} {newest_machine.version}"

    def other():
        content = {"owner": owner, "keys": ["measured elsewhere"]}
        cache.write_bytes(b"FAKECACHE" + json.dumps(content).encode())

    newest_machine.during_build = other
    build(replace(SMALL, timing_cache=cache))

    keys = json.loads(cache.read_bytes()[9:])["keys"]
    assert "measured elsewhere" in keys
    assert len(keys) == 2


@pytest.mark.parametrize("content", [b"rubbish", b'FAKECACHE{"owner": "other", "keys": []}'])
def test_a_foreign_timing_cache_is_refused_and_kept(machine, build, tmp_path, content):
    cache = tmp_path / "timing.cache"
    cache.write_bytes(content)

    with pytest.raises(InputFileError, match="no timing cache of this TensorRT and GPU"):
        build(replace(SMALL, timing_cache=cache))

    assert cache.read_bytes() == content


# ---------------------------------------------------------------- sidecar


def test_the_sidecar_tells_where_and_how_it_was_built(machine, build, onnx):
    path = build()

    sidecar = read_sidecar(path)

    assert sidecar.tensorrt == machine.version
    assert (sidecar.gpu, sidecar.compute_capability) == ("Fake RTX", "8.6")
    assert sidecar.driver == "580.65"
    assert sidecar.onnx_sha256 == onnx.digest
    assert sidecar.options["min"] == ["1x64x64"]
    assert sidecar.convolutions.keys() == {"fp32"}
    assert path.read_bytes().startswith(b"ftrt")  # nothing is prepended to the plan


def test_a_failed_verification_leaves_nothing_under_the_final_names(
    newest_machine, build, tmp_path
):
    seen = []

    def refuse(part):
        seen.append(open_artifact(part).precision)  # the sidecar is there already
        raise ArtifactError("no")

    with pytest.raises(ArtifactError):
        build(verify=refuse)

    assert seen == ["fp32"]
    assert list(tmp_path.iterdir()) == []


def test_numbers_come_out_of_the_runner_in_canonical_names(newest_machine, build, tiny):
    runner = open_artifact(build())

    outputs = runner.run(np.zeros((2, 3, 64, 96), np.float32))

    assert tuple(outputs) == tiny.architecture.output_names
    assert outputs["bbox_8"].shape == (2, 2 * 8 * 12, 4)
