"""Networks with several classes: suppression within a class, names, the class of faces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet_config import CONFIG
from twins import NAMES, twice

from scrfdconv.checks.faces.decode import Faces, decode
from scrfdconv.checks.faces.draw import draw_faces
from scrfdconv.checks.faces.matching import agreement, match
from scrfdconv.checks.verification import verify
from scrfdconv.checks.widerface.geometry import detections_on
from scrfdconv.converters.checkpoint.loading import load_checkpoint
from scrfdconv.converters.checkpoint.mmdet_config import described_in_text
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.formats.pytorch.runner import EagerRunner
from scrfdconv.converters.graph.model_file import serialised
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.recipes.faces.detection import DetectOptions, Detector
from scrfdconv.recipes.faces.evaluation import label_of

SMALL = DetectOptions((64, 96), threshold=0.1)
PICTURE = np.random.default_rng(0).integers(0, 256, (70, 120, 3), np.uint8)


def test_classes_do_not_suppress_each_other(tiny):
    (wanted,) = Detector(EagerRunner(tiny), SMALL).detect([PICTURE])
    detector = Detector(EagerRunner(twice(tiny)), SMALL)

    (found,) = detector.detect([PICTURE])

    assert detector.class_names == NAMES
    for label in (0, 1):
        own = found.take(found.labels == label)
        np.testing.assert_allclose(own.boxes, wanted.boxes, atol=1e-3)
        np.testing.assert_allclose(own.scores, wanted.scores, atol=1e-6)
    assert (draw_faces(PICTURE, found, NAMES) != draw_faces(PICTURE, found)).any()


def test_an_anchor_counts_for_every_class_that_reaches_the_threshold():
    scores = np.zeros((1, 1, 3))
    scores[0, 0] = 0.9, 0.2, 0.6
    rows = {"score_32": scores, "bbox_32": np.ones((1, 1, 4))}

    (found,) = decode(rows, (32, 32))

    assert found.labels.tolist() == [0, 2]
    np.testing.assert_allclose(found.scores, [0.9, 0.6], rtol=1e-6)


def test_faces_of_two_classes_are_never_the_same():
    box = np.array([[0, 0, 10, 10]], np.float32)
    one, other = (Faces(box, np.ones(1, np.float32), labels=np.array([n])) for n in (0, 1))

    assert len(match(one, other).ious) == 0
    assert agreement([(one, other)]).recall == 0
    assert agreement([(one, one)]).ap == 1


def test_a_file_that_ends_with_faces_suppresses_within_a_class(tiny, tmp_path):
    network = twice(tiny)
    path = tmp_path / "faces.onnx"
    options = OnnxOptions(outputs="faces", shape=(64, 96))
    path.write_bytes(serialised(onnx_from_checkpoint(network, options)))

    report = verify(network, path)

    assert report.passed, report.summary()
    assert OnnxRunner(path).interface.class_names == NAMES


def test_the_data_set_of_faces_takes_one_class(tiny):
    truth = detections_on(EagerRunner(tiny), [PICTURE], 64)[0]
    runner = EagerRunner(twice(tiny))

    np.testing.assert_allclose(detections_on(runner, [PICTURE], 64, 1)[0], truth, atol=1e-3)
    with pytest.raises(UsageError, match="--class"):
        detections_on(runner, [PICTURE], 64)
    with pytest.raises(UsageError, match="one class"):
        detections_on(EagerRunner(tiny), [PICTURE], 64, 1)
    assert (label_of("plate", NAMES), label_of("0", NAMES), label_of(None, ())) == (1, 0, None)
    with pytest.raises(UsageError, match="face, plate"):
        label_of("car", NAMES)


@pytest.mark.parametrize(
    "text", ["CLASSES = ('face', 'plate')", "data = dict(test=dict(classes=['face', 'plate']))"]
)
def test_a_config_names_its_classes(text):
    two = CONFIG.replace("num_classes=1", "num_classes=2") + text

    assert described_in_text(two, "c", "here").architecture.class_names == NAMES
    assert described_in_text(CONFIG + text, "c", "here").architecture.class_names == ()


def test_names_in_meta_are_those_of_the_classes(tiny, tmp_path):
    network = twice(tiny)
    meta = {"CLASSES": NAMES}
    torch.save({"meta": meta, "state_dict": dict(network.weights)}, tmp_path / "two.pth")

    assert load_checkpoint(tmp_path / "two.pth").architecture.class_names == NAMES
