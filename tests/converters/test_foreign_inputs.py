"""Files that begin with operators before the network: opened, run and quantized as they are."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest

from scrfdconv.checks.stimuli import stimuli
from scrfdconv.converters.errors import ArtifactError, UsageError
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.normalization import STANDARD, NormalizationOptions

FOREIGN = runpy.run_path(str(Path(__file__).parents[1] / "fakes" / "prefaced.py"))
BYTES, NHWC, PREFACES, prefaced = (FOREIGN[n] for n in ("BYTES", "NHWC", "PREFACES", "prefaced"))
IMAGES = STANDARD.whole_bytes(stimuli(2, 64, 96, 0))
ROUNDED = 1e-5  # of float32, on the way from pixels back to what the network wants


@pytest.mark.parametrize("kind", PREFACES)
def test_the_same_pictures_give_the_same_outputs(tiny_onnx, tmp_path, kind):
    want = OnnxRunner(tiny_onnx).run(IMAGES)

    runner = OnnxRunner(prefaced(tiny_onnx, tmp_path / "foreign.onnx", kind))

    assert runner.interface.form.type == ("uint8" if kind in BYTES else "float")
    assert runner.interface.form.layout == ("nhwc" if kind in NHWC else "nchw")
    got = runner.run(IMAGES)
    for name, values in want.items():
        np.testing.assert_allclose(got[name], values, atol=ROUNDED)


@pytest.mark.parametrize("kind", ["bytes", "frame", "transpose first"])
def test_a_fixed_size_is_that_of_the_picture(tiny_onnx, tmp_path, kind):
    path = prefaced(tiny_onnx, tmp_path / "foreign.onnx", kind)
    model = onnx.load(path)
    sizes = (2, 64, 96, 3) if kind in NHWC else (2, 3, 64, 96)
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, sizes, strict=True):
        dim.dim_value = size
    onnx.save(model, path)

    interface = OnnxRunner(path).interface

    assert (interface.batch, interface.shape, interface.channels) == (2, (64, 96), 3)


def test_metadata_that_another_tool_copied_are_not_believed(tiny_onnx, tmp_path):
    path = prefaced(tiny_onnx, tmp_path / "foreign.onnx", "frame", metadata=True)

    assert OnnxRunner(path).interface.form.layout == "nhwc"


def test_an_order_of_channels_that_no_graph_shows_is_said_by_the_user(tiny_onnx, tmp_path):
    """Of a network that was trained on BGR, whose graph exchanges nothing."""
    runner = OnnxRunner(prefaced(tiny_onnx, tmp_path / "foreign.onnx", "bytes"))
    want = runner.run(np.ascontiguousarray(IMAGES[:, ::-1]))

    runner.state(NormalizationOptions(color="bgr"), "foreign.onnx")

    np.testing.assert_array_equal(runner.run(IMAGES)["bbox_8"], want["bbox_8"])


def test_a_normalisation_beside_that_of_the_graph_is_refused(tiny_onnx, tmp_path):
    runner = OnnxRunner(prefaced(tiny_onnx, tmp_path / "foreign.onnx", "bytes"))

    with pytest.raises(UsageError, match="--std: the graph of foreign"):
        runner.state(NormalizationOptions(std=(1.0, 1.0, 1.0)), "foreign.onnx")


def test_operators_that_are_no_scale_are_named(tiny_onnx, tmp_path):
    path = prefaced(tiny_onnx, tmp_path / "foreign.onnx", "frame")
    model = onnx.load(path)
    for node in model.graph.node:
        if node.name == "Sub":
            node.input[1] = node.input[0]  # everything becomes zero
    onnx.save(model, path)

    with pytest.raises(ArtifactError, match="Cast, Transpose, Gather, Sub, Mul"):
        OnnxRunner(path)
