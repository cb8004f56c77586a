"""Outputs become faces by the rules of the models' own tool."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scrfdconv.checks.faces.decode import KEYPOINT_NAMES, Faces, candidates, decode, nms
from scrfdconv.checks.faces.images import letterbox, normalise, read_image
from scrfdconv.converters.errors import CheckFailed
from scrfdconv.converters.normalization import STANDARD

SIZE = (64, 96)  # height, width: not square, so that swapped axes show
STRIDES = (8, 16, 32)
KINDS = {"score": 1, "bbox": 4, "kps": 10}


def random_outputs(seed, *, batch=1, anchors=2, kps=True, size=SIZE, strides=STRIDES, classes=1):
    rng = np.random.default_rng(seed)
    outputs = {}
    for stride in strides:
        rows = anchors * (size[0] // stride) * (size[1] // stride)
        outputs[f"score_{stride}"] = rng.random((batch, rows, classes), np.float32)
        outputs[f"bbox_{stride}"] = rng.uniform(-0.3, 3, (batch, rows, 4)).astype(np.float32)
        if kps:
            outputs[f"kps_{stride}"] = rng.normal(0, 2, (batch, rows, 10)).astype(np.float32)
    return outputs


def empty_outputs(**options):
    return {name: np.zeros_like(a) for name, a in random_outputs(0, **options).items()}


# --- the oracle: the protocol once more, one anchor at a time ------------------------------


def plain_candidates(outputs, slot, size, threshold):
    faces = []
    for stride in sorted(int(name[6:]) for name in outputs if name.startswith("score_")):
        width, height = size[1] // stride, size[0] // stride
        anchors = outputs[f"score_{stride}"].shape[1] // (width * height)
        row = 0
        for y in range(height):
            for x in range(width):
                for _ in range(anchors):
                    score = max(outputs[f"score_{stride}"][slot, row].tolist())
                    left, top, right, bottom = outputs[f"bbox_{stride}"][slot, row].tolist()
                    box = [(x - left) * stride, (y - top) * stride]
                    box += [(x + right) * stride, (y + bottom) * stride]
                    points = None
                    if f"kps_{stride}" in outputs:
                        flat = outputs[f"kps_{stride}"][slot, row].tolist()
                        pairs = zip(flat[::2], flat[1::2], strict=True)
                        points = [[(x + dx) * stride, (y + dy) * stride] for dx, dy in pairs]
                    if score >= threshold:
                        faces.append((score, box, points))
                    row += 1
    return faces


def plain_iou(a, b, offset):
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    shared = max(0, width) * max(0, height)
    areas = [(c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b)]
    union = sum(areas) - shared
    return shared / union if union > 0 else 0


def plain_nms(boxes, scores, iou, offset):
    left = sorted(range(len(boxes)), key=lambda i: -scores[i])
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if plain_iou(boxes[best], boxes[i], offset) <= iou]
    return kept


def plain_decode(outputs, slot, size, *, threshold, iou, scale):
    found = [
        (score, [v / scale for v in box], points and [[v / scale for v in p] for p in points])
        for score, box, points in plain_candidates(outputs, slot, size, threshold)
    ]
    kept = plain_nms([f[1] for f in found], [f[0] for f in found], iou, 1)
    return [found[i] for i in kept]


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    anchors=st.sampled_from([1, 2, 3]),
    kps=st.booleans(),
    strides=st.sampled_from([(8, 16, 32), (8, 16, 32, 64), (16,)]),
    threshold=st.sampled_from([0.02, 0.5, 0.9, 1.1]),
    scale=st.sampled_from([1.0, 0.5, 1.7]),
)
def test_decoding_is_that_of_the_plain_loops(*, seed, anchors, kps, strides, threshold, scale):
    size = (64, 128)
    outputs = random_outputs(seed, anchors=anchors, kps=kps, size=size, strides=strides, batch=2)

    found = decode(outputs, size, threshold=threshold, scale=scale)

    assert len(found) == 2
    for slot, faces in enumerate(found):
        expected = plain_decode(outputs, slot, size, threshold=threshold, iou=0.4, scale=scale)
        assert faces.scores.tolist() == [score for score, _, _ in expected]
        boxes = np.array([box for _, box, _ in expected]).reshape(-1, 4)
        np.testing.assert_allclose(faces.boxes, boxes, rtol=1e-5, atol=1e-4)
        assert (faces.keypoints is not None) == kps
        if kps:
            points = np.array([points for _, _, points in expected]).reshape(-1, 5, 2)
            np.testing.assert_allclose(faces.keypoints, points, rtol=1e-5, atol=1e-4)


BOXES = st.lists(
    st.tuples(*[st.integers(-5, 40)] * 2, *[st.integers(-2, 30)] * 2, st.integers(0, 5)),
    max_size=25,
)


@settings(deadline=None)
@given(BOXES, st.sampled_from([0.3, 0.45, 0.7]), st.sampled_from([0, 1]))
def test_suppression_is_that_of_the_plain_loop(rows, iou, offset):
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h, _ in rows], np.float32).reshape(-1, 4)
    scores = np.array([row[4] for row in rows], np.float32) / 5

    kept = nms(boxes, scores, iou, offset)

    assert kept.tolist() == plain_nms(boxes.tolist(), scores.tolist(), iou, offset)


# --- each rule by itself -------------------------------------------------------------------


@pytest.mark.parametrize("anchors", [1, 2])
def test_an_anchor_sits_on_the_corner_of_its_cell(anchors):
    outputs = empty_outputs(anchors=anchors)
    row = (2 * (96 // 16) + 3) * anchors + anchors - 1  # y 2, x 3, last anchor
    outputs["score_16"][0, row] = 0.75
    outputs["bbox_16"][0, row] = [0.5, 1, 1.5, 2]
    outputs["kps_16"][0, row] = [0, 0, 0.25, 0, 0, 0.25, -1, -1, 1, 1]

    (faces,) = decode(outputs, SIZE)

    assert faces.scores.tolist() == [0.75]
    assert faces.boxes.tolist() == [[48 - 8, 32 - 16, 48 + 24, 32 + 32]]
    assert faces.keypoints.tolist() == [[[48, 32], [52, 32], [48, 36], [32, 16], [64, 48]]]
    assert len(KEYPOINT_NAMES) == 5


@pytest.mark.parametrize(("score", "kept"), [(0.49, 0), (0.5, 1), (0.51, 1)])
def test_a_face_at_the_threshold_counts(score, kept):
    outputs = empty_outputs()
    outputs["score_8"][0, 7] = score

    assert len(decode(outputs, SIZE)[0]) == kept


def test_no_face_gives_empty_arrays_of_the_right_shape():
    (faces,) = decode(empty_outputs(), SIZE)

    assert len(faces) == 0
    assert faces.boxes.shape == (0, 4)
    assert faces.keypoints.shape == (0, 5, 2)


def test_the_inclusive_pixel_decides_about_small_boxes():
    boxes = np.array([[0, 0, 4, 4], [2, 0, 6, 4]], np.float32)  # 2/6 without, 3/7 with the pixel
    scores = np.array([0.9, 0.8], np.float32)

    assert nms(boxes, scores, 0.4, offset=1).tolist() == [0]
    assert nms(boxes, scores, 0.4, offset=0).tolist() == [0, 1]
    assert nms(boxes, scores, 0.4).tolist() == [0]


def test_an_overlap_of_exactly_the_limit_survives():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], np.float32)

    assert nms(boxes, np.array([1, 0.5], np.float32), 0.5, offset=0).tolist() == [0, 1]


def test_equal_scores_keep_the_order_of_the_anchors():
    boxes = np.array([[30 * i, 0, 30 * i + 10, 10] for i in range(40)], np.float32)

    assert nms(boxes, np.full(40, 0.7, np.float32), 0.4).tolist() == list(range(40))


def test_suppression_is_done_in_pixels_of_the_picture():
    # The inclusive pixel weighs less on the larger picture: 3/7 on the canvas, 17/49 before it.
    outputs = empty_outputs()
    outputs["score_8"][0, [0, 2], 0] = 0.9, 0.8
    outputs["bbox_8"][0, [0, 2]] = [[0, 0, 0.5, 0.5], [0.75, 0, -0.25, 0.5]]

    assert len(decode(outputs, SIZE, scale=1.0)[0]) == 1
    assert len(decode(outputs, SIZE, scale=0.125)[0]) == 2


def test_nothing_is_clipped_to_the_picture():
    outputs = empty_outputs()
    outputs["score_32"][0, 0] = 1
    outputs["bbox_32"][0, 0] = [4, 4, 4, 4]

    assert decode(outputs, SIZE)[0].boxes.tolist() == [[-128, -128, 128, 128]]


def test_each_slot_of_a_batch_is_decoded_as_if_alone():
    outputs = random_outputs(3, batch=3)

    together = decode(outputs, SIZE, scale=[0.5, 1, 2])

    for slot, scale in enumerate([0.5, 1, 2]):
        alone = {name: array[slot : slot + 1] for name, array in outputs.items()}
        (faces,) = decode(alone, SIZE, scale=scale)
        assert np.array_equal(together[slot].boxes, faces.boxes)
        assert np.array_equal(together[slot].keypoints, faces.keypoints)


def test_an_anchor_gives_a_candidate_for_each_class():
    outputs = empty_outputs(classes=3)
    outputs["score_8"][0, 4] = [0.1, 0.6, 0.8]
    outputs["score_32"][0, 2] = [0.7, 0.2, 0.1]

    (faces,) = candidates(outputs, SIZE, 0.5)

    assert faces.scores.tolist() == [np.float32(0.6), np.float32(0.8), np.float32(0.7)]
    assert faces.labels.tolist() == [1, 2, 0]
    assert candidates(empty_outputs(), SIZE, 0.5)[0].labels is None


def test_half_precision_outputs_are_decoded_in_float32():
    outputs = {name: array.astype(np.float16) for name, array in random_outputs(1).items()}
    widened = {name: array.astype(np.float32) for name, array in outputs.items()}

    (faces,), (expected,) = decode(outputs, SIZE), decode(widened, SIZE)

    assert faces.boxes.dtype == faces.scores.dtype == faces.keypoints.dtype == np.float32
    assert np.array_equal(faces.boxes, expected.boxes)


def test_filtering_afterwards_equals_a_higher_threshold():
    outputs = random_outputs(5)

    low, high = (decode(outputs, SIZE, threshold=t)[0] for t in (0.02, 0.5))

    assert np.array_equal(low.above(0.5).boxes, high.boxes)


# --- max_faces -----------------------------------------------------------------------------


def three_faces():
    """A large one in the corner, a middling one off the middle, a small one in the middle."""
    outputs = empty_outputs(size=(320, 320), anchors=1)
    for (x, y), half, score in [((0, 0), 3, 0.6), ((7, 4), 2, 0.7), ((5, 5), 1, 0.9)]:
        outputs["score_32"][0, y * 10 + x] = score
        outputs["bbox_32"][0, y * 10 + x] = half
    return outputs


@pytest.mark.parametrize(
    ("max_faces", "prefer", "scores"),
    [
        (0, "centre", [0.9, 0.7, 0.6]),  # all, by score
        (3, "centre", [0.9, 0.7, 0.6]),  # not more than asked: still by score
        (2, "centre", [0.7, 0.9]),  # 16384 - 2 * 5120, 4096 - 0, 36864 - 2 * 51200
        (1, "centre", [0.7]),
        (1, "largest", [0.6]),
        (2, "largest", [0.6, 0.7]),
    ],
)
def test_max_faces_keeps_the_most_prominent_ordered_by_prominence(max_faces, prefer, scores):
    (faces,) = decode(
        three_faces(), (320, 320), max_faces=max_faces, image_size=(320, 320), prefer=prefer
    )

    assert faces.scores.tolist() == [np.float32(score) for score in scores]


def test_max_faces_measures_from_the_middle_of_the_picture():
    (faces,) = decode(three_faces(), (320, 320), max_faces=1, image_size=[(0, 0)])

    assert faces.scores.tolist() == [np.float32(0.6)]


def test_max_faces_without_the_pictures_size_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="image_size"):
        decode(three_faces(), (320, 320), max_faces=1)


# --- outputs that are no SCRFD's -----------------------------------------------------------


@pytest.mark.parametrize("name", ["score_8", "bbox_16", "kps_32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_fails_even_where_no_face_is(name, value):
    outputs = empty_outputs(batch=2)
    outputs[name][1, -1, -1] = value

    with pytest.raises(CheckFailed, match=f"{name} has 1 of"):
        decode(outputs, SIZE)


def without(name):
    return lambda outputs: {k: v for k, v in outputs.items() if k != name}


def reshaped(name, shape):
    return lambda outputs: outputs | {name: np.zeros(shape, np.float32)}


STRANGE = {
    "nothing": (lambda outputs: {}, "outputs are none"),
    "no score": (without("score_16"), "an SCRFD has"),
    "no box": (without("bbox_16"), "an SCRFD has"),
    "keypoints of some strides": (without("kps_32"), "an SCRFD has"),
    "numeric names": (lambda o: {str(i): a for i, a in enumerate(o.values())}, "an SCRFD has"),
    "one too many": (lambda o: o | {"x": np.zeros(1)}, "an SCRFD has"),
    "rank 2": (lambda o: {name: array[0] for name, array in o.items()}, "has shape"),
    "missing anchors": (reshaped("bbox_8", (1, 100, 4)), "bbox_8 has shape"),
    "another batch": (reshaped("kps_8", (2, 192, 10)), "kps_8 has shape"),
    "score's batch": (reshaped("score_32", (2, 12, 1)), "score_32 has shape"),
    "boxes of another kind": (reshaped("bbox_8", (1, 192, 36)), "bbox_8 has shape"),
    "no class": (reshaped("score_8", (1, 192, 0)), "score_8 has shape"),
}


@pytest.mark.parametrize(("change", "says"), STRANGE.values(), ids=STRANGE)
def test_outputs_of_something_else_fail(change, says):
    with pytest.raises(CheckFailed, match=says):
        decode(change(random_outputs(0)), SIZE)


@pytest.mark.parametrize("size", [(64, 64), (128, 96), (4, 4)])
def test_the_wrong_size_fails_where_the_anchors_show_it(size):
    with pytest.raises(CheckFailed, match="anchors, which is no multiple"):
        decode(random_outputs(0, anchors=1), size)


# --- the released models -------------------------------------------------------------------


@pytest.mark.parametrize("model", ["det_500m", "det_2.5g"])
def test_the_released_detectors_find_the_six_faces(data, model):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        data / "onnx" / f"{model}.onnx", options, providers=["CPUExecutionProvider"]
    )
    canvas, scale = letterbox(read_image(data / "images/test/insightface_t1.jpg"), (640, 640))
    expected = json.loads((data / "expected/t1_insightface.json").read_text())

    arrays = session.run(None, {session.get_inputs()[0].name: normalise(canvas, STANDARD)})
    names = [f"{kind}_{stride}" for kind in KINDS for stride in STRIDES]
    outputs = {name: array[None] for name, array in zip(names, arrays, strict=True)}
    (faces,) = decode(outputs, (640, 640), scale=scale)

    assert len(faces) == len(expected["det"]) == 6
    for *box, _ in expected["det"]:
        assert max(plain_iou(box, other, 0) for other in faces.boxes.tolist()) >= 0.92
    for points in expected["kps"]:
        assert np.abs(faces.keypoints - np.array(points)).max(axis=(1, 2)).min() < 12


def test_faces_can_be_taken_in_any_order():
    faces = Faces(np.arange(8, dtype=np.float32).reshape(2, 4), np.array([0.9, 0.1], np.float32))

    assert faces.take(np.array([1, 0])).scores.tolist() == faces.scores[::-1].tolist()
    assert faces.take(np.array([1, 0])).keypoints is None


def test_faces_remember_their_stride_through_suppression_and_scaling():
    outputs = empty_outputs()
    for stride, row in ((8, 0), (16, 23), (32, 9)):
        outputs[f"score_{stride}"][0, row] = 0.9 - stride / 100
        outputs[f"bbox_{stride}"][0, row] = 0.4

    (found,) = decode(outputs, SIZE, scale=0.5)

    assert found.strides.tolist() == [8, 16, 32]
    assert found.take(np.array([2, 0])).strides.tolist() == [32, 8]
    assert found.above(0.7).strides.tolist() == [8, 16]
