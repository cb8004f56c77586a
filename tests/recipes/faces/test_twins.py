"""Networks trained on pictures that are prepared in another way find the same faces."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
from twins import BLUE_FIRST, UNSCALED, distributed, twin

from scrfdconv.checks.faces.compare import faces_on_canvas
from scrfdconv.checks.faces.images import letterbox, read_image
from scrfdconv.checks.verification import Demand, verify
from scrfdconv.checks.widerface.geometry import detections_on
from scrfdconv.converters.checkpoint.loading import load_checkpoint
from scrfdconv.converters.checkpoint.saving import save_checkpoint
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.formats.pytorch.runner import EagerRunner
from scrfdconv.converters.graph.model_file import serialised
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.lifting.lift import lift_onnx
from scrfdconv.recipes.faces.detection import DetectOptions, Detector

TWINS = pytest.mark.parametrize("normalization", [UNSCALED, BLUE_FIRST], ids=["std1", "bgr"])
SMALL = DetectOptions((64, 96), threshold=0.1)
PICTURE = np.random.default_rng(0).integers(0, 256, (70, 120, 3), np.uint8)


def exported(checkpoint, path):
    path.write_bytes(serialised(onnx_from_checkpoint(checkpoint, OnnxOptions())))
    return path


def same(found, wanted):
    assert len(found) == len(wanted) > 0
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-2)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)


@TWINS
def test_a_twin_finds_the_faces_in_every_way(tiny, tmp_path, normalization):
    other = twin(tiny, normalization)
    path = exported(other, tmp_path / "twin.onnx")

    (wanted,) = Detector(EagerRunner(tiny), SMALL).detect([PICTURE])
    for runner in (EagerRunner(other), OnnxRunner(path)):
        (found,) = Detector(runner, SMALL).detect([PICTURE])
        same(found, wanted)
        canvas, _ = letterbox(PICTURE, (64, 96))
        same(faces_on_canvas(runner, canvas), faces_on_canvas(EagerRunner(tiny), canvas))
        rows, truth = (detections_on(one, [PICTURE], 64)[0] for one in (runner, EagerRunner(tiny)))
        np.testing.assert_allclose(rows, truth, atol=1e-2)


@TWINS
def test_an_export_is_verified_on_pictures_as_its_network_wants_them(tiny, tmp_path, normalization):
    other = twin(tiny, normalization)
    path = exported(other, tmp_path / "twin.onnx")
    photograph = tmp_path / "a.png"
    cv2.imwrite(str(photograph), PICTURE)
    seen = []

    report = verify(other, path, Demand((photograph,), observe=lambda s, *_: seen.append(s.images)))

    assert report.passed, report.summary()
    largest = max(np.abs(images).max() for images in seen)
    assert largest > (100 if normalization is UNSCALED else 0.9)
    assert lift_onnx(path).architecture.normalization == normalization


def test_a_file_that_wants_other_pictures_than_its_reference_fails(tiny, tmp_path):
    path = exported(tiny, tmp_path / "tiny.onnx")
    said = replace(tiny, architecture=replace(tiny.architecture, normalization=BLUE_FIRST))

    report = verify(said, path)

    assert [r.subject for r in report.failures] == ["preprocessing"]
    assert "its metadata say RGB" in report.failures[0].detail


def test_a_saved_checkpoint_keeps_its_normalisation(tiny, tmp_path):
    save_checkpoint(twin(tiny, BLUE_FIRST), tmp_path / "twin.pth")

    assert load_checkpoint(tmp_path / "twin.pth").architecture.normalization == BLUE_FIRST


def test_metadata_tell_programs_what_to_do(tiny, tmp_path):
    model = onnx.load(exported(twin(tiny, UNSCALED), tmp_path / "twin.onnx"))

    said = {p.key: p.value for p in model.metadata_props}

    stated = json.loads(said["scrfdconv.preprocessing"])
    assert (stated["color"], stated["mean"], stated["std"]) == ("RGB", 127.5, 1.0)


# --- real models -------------------------------------------------------------------------------


@TWINS
def test_a_twin_of_a_released_detector_finds_its_six_faces(data, normalization):
    checkpoint = load_checkpoint(data / "checkpoints/scrfd_500m_bnkps.pth")
    image = read_image(data / "images/test/insightface_t1.jpg")

    (wanted,) = Detector(EagerRunner(checkpoint)).detect([image])
    (found,) = Detector(EagerRunner(twin(checkpoint, normalization))).detect([image])

    assert len(wanted) == 6
    same(found, wanted)


BINS = 17  # its faces are at most 7 strides wide
PIXELS = 0.5  # of the photograph; measured: 0.24


def test_a_twin_with_distributions_finds_the_six_faces(data, tmp_path):
    checkpoint = load_checkpoint(data / "checkpoints/scrfd_500m_bnkps.pth")
    other = distributed(checkpoint, BINS)
    runner = OnnxRunner(exported(other, tmp_path / "twin.onnx"))
    image = read_image(data / "images/test/insightface_t1.jpg")

    (wanted,) = Detector(EagerRunner(checkpoint)).detect([image])
    (eager,) = Detector(EagerRunner(other)).detect([image])
    (found,) = Detector(runner).detect([image])

    assert len(wanted) == 6
    same(found, eager)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=PIXELS)
