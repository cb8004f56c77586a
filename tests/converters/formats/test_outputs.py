"""Outputs as consumers want them: flat matrices, feature maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from scrfdconv.checks.verification import Demand, verify
from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.errors import ArtifactError, UsageError
from scrfdconv.converters.formats import formats, open_artifact
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint, simplified
from scrfdconv.converters.graph.model_file import load_onnx, serialised
from scrfdconv.converters.outputs import rows_of_maps
from scrfdconv.recipes.conversion import convert
from scrfdconv.recipes.target import target_of

SIZE = (64, 96)


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


def written(checkpoint, options: OnnxOptions, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(serialised(onnx_from_checkpoint(checkpoint, options)))
    return path


def raw_run(path: Path, images: np.ndarray) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"input.1": images})


@pytest.mark.parametrize("network", ["tiny", "tiny_gn"])
@pytest.mark.parametrize("shape", [None, SIZE])
@pytest.mark.parametrize("kind", ["flat", "maps"])
def test_shapes_are_declared_as_they_are_and_the_function_is_the_same(
    kind, shape, network, request, tmp_path
):
    checkpoint = request.getfixturevalue(network)
    path = written(checkpoint, OnnxOptions(shape=shape, outputs=kind), tmp_path)
    images = np.random.default_rng(0).standard_normal((1, 3, *SIZE)).astype(np.float32)

    model, values = onnx.load(path), raw_run(path, images)

    a = checkpoint.architecture
    assert [value.name for value in model.graph.output] == list(a.output_names)
    for declared, value in zip(model.graph.output, values, strict=True):
        assert len(dims(declared)) == value.ndim
        assert all(
            isinstance(said, str) or said == real
            for said, real in zip(dims(declared), value.shape, strict=True)
        )
    report = verify(checkpoint, path, Demand(weights=False))
    assert report.passed, report.summary()


def test_flat_has_rows_of_one_image(tiny, tmp_path):
    path = written(tiny, OnnxOptions(outputs="flat"), tmp_path)

    model = onnx.load(path)

    assert dims(model.graph.input[0]) == [1, 3, "height", "width"]
    assert dims(model.graph.output[0]) == ["anchors_8", 1]


def test_flat_has_no_batch(tiny):
    options = OnnxOptions(shape=SIZE, batch=2, outputs="flat")

    with pytest.raises(UsageError, match="has no axis for a batch"):
        onnx_from_checkpoint(tiny, options)


def test_maps_end_without_permutations_and_with_a_true_batch(tiny, tmp_path):
    path = written(tiny, OnnxOptions(shape=SIZE, batch=None, outputs="maps"), tmp_path)

    model = onnx.load(path)

    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"Transpose", "Reshape"}
    shapes = {value.name: dims(value) for value in model.graph.output}
    assert shapes["score_8"] == ["batch", 2, 8, 12]
    assert shapes["bbox_16"] == ["batch", 8, 4, 6]
    assert shapes["kps_32"] == ["batch", 20, 2, 3]
    assert open_artifact(path).metadata["output_kind"] == "maps"


def test_a_file_with_maps_gets_a_size_and_stays_one(tiny, tmp_path):
    path = written(tiny, OnnxOptions(outputs="maps"), tmp_path)

    model = simplified(load_onnx(path), OnnxOptions(shape=SIZE))

    assert dims(model.graph.output[0]) == [1, 2, 8, 12]


def test_outputs_of_a_finished_graph_do_not_change(tiny_onnx):
    with pytest.raises(UsageError, match="chosen where a network is exported"):
        simplified(load_onnx(tiny_onnx), OnnxOptions(outputs="maps"))


def test_maps_become_rows_in_the_order_y_x_anchor():
    boxes = np.arange(2 * 8 * 3 * 4, dtype=np.float32).reshape(2, 8, 3, 4)
    scores = np.arange(2 * 2 * 3 * 4, dtype=np.float32).reshape(2, 2, 3, 4)

    rows = rows_of_maps({"score_8": scores, "bbox_8": boxes})

    assert rows["score_8"].shape == (2, 24, 1)
    y, x, anchor = 1, 2, 1
    assert rows["score_8"][1, (y * 4 + x) * 2 + anchor, 0] == scores[1, anchor, y, x]
    expected = boxes[1, 4 * anchor : 4 * anchor + 4, y, x]
    assert (rows["bbox_8"][1, (y * 4 + x) * 2 + anchor] == expected).all()


def test_maps_of_another_detector_are_refused():
    with pytest.raises(ArtifactError, match="a map of 3 channels"):
        rows_of_maps({"score_8": np.zeros((1, 3, 4, 4)), "bbox_8": np.zeros((1, 8, 4, 4))})


@pytest.mark.parametrize(
    ("format_name", "kind"),
    [
        ("openvino", "flat"),
        ("openvino", "maps"),
        ("ncnn", "maps"),
        ("mnn", "flat"),
        ("mnn", "maps"),
    ],
)
@pytest.mark.parametrize("shape", [None, SIZE])
def test_formats_made_from_onnx_have_the_outputs_that_are_asked_for(
    shape, format_name, kind, tiny, tmp_path
):
    maker = formats()[format_name]
    if missing := maker.why_not_built() or maker.why_not_run():
        pytest.skip(missing)
    target = target_of(format_name, "fp32", {"outputs": kind, "shape": shape})

    made = convert(tiny, target, tmp_path / f"out{maker.suffix}", Demand(weights=False))

    assert isinstance(made.artifact, Artifact)
    assert made.report.passed
