"""A batch that was claimed holds what so many single runs give."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from scrfdconv.checks.batches import batch_results
from scrfdconv.checks.verification import verify_simplified
from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.graph.onnx_runner import OnnxRunner


def with_reshape(checkpoint, shape, batch=None):
    """The export with another constant in the last Reshape of every output."""
    options = OnnxOptions(shape=(64, 96), batch=batch) if batch else OnnxOptions()
    model = onnx_from_checkpoint(checkpoint, options)
    makers = {name: node for node in model.graph.node for name in node.output}
    for value in model.graph.output:
        node = makers[value.name]
        while node.op_type != "Reshape":
            node = makers[node.input[0]]
        tensor = next(t for t in model.graph.initializer if t.name == node.input[1])
        width = int(numpy_helper.to_array(tensor)[-1])
        tensor.CopyFrom(numpy_helper.from_array(np.array([*shape, width]), tensor.name))
        value.type.tensor_type.ClearField("shape")
    return model


def interleaved(model):
    """Rows in the order cell, image, anchor: what a batch does to a graph made for one image."""
    for node in model.graph.node:
        if node.op_type == "Transpose":
            node.attribute[0].CopyFrom(helper.make_attribute("perm", [2, 3, 0, 1]))
    return model


def saved(model, tmp_path):
    onnx.save(model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.mark.parametrize("batch", [None, 3])
def test_an_export_holds_its_batch(batch, tiny, tmp_path):
    options = OnnxOptions(shape=(64, 96), batch=batch) if batch else OnnxOptions()
    path = saved(onnx_from_checkpoint(tiny, options), tmp_path)

    (result,) = batch_results(OnnxRunner(path))

    assert result.passed, result.detail


def test_a_model_for_one_image_is_not_asked(tiny, tmp_path):
    path = saved(onnx_from_checkpoint(tiny, OnnxOptions(shape=(64, 96), batch=1)), tmp_path)

    assert not list(batch_results(OnnxRunner(path)))


def test_rows_of_all_images_in_one_axis_are_refused(tiny, tmp_path):
    runner = OnnxRunner(saved(with_reshape(tiny, (-1,)), tmp_path))

    assert not all(result.passed for result in batch_results(runner))
    with pytest.raises(ArtifactError, match="first axis is no batch"):
        runner.run(np.zeros((4, 3, 64, 96), np.float32))


@pytest.mark.parametrize("shape", [(3, -1), (1, -1)])
def test_images_that_are_mixed_up_in_the_right_shape_fail(shape, tiny, tmp_path):
    path = saved(interleaved(with_reshape(tiny, shape, batch=3)), tmp_path)

    assert not all(result.passed for result in batch_results(OnnxRunner(path)))


def test_simplifying_does_not_take_the_sources_word_for_its_batch(tiny, tmp_path):
    path = saved(interleaved(with_reshape(tiny, (3, -1), batch=3)), tmp_path)

    assert not verify_simplified(path, path).passed
