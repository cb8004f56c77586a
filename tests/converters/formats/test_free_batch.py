"""A fixed size with a free batch, and the proof that the batch is a true one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from scrfdconv.checks.batches import batch_results
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats import formats, open_artifact
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint, simplified
from scrfdconv.converters.graph.model_file import load_onnx, serialised
from scrfdconv.converters.options import SizeOptions
from scrfdconv.recipes.artifacts.target import target_of

SIZE = (64, 96)
FREE = OnnxOptions(shape=SIZE, batch=None)


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("network", ["tiny", "tiny_gn"])
def test_the_size_is_fixed_and_the_batch_is_free(network, request, tmp_path):
    checkpoint = request.getfixturevalue(network)
    path = tmp_path / "free.onnx"
    path.write_bytes(serialised(onnx_from_checkpoint(checkpoint, FREE)))

    model = onnx.load(path)
    interface = open_artifact(path).interface
    assert dims(model.graph.input[0]) == ["batch", 3, *SIZE]
    assert dims(model.graph.output[0]) == ["batch", 192, 1]
    assert (interface.batch, interface.shape) == (None, SIZE)


def test_a_claimed_batch_is_measured_against_single_runs(tiny, tmp_path):
    path = tmp_path / "free.onnx"
    path.write_bytes(serialised(onnx_from_checkpoint(tiny, FREE)))

    (result,) = batch_results(open_artifact(path))

    assert result.passed
    assert "2 images of 64x96 in one run and one by one" in result.detail


def test_a_renamed_axis_is_no_batch(tiny, tmp_path):
    model = onnx_from_checkpoint(tiny, OnnxOptions(shape=SIZE))
    shape = next(t for t in model.graph.initializer if t.name.endswith("shape"))
    rows = onnx.numpy_helper.from_array(np.array([1, -1, 1]), shape.name)
    shape.CopyFrom(rows)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    (tmp_path / "renamed.onnx").write_bytes(model.SerializeToString())

    (result,) = batch_results(open_artifact(tmp_path / "renamed.onnx"))

    assert not result.passed


def test_a_dynamic_file_gets_a_size_and_keeps_its_batch(tiny_onnx):
    model = simplified(load_onnx(tiny_onnx), FREE)

    assert dims(model.graph.input[0]) == ["batch", 3, *SIZE]
    said = {p.key: p.value for p in model.metadata_props}
    assert (said["scrfdconv.shape"], said["scrfdconv.batch"]) == ("64x96", "dynamic")


def test_a_fixed_batch_does_not_become_a_free_one_by_its_name(tiny):
    model = onnx_from_checkpoint(tiny, OnnxOptions(shape=SIZE))

    with pytest.raises(UsageError, match="batch is fixed to 1 and cannot become dynamic"):
        simplified(model, FREE)


def test_torchscript_takes_any_batch_of_one_size(tiny, tmp_path):
    path = tmp_path / "free.pt"
    options = SizeOptions(shape=SIZE, batch=None)
    formats()["torchscript"].build(tiny, options, path, "fp32")

    runner = open_artifact(path)

    assert (runner.interface.batch, runner.interface.shape) == (None, SIZE)
    assert runner.run(np.zeros((3, 3, *SIZE)))["score_8"].shape == (3, 192, 1)
    with pytest.raises(Exception, match="must have the shape"):
        runner.run(np.zeros((1, 3, 64, 64)))


def test_a_free_batch_without_a_size_is_the_dynamic_model():
    assert target_of("onnx", "fp32", {"batch": None}) == target_of("onnx")
