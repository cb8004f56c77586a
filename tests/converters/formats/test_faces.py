"""--outputs faces beyond float ONNX: other precisions, other formats, and who refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from scrfdconv.checks.faces.in_graph import in_graph_results
from scrfdconv.checks.stimuli import stimuli
from scrfdconv.checks.verification import Demand
from scrfdconv.checks.weights import compare_weights
from scrfdconv.converters.errors import ArtifactError, UsageError
from scrfdconv.converters.formats import formats, open_artifact
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.graph.interface.rows import rows_alone
from scrfdconv.converters.graph.model_file import serialised
from scrfdconv.converters.lifting.lift import lift_onnx
from scrfdconv.converters.precision import precisions
from scrfdconv.converters.precision.fp16 import Fp16Options
from scrfdconv.converters.precision.fp16.conversion import Fp16Settings
from scrfdconv.converters.precision.int8.calibration import CalibrationTable, extremes, widest
from scrfdconv.converters.precision.int8.conversion import Int8Settings, float_rows
from scrfdconv.recipes.artifacts.conversion import convert
from scrfdconv.recipes.artifacts.target import target_of

SIZE = (64, 96)
ASKED = {"outputs": "faces", "shape": SIZE, "max_faces": 40}
NAMES = ["boxes", "scores", "keypoints", "labels", "count"]
IMAGES = np.concatenate([stimuli(1, *SIZE, seed) for seed in range(2)])


def usable(name: str):
    found = formats()[name]
    if missing := found.why_not_built() or found.why_not_run():
        pytest.skip(missing)
    return found


@pytest.fixture(scope="module")
def faces_onnx(tiny, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("faces") / "faces.onnx"
    path.write_bytes(serialised(onnx_from_checkpoint(tiny, OnnxOptions(**ASKED))))
    return path


@pytest.fixture(scope="module")
def int8_onnx(faces_onnx, tmp_path_factory) -> Path:
    source = formats()["onnx"].artifact_at(faces_onnx)
    model = float_rows(source)
    whole = widest(extremes(model, lambda: (image[None] for image in IMAGES)))
    means = {name: values.tolist() for name, values in whole.mean.items()}
    ranges = whole.ranges("input.1", (-1, 1))
    table = CalibrationTable("source", "images", len(IMAGES), SIZE, "minmax", ranges, means)
    path = tmp_path_factory.mktemp("int8") / "faces.onnx"
    made = precisions()["int8"].convert(source, Int8Settings(table=table))
    path.write_bytes(serialised(made))
    return path


def judged(path: Path) -> dict[tuple[str, str], float]:
    results = list(in_graph_results(open_artifact(path), ()))
    assert all(result.passed for result in results), results
    return {(result.subject, result.metric): result.measured for result in results}


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("onnx", "fp16"),
        pytest.param("openvino", "fp32", marks=pytest.mark.slow),
        ("openvino", "fp16"),
    ],
)
def test_faces_are_those_of_our_decoder_in_every_precision(name, precision, tiny, tmp_path):
    out = tmp_path / f"out{usable(name).suffix}"

    made = convert(tiny, target_of(name, precision, ASKED), out, Demand(weights=False))

    assert made.report.passed
    found = {(r.subject, r.metric): r.measured for r in made.report.results}
    assert found["faces", "compared"] > 50
    runner = open_artifact(out)
    assert runner.precision == precision
    assert list(runner.own_outputs(IMAGES[:1])) == NAMES
    assert formats()[name].describe(out)["returns"] == NAMES


def test_int8_faces_are_decoded_in_float(int8_onnx):
    assert judged(int8_onnx)["faces", "compared"] > 50
    assert open_artifact(int8_onnx).precision == "int8"


def test_openvino_takes_int8_faces(int8_onnx, tiny, tmp_path):
    maker, source = usable("openvino"), formats()["onnx"].artifact_at(int8_onnx, "int8")

    maker.convert(source, tmp_path / "faces.xml", maker.options(), None, "int8")

    assert judged(tmp_path / "faces.xml")["faces", "compared"] > 50
    assert open_artifact(tmp_path / "faces.xml").precision == "int8"
    at_rest = compare_weights(tiny, tmp_path / "faces.xml", "int8")
    assert at_rest.results()
    assert all(result.passed for result in at_rest.results()), at_rest.results()


def test_a_weight_of_8_bits_that_was_changed_is_found_in_openvino(int8_onnx, tiny, tmp_path):
    maker, model = usable("openvino"), onnx.load(int8_onnx)
    tensor = next(t for t in model.graph.initializer if t.name.endswith("weight_quantized"))
    weights = onnx.numpy_helper.to_array(tensor).copy()
    weights.flat[0] += 5 if weights.flat[0] < 0 else -5  # steps
    tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))
    onnx.save(model, tmp_path / "other.onnx")
    source = formats()["onnx"].artifact_at(tmp_path / "other.onnx", "int8")
    maker.convert(source, tmp_path / "other.xml", maker.options(), None, "int8")

    at_rest = compare_weights(tiny, tmp_path / "other.xml", "int8")

    assert any(not result.passed for result in at_rest.results())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision"),
    [("onnx", "fp16"), ("openvino", "fp32")],
)
def test_a_file_with_faces_is_a_source(name, precision, faces_onnx, tmp_path):
    out = tmp_path / f"out{usable(name).suffix}"
    source = formats()["onnx"].artifact_at(faces_onnx)

    made = convert(source, target_of(name, precision), out, Demand(weights=False))

    assert made.report.passed
    assert judged(out)["faces", "faults"] == 0


def test_a_file_of_openvino_alone_gives_the_faces_that_were_compared(faces_onnx, tmp_path):
    """The comparison adds rows to the outputs, which programs do not."""
    maker, source = usable("openvino"), formats()["onnx"].artifact_at(faces_onnx)
    maker.convert(source, tmp_path / "faces.xml", maker.options(), None)
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(tmp_path / "faces.xml"), "CPU", settings)
    alone = compiled(IMAGES[:1])

    compared, _ = open_artifact(tmp_path / "faces.xml").faces_and_rows(IMAGES[:1])
    assert compared["count"].min() > 0
    for name, values in compared.items():
        np.testing.assert_allclose(alone[name], values, atol=1e-3)


def test_openvino_halves_no_limit_of_faces(faces_onnx, tmp_path):
    """0.5 is a face: the limit in the graph is the float32 below, which FP16 does not have."""
    from scrfdconv.converters.formats.openvino.api import choosers, read_model

    maker, source = usable("openvino"), formats()["onnx"].artifact_at(faces_onnx)

    maker.convert(source, tmp_path / "half.xml", maker.options(), None, "fp16")

    (chooser,) = choosers(read_model(tmp_path / "half.xml"))
    limits = [float(chooser.input_value(i).get_node().get_data()) for i in (3, 4)]
    assert limits == [np.float32(0.4), np.nextafter(np.float32(0.5), np.float32(0))]


def test_a_wrong_overlap_is_found_in_openvino(faces_onnx, tmp_path):
    maker, model = usable("openvino"), onnx.load(faces_onnx)
    chooser = next(n for n in model.graph.node if n.op_type == "NonMaxSuppression")
    (overlap,) = (t for t in model.graph.initializer if t.name == chooser.input[3])
    overlap.CopyFrom(onnx.numpy_helper.from_array(np.array([0.9], np.float32), overlap.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    source = formats()["onnx"].artifact_at(tmp_path / "wrong.onnx")
    maker.convert(source, tmp_path / "wrong.xml", maker.options(), None)

    results = list(in_graph_results(open_artifact(tmp_path / "wrong.xml"), ()))

    assert any(not result.passed for result in results)


def test_openvino_without_the_rows_of_its_faces_is_refused(faces_onnx, tmp_path):
    maker, source = usable("openvino"), formats()["onnx"].artifact_at(faces_onnx)
    path = tmp_path / "faces.xml"
    maker.convert(source, path, maker.options(), None)
    path.write_text(path.read_text("utf-8").replace("score_16", "other_16"), "utf-8")

    with pytest.raises(ArtifactError, match="has no rows to make them of"):
        open_artifact(path)


def test_the_rows_alone_are_the_raw_export(faces_onnx, tiny, tmp_path):
    path = tmp_path / "rows.onnx"
    path.write_bytes(serialised(rows_alone(onnx.load(faces_onnx))))

    raw = tmp_path / "raw.onnx"
    raw.write_bytes(serialised(onnx_from_checkpoint(tiny, OnnxOptions(shape=SIZE))))

    rows, wanted = onnx.load(path), onnx.load(raw)
    assert rows.graph.output == wanted.graph.output
    assert {p.key: p.value for p in rows.metadata_props} == {
        p.key: p.value for p in wanted.metadata_props
    }
    got, want = (open_artifact(one).run(IMAGES[:1]) for one in (path, raw))
    for name, values in want.items():
        np.testing.assert_array_equal(got[name], values)


def test_a_file_with_faces_is_lifted(faces_onnx, tiny):
    found = lift_onnx(faces_onnx)

    assert found.architecture.strides == tiny.architecture.strides
    assert found.architecture.keypoints == tiny.architecture.keypoints


def test_halves_are_not_decoded(faces_onnx):
    source = formats()["onnx"].artifact_at(faces_onnx)

    with pytest.raises(UsageError, match="decoded from float32"):
        precisions()["fp16"].convert(source, Fp16Settings(Fp16Options(io="float16")))


@pytest.mark.parametrize("name", ["ncnn", "mnn"])
def test_a_format_that_cannot_end_with_faces_says_why(name, tiny, faces_onnx, tmp_path):
    maker = usable(name)
    source = formats()["onnx"].artifact_at(faces_onnx)

    with pytest.raises(UsageError, match=f"--outputs faces: {maker.why_no_faces}"):
        convert(tiny, target_of(name, "fp32", {"outputs": "faces"}), tmp_path / "out", None)
    with pytest.raises(UsageError, match="ends with faces: "):
        convert(source, target_of(name, "fp32"), tmp_path / "out", None)


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_engines_have_a_reason_not_to_end_with_faces(name):
    assert formats()[name].why_no_faces
    assert formats()[name].why_no_input_forms
