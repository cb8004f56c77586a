"""From pictures to faces with any kind of model."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from scrfdconv.checks.faces.images import read_image
from scrfdconv.checks.faces.matching import box_ious
from scrfdconv.converters.checkpoint.loading import load_checkpoint
from scrfdconv.converters.errors import ArtifactError, OutputError, UsageError
from scrfdconv.converters.formats import formats, open_artifact
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.formats.pytorch.runner import EagerRunner
from scrfdconv.converters.graph.model_file import serialised
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.options import SizeOptions
from scrfdconv.converters.runner import Interface
from scrfdconv.recipes.faces.detection import (
    AHEAD,
    DetectOptions,
    Detector,
    Found,
    Unreadable,
    detect_pictures,
    draw,
    faults_of,
    input_size,
    list_pictures,
    open_runner,
    plan_drawings,
)

SMALL = DetectOptions((64, 96), threshold=0.1)
NAMES = ("score_8", "score_16", "score_32", "bbox_8", "bbox_16", "bbox_32")


def noise(seed, height=70, width=120):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def same_faces(one, other, pixels=1e-2):
    assert len(one) == len(other) > 0
    np.testing.assert_allclose(one.boxes, other.boxes, atol=pixels)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    if one.keypoints is not None:
        np.testing.assert_allclose(one.keypoints, other.keypoints, atol=pixels)


# --- any model ---------------------------------------------------------------------------------


def test_checkpoint_onnx_and_torchscript_find_the_same_faces(tiny, tiny_onnx, tmp_path):
    formats()["torchscript"].convert(tiny, tmp_path / "t.pt", SizeOptions(), None)
    runners = [EagerRunner(tiny), open_artifact(tiny_onnx), open_artifact(tmp_path / "t.pt")]

    eager, *others = [Detector(runner, SMALL).detect([noise(0)])[0] for runner in runners]

    for faces in others:
        same_faces(faces, eager)


def test_a_model_of_fixed_shape_and_batch_uses_them_and_fills_its_slots(tiny, tmp_path):
    path = tmp_path / "fixed.onnx"
    path.write_bytes(serialised(onnx_from_checkpoint(tiny, OnnxOptions(shape=(64, 96), batch=3))))
    single = Detector(EagerRunner(tiny), SMALL)
    fixed = Detector(OnnxRunner(path), DetectOptions(threshold=0.1))
    images = [noise(1), noise(2, 200, 50)]  # fewer than three, of different sizes

    found = fixed.detect(images)

    assert (fixed.size, fixed.slots, len(found)) == ((64, 96), 3, 2)
    for image, faces in zip(images, found, strict=True):
        same_faces(faces, single.detect([image])[0])


def test_a_source_of_any_kind_opens(tiny, tiny_onnx):
    assert isinstance(open_runner(tiny), EagerRunner)
    assert isinstance(open_runner(formats()["onnx"].artifact_at(tiny_onnx), threads=1), OnnxRunner)


def test_at_most_so_many_faces_are_kept(tiny):
    options = DetectOptions((64, 96), threshold=0.1, max_faces=2)

    assert len(Detector(EagerRunner(tiny), options).detect([noise(0)])[0]) == 2


@pytest.mark.parametrize(
    ("fixed", "multiple", "wanted", "size"),
    [
        ((None, None), 32, None, (640, 640)),
        ((None, None), 32, (64, 96), (64, 96)),
        ((None, None), 128, (128, 256), (128, 256)),
        ((320, 480), 32, None, (320, 480)),
        ((320, 480), 32, (320, 480), (320, 480)),
        ((320, None), 32, None, (320, 640)),
    ],
)
def test_the_input_size_is_the_models_or_the_wanted_one(fixed, multiple, wanted, size):
    interface = Interface(NAMES, 1, *fixed, multiple)

    assert input_size(interface, wanted) == size


@pytest.mark.parametrize(
    ("fixed", "multiple", "wanted", "error", "message"),
    [
        ((320, 320), 32, (640, 640), UsageError, "fixed to 320 320"),
        ((None, None), 32, (640, 650), UsageError, "--size 640 650: width 650 .nearest: 640 or"),
        ((None, None), 128, (128, 160), UsageError, "width 160 .nearest: 128 or 256."),
        ((None, None), 32, (0, 64), UsageError, "height 0"),
        ((650, 490), 32, None, ArtifactError, "650x490 is no multiple of 32"),
    ],
)
def test_an_impossible_size_is_refused(fixed, multiple, wanted, error, message):
    with pytest.raises(error, match=message):
        input_size(Interface(NAMES, 1, *fixed, multiple), wanted)


def test_outputs_of_another_model_are_the_model_files_fault():
    class Stranger(EagerRunner):
        def __init__(self):
            self.interface = Interface(NAMES)

        def _run(self, images):
            return [np.zeros((1, 7, 1), np.float32) for _ in NAMES]

    with (
        pytest.raises(ArtifactError, match=r"stranger\.onnx: bbox_8 has shape"),
        faults_of("stranger.onnx"),
    ):
        Detector(Stranger()).detect([noise(0)])


# --- many pictures -----------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "c.jpg"):
        cv2.imwrite(str(folder / name), noise(len(name)))
    (folder / "b.png").write_bytes(b"no picture")
    return folder


def test_a_bad_picture_is_reported_and_the_rest_goes_on(tiny, pictures):
    paths, bad = list_pictures([pictures, pictures.parent / "none.jpg"])

    results = list(detect_pictures([Detector(EagerRunner(tiny), SMALL)], paths))

    assert [item.path.name for item in bad] == ["none.jpg"]
    by_name = {item.path.name: item for item in results}
    assert by_name.keys() == {"a.png", "b.png", "c.jpg"}
    assert isinstance(by_name["b.png"], Unreadable)
    assert len(by_name["a.png"].faces) > 0


@pytest.mark.parametrize("detectors", [1, 3])
def test_many_pictures_keep_their_order_and_few_are_in_memory(tiny, tmp_path, detectors):
    paths = []
    for i in range(20):
        paths.append(tmp_path / f"{i:02}.png")
        cv2.imwrite(str(paths[-1]), noise(i))
    finished = set()
    eager = [Detector(EagerRunner(tiny), SMALL) for _ in range(detectors)]

    seen, ahead = [], []
    for item in detect_pictures(eager, paths, lambda found: finished.add(found.path)):
        seen.append(item)
        ahead.append(len(finished) - len(seen))

    assert [item.path for item in seen] == paths
    assert max(ahead) <= detectors + AHEAD + 1
    for item, path in zip(seen, paths, strict=True):
        (alone,) = eager[0].detect([read_image(path)])
        np.testing.assert_array_equal(item.faces.boxes, alone.boxes)


# --- drawing -----------------------------------------------------------------------------------


def test_drawings_of_equal_names_do_not_replace_each_other(tmp_path):
    paths = [Path("x/a.jpg"), Path("y/a.jpg"), Path("y/A.JPG"), Path("x/a.bmp")]

    plan = plan_drawings(tmp_path / "new" / "folder", paths)

    assert [path.name for path in plan.values()] == ["a.jpg", "a-2.jpg", "A-3.JPG", "a.png"]


def test_a_drawing_never_replaces_a_picture(pictures):
    before = (pictures / "a.png").read_bytes()

    with pytest.raises(OutputError, match="would replace"):
        plan_drawings(pictures, [pictures / "a.png"])

    assert (pictures / "a.png").read_bytes() == before


@pytest.mark.parametrize("name", ["d.png", "d.jpg", "d.JPEG"])
def test_a_drawing_is_a_picture_of_the_same_size_with_the_faces(tiny, tmp_path, name):
    image = noise(0)
    (faces,) = Detector(EagerRunner(tiny), SMALL).detect([image])

    draw(Found(Path("a.png"), image, faces), tmp_path / name)

    drawn = read_image(tmp_path / name)
    assert drawn.shape == image.shape
    assert (drawn != image).any()


# --- real models -------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["det_500m", "det_2.5g"])
def test_the_released_detectors_find_the_six_faces(data, model):
    expected = json.loads((data / "expected/t1_insightface.json").read_text())
    wanted = np.array(expected["det"], np.float32)[:, :4]
    image = read_image(data / "images/test/insightface_t1.jpg")

    (faces,) = Detector(OnnxRunner(data / f"onnx/{model}.onnx")).detect([image])

    assert len(faces) == len(wanted) == 6
    overlaps = box_ious(wanted, faces.boxes)
    assert sorted(overlaps.argmax(axis=1)) == list(range(6))
    assert overlaps.max(axis=1).min() >= 0.92


@pytest.mark.parametrize("name", ["scrfd_500m_bnkps", "scrfd_2.5g_bnkps", "scrfd_500m"])
def test_an_export_finds_the_faces_of_its_checkpoint_to_a_hundredth_pixel(data, tmp_path, name):
    checkpoint = load_checkpoint(data / f"checkpoints/{name}.pth")
    path = tmp_path / "export.onnx"
    path.write_bytes(serialised(onnx_from_checkpoint(checkpoint, OnnxOptions())))
    image = read_image(data / "images/test/insightface_t1.jpg")

    (wanted,) = Detector(EagerRunner(checkpoint)).detect([image])
    (found,) = Detector(OnnxRunner(path)).detect([image])

    assert len(wanted) == 6
    same_faces(found, wanted, pixels=0.01)
