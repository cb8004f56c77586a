"""The precision audit: both forms of EngineInspector's JSON, and every way to be misled."""

from __future__ import annotations

import json

import pytest

from scrfdconv.converters.errors import ArtifactError, CheckFailed
from scrfdconv.converters.formats import formats, open_artifact
from scrfdconv.converters.formats.tensorrt import TensorRTOptions
from scrfdconv.converters.formats.tensorrt.audit import audit_engine, audit_layers
from scrfdconv.converters.formats.tensorrt.inspect import layers_from_json
from scrfdconv.recipes.artifacts.conversion import convert
from scrfdconv.recipes.artifacts.target import target_of


def tensor(word, new):
    if new:
        return {"Name": "x", "Format": "Row major linear", "Datatype": word}
    return {"Name": "x", "Format/Datatype": f"Thirty-two wide channel vectorized {word} format."}


def engine(words, new=False, kind="CaskConvolution", **more):
    layers = [
        {"Name": f"conv{i}", "LayerType": kind, "Inputs": [tensor(word, new)], **more}
        for i, word in enumerate(words)
    ]
    names = [{"Name": "input.1"}] if new else ["input.1"]
    return json.dumps({"Layers": layers, "I/O Tensors" if new else "Bindings": names})


def verdict(text, precision, meant=None):
    return all(r.passed for r in audit_layers(layers_from_json(text), precision, meant or {}))


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize(
    ("words", "precision", "passes"),
    [
        (["Half"] * 9 + ["Float"], "fp16", True),
        (["FP16"] * 9 + ["FP32"], "fp16", True),
        (["Float"] * 10, "fp16", False),
        (["Half"] * 5 + ["Float"] * 5, "fp16", False),
        (["Int8"] * 9 + ["Half"], "int8", True),
        (["Half"] * 10, "int8", False),
        (["Float"] * 10, "fp32", True),
        (["Float"] * 10, "tf32", True),
        (["Float"] * 9 + ["Half"], "fp32", False),
    ],
)
def test_the_share_of_convolutions_decides(words, precision, passes, new):
    kind = "fp32" if precision == "tf32" else precision

    assert verdict(engine(words, new), precision, {kind: 9, "other": 1}) is passes


def test_both_forms_of_the_json_say_the_same():
    old, new = (layers_from_json(engine(["Half", "Int8", "Float"], form)) for form in (0, 1))

    assert old == new
    assert old.convolutions == {"fp16": 1, "fp32": 1, "int8": 1}
    assert old.tensors == ("input.1",)
    assert old.precision == "int8"


@pytest.mark.parametrize(
    "layer",
    [
        {"LayerType": "correlation"},
        {"LayerType": "gemm"},
        {"LayerType": "kgen", "Metadata": "[ONNX Layer: /head/stem/Conv]\u001e[ONNX Layer: /Relu]"},
        {"LayerType": "Foo", "ParameterType": "Convolution"},
    ],
)
def test_convolutions_are_known_by_all_their_names(layer):
    text = json.dumps({"Layers": [{"Name": "l", "Inputs": [tensor("Half", True)], **layer}]})

    assert layers_from_json(text).convolutions == {"fp16": 1}


@pytest.mark.parametrize(
    "layer",
    [
        {"LayerType": "Reformat", "Name": "Reformatting CopyNode for Input Tensor 0 to conv"},
        {"LayerType": "PointWiseV2"},
        {"LayerType": "kgen", "Metadata": "[ONNX Layer: /head/Sigmoid]"},
    ],
)
def test_other_layers_do_not_count(layer):
    text = json.dumps({"Layers": [{"Name": "l", "Inputs": [tensor("Half", False)], **layer}]})

    assert layers_from_json(text).convolutions == {}


def test_an_engine_without_known_convolutions_fails():
    assert not verdict(json.dumps({"Layers": []}), "fp32")
    assert not verdict(json.dumps({"Layers": ["conv0", "conv1"], "Bindings": []}), "fp16")


@pytest.mark.parametrize("text", ["", "[]", "{}", "TensorRT"])
def test_an_unknown_form_is_an_error(text):
    with pytest.raises(ArtifactError, match="unknown form"):
        layers_from_json(text)


def test_an_engine_asked_for_fp16_that_runs_fp32_fails_the_build(
    machine, tiny, tmp_path, monkeypatch
):
    machine.builds_fp32 = True
    out = tmp_path / "tiny_fp16.engine"

    with pytest.raises(CheckFailed, match=r"fp16 share: 0, at least 0\.\d+ allowed"):
        convert(tiny, target_of("tensorrt", "fp16", {"shape": (64, 64)}), out, None)

    assert list(tmp_path.iterdir()) == []


def test_the_audit_of_a_good_engine_passes(machine, tiny_onnx, tmp_path):
    path = tmp_path / "tiny.engine"
    options = TensorRTOptions(min=("1x64x64",), opt=("1x64x64",), max=("1x64x64",))
    formats()["tensorrt"].convert(formats()["onnx"].artifact_at(tiny_onnx), path, options, None)

    results = list(audit_engine(open_artifact(path)))

    assert [(r.metric, r.passed) for r in results] == [("known", True), ("fp32 share", True)]
