"""Opened engines: profiles, foreign files, other machines, and everything that must not pass."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from scrfdconv.converters.errors import ArtifactError, MissingError, UsageError
from scrfdconv.converters.formats import formats, open_artifact
from scrfdconv.converters.formats.tensorrt import TensorRTOptions
from scrfdconv.converters.formats.tensorrt.sidecar import read_sidecar, sidecar_path
from scrfdconv.converters.system.permissions import allowing_host_code

TWO = TensorRTOptions(
    min=("1x64x64", "4x64x64"), opt=("1x64x64", "4x64x64"), max=("2x64x96", "8x64x64")
)
IMAGES = np.linspace(-1, 1, 2 * 3 * 64 * 96, dtype=np.float32).reshape(2, 3, 64, 96)


@pytest.fixture
def build(tiny_onnx, tmp_path):
    def build(options=TWO, source=tiny_onnx):
        path = tmp_path / "tiny.engine"
        formats()["tensorrt"].convert(formats()["onnx"].artifact_at(source), path, options, None)
        return path

    return build


@pytest.fixture
def engine(machine, build):
    return build()


def test_outputs_are_found_by_name_whatever_their_order_in_the_engine(machine, build, tiny_onnx):
    machine.reverse_io = True
    path = build()
    want = open_artifact(tiny_onnx).run(IMAGES)

    got = open_artifact(path).run(IMAGES)

    assert list(got) == list(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, atol=1e-6)


def test_the_profile_is_chosen_by_the_shape_of_the_images(engine):
    runner = open_artifact(engine)

    shapes = [
        runner.run(np.ones((n, 3, h, w), np.float32))["score_8"].shape[:2]
        for n, h, w in ((1, 64, 64), (8, 64, 64), (2, 64, 96), (4, 64, 64))
    ]

    assert shapes == [(1, 128), (8, 128), (2, 192), (4, 128)]


@pytest.mark.parametrize("shape", [(3, 64, 96), (9, 64, 64), (1, 128, 64)])
def test_a_shape_of_no_profile_is_refused_with_the_profiles(newest_machine, build, shape):
    runner = open_artifact(build())

    assert not runner.interface.accepts(*shape)
    with pytest.raises(ArtifactError, match=r"no profile takes.*1x64x64 \.\. 1x64x64 \.\. 2x64x96"):
        runner.run(np.zeros((shape[0], 3, *shape[1:]), np.float32))


def test_an_error_in_the_log_fails_the_run_even_if_tensorrt_says_it_is_done(machine, build):
    runner = open_artifact(build())
    machine.run_error = "CuTensor permutate execute failed: invalid resource handle"

    with pytest.raises(ArtifactError, match="CuTensor permutate execute failed"):
        runner.run(IMAGES)


def test_scores_that_are_all_zero_fail(machine, build):
    runner = open_artifact(build())
    machine.zeros = True

    with pytest.raises(ArtifactError, match="every score is exactly 0"):
        runner.run(IMAGES)


def test_a_fixed_model_needs_no_profile(machine, build, tiny, tmp_path):
    from scrfdconv.converters.formats.onnx import OnnxOptions

    fixed = tmp_path / "fixed.onnx"
    formats()["onnx"].convert(tiny, fixed, OnnxOptions(shape=(64, 96), batch=2), None)

    runner = open_artifact(build(TensorRTOptions(), fixed))

    assert machine.built[0]["profiles"] == []
    assert (runner.interface.batch, runner.interface.shape) == (2, (64, 96))
    assert runner.run(IMAGES)["kps_8"].shape == (2, 192, 10)


# ---------------------------------------------------------------- other machines


def test_an_engine_of_another_version_is_refused_before_it_is_loaded(machine, engine):
    with moved_to(machine, version="10.9.0"), pytest.raises(MissingError) as caught:
        open_artifact(engine)

    assert f"was built with TensorRT {read_sidecar(engine).tensorrt}, here is 10.9.0" in str(
        caught.value
    )


def test_a_version_compatible_engine_runs_on_later_versions_only(monkeypatch, machine, build):
    path = build(TensorRTOptions(**SMALL, version_compatible=True))
    built = machine.version

    with moved_to(machine, version="11.9.0"), allowing_host_code():
        assert open_artifact(path).run(IMAGES[:1, :, :, :64])
    with (
        moved_to(machine, version="10.3.0" if built != "10.3.0" else "12.0.0"),
        pytest.raises(MissingError),
    ):
        open_artifact(path)


def test_a_sidecar_does_not_allow_code_of_the_engine_but_the_user_does(newest_machine, build):
    path = build(TensorRTOptions(**SMALL, version_compatible=True))

    with pytest.raises(UsageError, match="--allow-host-code"):
        open_artifact(path)
    with allowing_host_code():
        assert open_artifact(path).run(IMAGES[:1, :, :, :64])


SMALL = {"min": ("1x64x64",), "opt": ("1x64x64",), "max": ("2x64x96",)}


@pytest.mark.parametrize(
    ("hardware", "gpu", "capability", "runs"),
    [
        ("none", "Fake RTX", (8, 6), True),
        ("none", "Other RTX", (8, 6), False),
        ("same-compute-capability", "Other RTX", (8, 6), True),
        ("same-compute-capability", "Other RTX", (8, 9), False),
        ("ampere+", "Hopper", (9, 0), True),
        ("ampere+", "Turing", (7, 5), False),
    ],
)
def test_an_engine_runs_on_the_gpus_that_it_was_declared_for(
    newest_machine, build, hardware, gpu, capability, runs
):
    path = build(TensorRTOptions(**SMALL, hardware=hardware))

    with moved_to(newest_machine, gpu=gpu, capability=capability):
        if runs:
            assert open_artifact(path).precision == "fp32"
        else:
            with pytest.raises(MissingError, match="build it again on this machine"):
                open_artifact(path)


def moved_to(machine, **changes):
    import sys

    return sys.modules["tensorrt_fake"].moved(machine, **changes)


# ---------------------------------------------------------------- files


def test_an_engine_and_a_sidecar_that_do_not_belong_together_are_refused(newest_machine, build):
    path = build()
    with path.open("ab") as file:
        file.write(b"x")

    with pytest.raises(ArtifactError, match="describes another engine"):
        open_artifact(path)


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 99}', "[]", '{"schema": 1}'])
def test_a_damaged_sidecar_is_an_error_of_the_file(newest_machine, build, text):
    path = build()
    sidecar_path(path).write_text(text)

    with pytest.raises(ArtifactError):
        open_artifact(path)


def test_a_damaged_engine_says_what_tensorrt_says(machine, tmp_path):
    path = tmp_path / "broken.engine"
    path.write_bytes(b"ftrt" + bytes(64))

    with pytest.raises(ArtifactError):
        open_artifact(path)


def test_a_foreign_engine_is_taken_for_what_its_layers_and_names_say(machine, build, tiny):
    machine.reverse_io = True
    path = build()
    sidecar_path(path).unlink()

    runner = open_artifact(path)

    assert runner.interface.outputs == tiny.architecture.output_names
    assert runner.precision == "fp32"
    assert len(runner.interface.profiles) == 2


def test_outputs_with_numbers_for_names_are_told_by_their_shapes(
    machine, build, tiny_onnx, tmp_path
):
    model = onnx.load(str(tiny_onnx))
    names = {value.name: str(100 + i) for i, value in enumerate(model.graph.output)}
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in model.graph.output:
        value.doc_string, value.name = value.name, names[value.name]
    numbered = tmp_path / "numbered.onnx"
    onnx.save(model, str(numbered))
    machine.reverse_io = True
    want = open_artifact(tiny_onnx).run(IMAGES)
    path = build(source=numbered)

    with_sidecar = open_artifact(path).run(IMAGES)
    sidecar_path(path).unlink()
    without = open_artifact(path).run(IMAGES)

    for got in (with_sidecar, without):
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, atol=1e-6)


def test_inspect_describes_an_engine_with_and_without_tensorrt(newest_machine, build, monkeypatch):
    from scrfdconv.recipes.describe import facts_of_file

    path = build()

    here = facts_of_file(path)
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    elsewhere = facts_of_file(path)

    json.dumps(here)
    assert here["runs_here"] and here["kind"] == "tensorrt"
    assert not elsewhere["runs_here"]
    assert elsewhere["tensorrt"] == newest_machine.version
