"""Verbs that take the ONNX file that people have as if it were a checkpoint."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.graph.model_file import serialised


@pytest.fixture(scope="module")
def released(tiny, tmp_path_factory) -> Path:
    """A file as it was released: fixed, batch 1, numbers for names, no metadata."""
    model = onnx_from_checkpoint(tiny, OnnxOptions(shape=(64, 96), opset=11))
    del model.metadata_props[:]
    numbers = {value.name: str(448 + i) for i, value in enumerate(model.graph.output)}
    for node in model.graph.node:
        node.output[:] = [numbers.get(name, name) for name in node.output]
    for value in model.graph.output:
        value.name = numbers[value.name]
    path = tmp_path_factory.mktemp("released") / "det_shape64x96.onnx"
    path.write_bytes(serialised(model))
    return path


def input_dims(path: Path) -> list[int | str]:
    (image,) = onnx.load(path).graph.input
    return [dim.dim_value or dim.dim_param for dim in image.type.tensor_type.shape.dim]


def test_a_released_file_becomes_dynamic_with_a_true_batch_and_our_names(
    scrfdconv, released, tmp_path
):
    ran = scrfdconv("onnx", released, "--json")

    assert ran.code == 0, ran.err
    made = tmp_path / "det.onnx"  # without the size that it no longer has
    assert input_dims(made) == ["batch", 3, "height", "width"]
    assert [value.name for value in onnx.load(made).graph.output][:2] == ["score_8", "score_16"]
    assert ran.json["lifted"]["from"] == str(released)
    assert ran.json["lifted"]["fit"]["passed"] is True
    assert any("BatchNorms" in note for note in ran.json["lifted"]["notes"])
    checks = {result["check"] for result in ran.json["report"]["results"]}
    assert checks >= {"parity", "batch"}


def test_the_report_says_that_the_file_was_lifted_and_how_well_it_fits(scrfdconv, released):
    ran = scrfdconv("onnx", released, "--shape", 32, 64, "--batch", 3, "-o", "out.onnx")

    assert ran.code == 0, ran.err
    assert "lifted from det_shape64x96.onnx: it differs from the file by at most: score" in ran.out
    assert "weights (relative) 0" in ran.out


def test_beside_its_source_a_lifted_file_gets_another_name(scrfdconv, released, tmp_path):
    (tmp_path / "det.onnx").write_bytes(released.read_bytes())

    assert scrfdconv("onnx", "det.onnx", "--no-verify").code == 0

    assert input_dims(tmp_path / "det_dynamic.onnx")[0] == "batch"
    assert (tmp_path / "det.onnx").read_bytes() == released.read_bytes()


def test_no_lift_keeps_the_graph_as_it_is(scrfdconv, released, tmp_path):
    ran = scrfdconv("onnx", released, "--no-lift", "--no-verify", "-o", "out.onnx")

    assert ran.code == 0, ran.err
    assert input_dims(tmp_path / "out.onnx") == [1, 3, 64, 96]
    assert onnx.load(tmp_path / "out.onnx").graph.output[0].name == "448"
    assert "lifted" not in ran.out


@pytest.mark.parametrize(
    "verb",
    ["torchscript", *(pytest.param(v, marks=pytest.mark.slow) for v in ("fp16", "openvino"))],
)
def test_other_formats_and_precisions_follow(verb, scrfdconv, released):
    ran = scrfdconv(verb, released, "--shape", 32, 64, "--json")

    assert ran.code == 0, ran.err
    assert ran.json["lifted"]["fit"]["passed"] is True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "lifted"),
    [
        ((), False),
        pytest.param(("--shape", 64, 96), False, marks=pytest.mark.slow),
        (("--shape", 64, 64), True),
        pytest.param(("--shape", 64, 96, "--batch", 2), True, marks=pytest.mark.slow),
        pytest.param(("--opset", 13), True, marks=pytest.mark.slow),
    ],
)
def test_our_own_file_is_lifted_only_where_it_is_not_what_is_asked(
    options, lifted, scrfdconv, tiny, tmp_path
):
    model = onnx_from_checkpoint(tiny, OnnxOptions(shape=(64, 96)))
    (tmp_path / "own.onnx").write_bytes(serialised(model))

    ran = scrfdconv("onnx", "own.onnx", *options, "-o", "out.onnx", "--no-verify", "--json")

    assert ran.code == 0, ran.err
    assert ("lifted" in ran.json) is lifted


@pytest.fixture
def odd(released, tmp_path) -> Path:
    """A detector with something behind its first output that no SCRFD has."""
    model = onnx.load(released)
    first = model.graph.output[0]
    model.graph.node.append(onnx.helper.make_node("Sqrt", [first.name], ["root"], "odd/Sqrt"))
    first.name = "root"
    onnx.save(model, tmp_path / "odd.onnx")
    return tmp_path / "odd.onnx"


def test_a_graph_that_cannot_be_lifted_is_taken_as_it_is_and_a_note_says_why(scrfdconv, odd):
    ran = scrfdconv("onnx", odd, "--no-verify", "-o", "out.onnx")

    assert ran.code == 0, ran.err
    assert "the graph is taken as it is" in ran.out
    assert "odd/Sqrt" in ran.out


def test_where_the_network_is_needed_the_error_names_the_node(scrfdconv, odd):
    ran = scrfdconv("torchscript", odd)

    assert ran.code == 3
    assert "odd/Sqrt" in ran.sentence


@pytest.mark.slow
def test_a_build_starts_from_a_released_file(scrfdconv, released, tmp_path):
    (tmp_path / "recipe.toml").write_text(
        f"""
        latency = false
        [checkpoints.detector]
        path = "{released}"
        [[targets]]
        format = "onnx"
        shape = [64, 96]
        batch = "dynamic"
        [[targets]]
        format = "torchscript"
        """
    )

    ran = scrfdconv("build", "recipe.toml", "-o", "out", "--json")

    assert ran.code == 0, ran.err
    (graph,) = (tmp_path / "out/detector").glob("*.onnx")
    assert input_dims(graph) == ["batch", 3, 64, 96]
    manifest = tmp_path / "out/manifest.json"
    lost = scrfdconv("verify", manifest, "--rerun")
    again = scrfdconv("verify", manifest, "--rerun", "--reference", released)
    assert again.code == 0, again.err
    assert lost.code == 3
