"""Graphs that prepare their pictures themselves are lifted as the networks behind that."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from scrfdconv.checks.verification import Demand
from scrfdconv.checks.weights import compare_weights
from scrfdconv.converters.errors import ArtifactError, UsageError
from scrfdconv.converters.formats import formats
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.graph.model_file import serialised
from scrfdconv.converters.lifting.lift import lift_onnx, lifted_from
from scrfdconv.converters.normalization import STANDARD, Normalization, NormalizationOptions
from scrfdconv.recipes.artifacts.lift import fit
from scrfdconv.recipes.artifacts.network import opened_for
from scrfdconv.recipes.artifacts.target import target_of

FOREIGN = runpy.run_path(str(Path(__file__).parents[2] / "fakes" / "prefaced.py"))
PREFACES, prefaced = FOREIGN["PREFACES"], FOREIGN["prefaced"]
FRAME = {"input": "uint8", "layout": "nhwc", "input_color": "bgr"}
IMAGENET = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
QUICK = ("frame", "unit", "channels last")  # one of each kind of form


@pytest.mark.parametrize(
    "kind",
    [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in PREFACES],
)
def test_what_stands_before_the_network_becomes_its_normalisation(kind, tiny, tiny_onnx, tmp_path):
    path = prefaced(tiny_onnx, tmp_path / "foreign.onnx", kind)

    found = lifted_from(path)

    assert found.checkpoint.architecture.normalization == STANDARD
    assert found.checkpoint.says_normalization == (kind not in ("identity", "channels last"))
    report = fit(found, path, Demand())
    assert report.passed, report.summary()


def test_the_normalisation_of_a_graph_is_measured(tiny_onnx, tmp_path):
    path = prefaced(tiny_onnx, tmp_path / "foreign.onnx", "frame")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        shape = (1, 3, 1, 1)
        if tensor.name.startswith("Sub"):
            value = np.array(IMAGENET.mean, np.float32).reshape(shape)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
        if tensor.name.startswith("Mul.input"):
            value = 1 / np.array(IMAGENET.std, np.float32).reshape(shape)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    onnx.save(model, path)

    found = lifted_from(path)

    assert found.checkpoint.architecture.normalization == IMAGENET
    assert fit(found, path, Demand()).passed


def test_the_order_of_channels_is_what_the_user_says(tiny_onnx, tmp_path):
    path = prefaced(tiny_onnx, tmp_path / "foreign.onnx", "bytes")

    found = lifted_from(path, NormalizationOptions(color="bgr"))

    assert found.checkpoint.architecture.normalization == replace(STANDARD, color="bgr")


def test_a_normalisation_beside_that_of_the_graph_is_refused(tiny_onnx, tmp_path):
    path = prefaced(tiny_onnx, tmp_path / "foreign.onnx", "bytes")

    with pytest.raises(UsageError, match="--std: the graph of "):
        lifted_from(path, NormalizationOptions(std=(1.0, 1.0, 1.0)))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("options", [FRAME, {"input_color": "bgr"}, {"input": "uint8"}])
@pytest.mark.parametrize("wanted", [STANDARD, IMAGENET])
def test_our_own_files_come_back_as_trained(options, wanted, tiny, tmp_path):
    trained = replace(tiny, architecture=replace(tiny.architecture, normalization=wanted))
    path = tmp_path / "form.onnx"
    path.write_bytes(serialised(onnx_from_checkpoint(trained, OnnxOptions(**options))))
    plain = tmp_path / "plain.onnx"
    plain.write_bytes(serialised(onnx_from_checkpoint(trained, OnnxOptions())))

    found = lift_onnx(path)

    assert found.architecture.normalization == wanted
    assert not compare_weights(found, plain).differ


def test_operators_that_are_no_scale_are_named(tiny_onnx, tmp_path):
    path = prefaced(tiny_onnx, tmp_path / "foreign.onnx", "frame")
    model = onnx.load(path)
    next(n for n in model.graph.node if n.name == "Sub").input[1] = "Transpose.1"
    onnx.save(model, path)

    with pytest.raises(ArtifactError, match="Cast, Transpose, Gather, Sub, Mul"):
        lift_onnx(path)


@pytest.mark.parametrize(
    ("name", "options", "lifted"),
    [
        ("onnx", {}, False),
        ("openvino", {}, False),
        ("onnx", {"layout": "nchw"}, True),
        ("ncnn", {}, True),
        ("torchscript", {}, True),
    ],
)
def test_a_file_keeps_its_pictures_unless_asked(name, options, lifted, tiny_onnx, tmp_path):
    """Formats that take normalised pictures alone get the network."""
    path = prefaced(tiny_onnx, tmp_path / "foreign.onnx", "frame")
    source = formats()["onnx"].artifact_at(path)

    opened = opened_for(source, target_of(name, "fp32", options), verify=False)

    assert (opened.lifted is not None) == lifted
    if not lifted:
        assert "it takes uint8 NHWC" in opened.notes[0]


@pytest.mark.parametrize("options", [FRAME, {"outputs": "faces"}])
def test_a_format_that_cannot_have_the_ends_of_a_file_of_ours_gets_the_network(
    options, tiny, tmp_path
):
    path = tmp_path / "ours.onnx"
    path.write_bytes(serialised(onnx_from_checkpoint(tiny, OnnxOptions(**options))))
    source = formats()["onnx"].artifact_at(path)

    kept = opened_for(source, target_of("openvino"), verify=False)
    opened = opened_for(source, target_of("ncnn"), verify=False)

    assert kept.source == source
    assert opened.lifted == source
    assert opened.source.architecture.strides == tiny.architecture.strides
