"""Outputs as consumers want them: flat matrices, feature maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from scrfdconv.checks.faces.in_graph import in_graph_results
from scrfdconv.checks.stimuli import stimuli
from scrfdconv.checks.verification import Demand, verify
from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.errors import ArtifactError, UsageError
from scrfdconv.converters.formats import formats, open_artifact
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint, simplified
from scrfdconv.converters.graph.model_file import load_onnx, serialised
from scrfdconv.converters.outputs import rows_of_maps
from scrfdconv.recipes.artifacts.conversion import convert
from scrfdconv.recipes.artifacts.target import target_of

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
@pytest.mark.parametrize("shape", [pytest.param(None, marks=pytest.mark.slow), SIZE])
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
@pytest.mark.parametrize("shape", [pytest.param(None, marks=pytest.mark.slow), SIZE])
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


# ---------------------------------------------------------------- faces


FACES = OnnxOptions(shape=SIZE, batch=None, outputs="faces", max_faces=7)


def in_graph(report) -> dict[tuple[str, str], float]:
    return {
        (result.subject, result.metric): result.measured
        for result in report.results
        if result.check == "faces in the graph"
    }


@pytest.mark.parametrize("network", ["tiny", "tiny_gn"])
@pytest.mark.parametrize("shape", [pytest.param(None, marks=pytest.mark.slow), SIZE])
def test_a_graph_that_ends_with_faces_finds_those_of_our_decoder(shape, network, request, tmp_path):
    checkpoint = request.getfixturevalue(network)
    path = written(checkpoint, OnnxOptions(shape=shape, outputs="faces"), tmp_path)

    report = verify(checkpoint, path, Demand(weights=False))

    assert report.passed, report.summary()
    found = in_graph(report)
    assert found["faces", "compared"] > 50
    assert found["faces", "faults"] == 0
    assert found["positions", "max_abs"] < 1e-3


def test_faces_have_the_declared_shapes_and_zeros_where_there_is_none(tiny, tmp_path):
    path = written(tiny, FACES, tmp_path)
    images = np.random.default_rng(0).standard_normal((2, 3, *SIZE)).astype(np.float32)

    model, values = onnx.load(path), raw_run(path, images)

    names = [value.name for value in model.graph.output]
    assert names == ["boxes", "scores", "keypoints", "labels", "count"]
    assert dims(model.graph.output[2]) == ["batch", 7, 5, 2]
    found = dict(zip(names, values, strict=True))
    assert [value.shape for value in values] == [(2, 7, 4), (2, 7), (2, 7, 5, 2), (2, 7), (2,)]
    for slot, count in enumerate(found["count"]):
        assert (found["scores"][slot, :count] >= 0.5).all()
        assert not found["boxes"][slot, count:].any()
        assert not found["scores"][slot, count:].any()


def test_a_network_without_keypoints_has_none_among_its_faces(tiny_gn, tmp_path):
    model = onnx.load(written(tiny_gn, FACES, tmp_path))

    assert [value.name for value in model.graph.output] == ["boxes", "scores", "labels", "count"]


def replaced(path: Path, change) -> None:
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)


def set_constant(graph: onnx.GraphProto, name: str, change) -> None:
    tensor = next(t for t in graph.initializer if t.name == name)
    value = change(onnx.numpy_helper.to_array(tensor))
    tensor.CopyFrom(onnx.numpy_helper.from_array(value, name))


def other_overlap(graph: onnx.GraphProto) -> None:
    chooser = next(n for n in graph.node if n.op_type == "NonMaxSuppression")
    set_constant(graph, chooser.input[3], lambda value: value * 0 + np.float32(0.9))


def shifted_centres(graph: onnx.GraphProto) -> None:
    first = next(n for n in graph.node if n.name.startswith("faces/Sub"))
    set_constant(graph, first.input[0], lambda value: value + np.float32(0.5))


def garbage_behind(graph: onnx.GraphProto) -> None:
    last = next(n for n in graph.node if n.output[0] == "boxes")
    last.op_type = "Identity"  # instead of a product with the mask
    del last.input[1:]


@pytest.mark.parametrize("plant", [other_overlap, shifted_centres, garbage_behind])
def test_a_wrong_decoding_is_found(plant, tiny, tmp_path):
    path = written(tiny, FACES, tmp_path)
    replaced(path, plant)

    results = list(in_graph_results(open_artifact(path), ()))

    assert results
    assert any(not result.passed for result in results)


def test_a_file_with_faces_gets_a_size(tiny, tmp_path):
    path = written(tiny, OnnxOptions(outputs="faces"), tmp_path)
    fixed = tmp_path / "fixed.onnx"

    fixed.write_bytes(serialised(simplified(load_onnx(path), OnnxOptions(shape=SIZE))))

    assert verify(tiny, fixed, Demand(weights=False)).passed
    assert dims(onnx.load(fixed).graph.output[0]) == [1, 100, 4]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"outputs": "faces", "opset": 12}, "needs opset 13"),
        ({"threshold": 0.3}, "are for --outputs faces"),
    ],
)
def test_impossible_faces_are_refused(options, said, tiny):
    with pytest.raises(UsageError, match=said):
        onnx_from_checkpoint(tiny, OnnxOptions(shape=SIZE, **options))


def test_a_file_that_claims_faces_without_rows_is_refused(tiny_onnx, tmp_path):
    model = onnx.load(tiny_onnx)
    onnx.helper.set_model_props(
        model,
        {p.key: p.value for p in model.metadata_props} | {"scrfdconv.output_kind": "faces"},
    )
    onnx.save(model, tmp_path / "claims.onnx")

    with pytest.raises(ArtifactError, match="has no rows to make them of"):
        open_artifact(tmp_path / "claims.onnx")


@pytest.mark.parametrize("batch", [None, 2])
def test_openvino_finds_the_same_faces_in_such_a_file(batch, tiny, tmp_path):
    ov = pytest.importorskip("openvino")
    options = OnnxOptions(shape=SIZE, batch=batch, outputs="faces", threshold=0.3)
    path = written(tiny, options, tmp_path)
    images = stimuli(2, *SIZE, 0, 3).astype(np.float32)

    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    found = ov.Core().compile_model(str(path), "CPU", settings)(images)

    wanted = dict(
        zip([v.name for v in onnx.load(path).graph.output], raw_run(path, images), strict=True)
    )
    assert wanted["count"].min() > 0
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-3)


def test_ncnn_maps_have_the_blobs_that_demos_ask_for(tiny, tmp_path):
    maker = formats()["ncnn"]
    if missing := maker.why_not_built():
        pytest.skip(missing)
    target = target_of("ncnn", "fp32", {"outputs": "maps", "shape": SIZE})

    made = convert(tiny, target, tmp_path / "out.param", None)

    layers = [line.split() for line in made.artifact.path.read_text().splitlines()[2:]]
    blobs = {word for layer in layers for word in layer[4:] if "=" not in word}
    assert {"input.1", "score_8", "bbox_8", "kps_8", "score_32", "bbox_32", "kps_32"} <= blobs
    assert not {layer[0] for layer in layers} & {"Permute", "Reshape"}
