"""Names of outputs come from shapes, from names that are ours, and only then from position."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from scrfdconv.checks.stimuli import stimuli
from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.outputs import (
    named_by_name,
    named_by_position,
    named_by_shape,
    require_rows,
)

ROWS = {8: 12800, 16: 3200, 32: 800}  # of 640x640
OURS = tuple(f"{kind}_{stride}" for kind in ("score", "bbox", "kps") for stride in ROWS)
SIZE = (640, 640)


def shape(name, kps=10, batch=True):
    kind, _, stride = name.partition("_")
    rows = (ROWS[int(stride)], {"score": 1, "bbox": 4, "kps": kps}[kind])
    return (1, *rows) if batch else rows


INTERLEAVED = tuple(OURS[i] for i in (0, 3, 6, 1, 4, 7, 2, 5, 8))
ORDERS = {
    "ours": OURS,
    "interleaved": INTERLEAVED,
    "backwards": OURS[::-1],
    "without keypoints": OURS[:6],
    "boxes first": (*OURS[3:6], *OURS[:3]),
}


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("kps", [2, 8, 10, 212])
@pytest.mark.parametrize("order", ORDERS)
def test_any_order_is_named_by_shape(order, kps, batch):
    found = named_by_shape([shape(name, kps, batch) for name in ORDERS[order]], SIZE)

    assert found.names == ORDERS[order]
    assert not found.remark


def test_an_extra_map_has_no_name():
    shapes = [shape(name) for name in INTERLEAVED]

    found = named_by_shape([*shapes, (1, 16, 320, 320)], SIZE)

    assert found.names == (*INTERLEAVED, None)


def test_kinds_of_equal_width_are_told_apart_by_position_and_that_is_said():
    found = named_by_shape([shape(name, kps=4) for name in OURS], SIZE)

    assert found.names == OURS
    assert "position" in found.remark


@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 2, 80, 80)] * 9,
        [(1, 1000)] * 6,
        [(1, 12801, 1), (1, 12801, 4)] * 3,
        [(1, 12800, 1), (1, 3200, 1), (1, 800, 1)],
        [],
    ],
)
def test_shapes_of_no_grid_name_nothing(shapes):
    assert named_by_shape(shapes, SIZE) is None


def test_our_names_stand_whatever_is_beside_them():
    assert named_by_name([*OURS, "288"]).names == (*OURS, None)
    assert named_by_name(OURS[:4]).names == OURS[:4]  # verified to be too few, not renamed
    assert named_by_name(["443", "446"]) is None


def test_position_is_a_guess_and_says_so():
    assert "position" in named_by_position([str(i) for i in range(9)], Path("m")).remark
    with pytest.raises(ArtifactError, match="it has 7 outputs"):
        named_by_position([str(i) for i in range(7)], Path("m"))


def maps(anchors=2, classes=1, points=5, strides=(8, 16, 32)):
    widths = (classes, 4, 2 * points)
    used = widths if points else widths[:2]
    return [(1, anchors * width, 640 // s, 960 // s) for width in used for s in strides]


@pytest.mark.parametrize(
    "network",
    [
        {},
        {"anchors": 1},
        {"anchors": 3},
        {"points": 0},
        {"anchors": 1, "points": 4},
        {"strides": (8, 16, 32, 64)},
    ],
)
@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_maps_are_named_by_shape_in_any_order(order, network):
    strides = network.get("strides", (8, 16, 32))
    kinds = ("score", "bbox", "kps")[: 2 + (network.get("points") != 0)]
    names = [f"{kind}_{stride}" for kind in kinds for stride in strides]

    found = named_by_shape(maps(**network)[order], (640, 960))

    assert list(found.names) == names[order]


def test_a_map_of_a_backbone_beside_others_has_no_name():
    found = named_by_shape([*maps(), (1, 64, 20, 30), (1, 64, 5, 5)], (640, 960))

    assert found.names == (*OURS, None, None)


def test_maps_of_no_kind_are_no_scores():
    shapes = [(1, 80, 80, 2), (1, 80, 80, 8)]  # channels last

    assert named_by_shape(shapes, (640, 640)) is None
    with pytest.raises(ArtifactError, match="maps of no known kind"):
        require_rows(["a", "b"], shapes, Path("m"))


@pytest.mark.parametrize("kind", [(), (1, 64, 96)])
def test_a_file_of_maps_with_numbers_for_names_is_that_network(kind, tiny, tiny_onnx, tmp_path):
    options = OnnxOptions(outputs="maps", shape=kind[1:] or None)
    model = onnx_from_checkpoint(tiny, options)
    del model.metadata_props[:]
    numbers = {value.name: str(400 + 3 * i) for i, value in enumerate(model.graph.output)}
    for node in model.graph.node:
        node.input[:] = [numbers.get(name, name) for name in node.input]
        node.output[:] = [numbers.get(name, name) for name in node.output]
    for value in model.graph.output:
        value.name = numbers[value.name]
        del value.type.tensor_type.shape.dim[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    images = stimuli(1, 64, 96, 0)

    runner = OnnxRunner(tmp_path / "foreign.onnx")

    assert not runner.remark
    got = runner.run(images)
    for name, values in OnnxRunner(tiny_onnx).run(images).items():
        np.testing.assert_allclose(got[name], values, atol=1e-5)


def test_a_dynamic_file_with_numbers_for_names_is_asked_by_a_run(tiny_onnx, tmp_path):
    model = onnx.load(tiny_onnx)
    outputs = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in model.graph.output]
    del model.graph.output[:]
    model.graph.output.extend(outputs[i] for i in (0, 3, 6, 1, 4, 7, 2, 5, 8))
    numbers = {value.name: str(i) for i, value in enumerate(model.graph.output)}
    for node in model.graph.node:
        node.input[:] = [numbers.get(name, name) for name in node.input]
        node.output[:] = [numbers.get(name, name) for name in node.output]
    for value in model.graph.output:
        value.name = numbers[value.name]
        value.type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "numbers.onnx")

    runner = OnnxRunner(tmp_path / "numbers.onnx")

    assert runner.interface.outputs == INTERLEAVED
    assert not runner.remark
