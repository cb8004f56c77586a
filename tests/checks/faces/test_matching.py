"""An artifact is judged by the faces of its reference."""

import math
import time
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scrfdconv.checks.faces.decode import Faces
from scrfdconv.checks.faces.limits import faces_limit, of_few, results_of
from scrfdconv.checks.faces.matching import AP_IOUS, agreement, box_ious, match
from scrfdconv.converters.errors import CheckFailed


def faces(*rows, keypoints=None):
    """Each row is x1, y1, x2, y2, score."""
    array = np.array(rows, np.float32).reshape(-1, 5)
    points = None if keypoints is None else np.array(keypoints, np.float32).reshape(-1, 5, 2)
    return Faces(array[:, :4], array[:, 4], points)


def random_faces(rng, count, spread=100):
    corners = rng.integers(0, spread, (count, 2))
    sides = rng.integers(5, 40, (count, 2))
    scores = rng.integers(1, 50, count) / 50  # with equal scores
    return Faces(
        np.hstack([corners, corners + sides]).astype(np.float32), scores.astype(np.float32)
    )


def shaken(rng, original, pixels):
    """The same faces as a slightly different model would see them: some lost, some new."""
    keep = original.take(rng.random(len(original)) < 0.9)
    moved = keep.boxes + rng.normal(0, pixels, keep.boxes.shape)
    scores = np.clip(keep.scores + rng.normal(0, 0.1, len(keep)), 0.02, 1)
    new = random_faces(rng, 2)
    return Faces(
        np.concatenate([moved, new.boxes]).astype(np.float32),
        np.concatenate([scores, new.scores]).astype(np.float32),
    )


# --- the oracle: plain loops ---------------------------------------------------------------


def plain_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0, width) * max(0, height)
    union = sum(max(0, c[2] - c[0]) * max(0, c[3] - c[1]) for c in (a, b)) - shared
    return shared / union if union > 0 else 0


def plain_match(reference, other, limit):
    pairs = [
        (-plain_iou(a, b), i, j)
        for i, a in enumerate(reference.boxes.tolist())
        for j, b in enumerate(other.boxes.tolist())
        if plain_iou(a, b) >= limit
    ]
    used_i, used_j, chosen = set(), set(), []
    for _, i, j in sorted(pairs):
        if i not in used_i and j not in used_j:
            used_i.add(i)
            used_j.add(j)
            chosen.append((i, j))
    return chosen


def plain_average_precision(pairs, limit, threshold=0.5):
    truths = [reference.above(threshold).boxes.tolist() for reference, _ in pairs]
    predictions = [
        (-score, image, place, box)
        for image, (_, other) in enumerate(pairs)
        for place, (score, box) in enumerate(
            zip(other.scores.tolist(), other.boxes.tolist(), strict=True)
        )
    ]
    taken, curve, hits = set(), [], 0
    for rank, (_, image, _, box) in enumerate(sorted(predictions, key=lambda p: p[:3]), start=1):
        overlaps = [
            (plain_iou(box, truth), -place)
            for place, truth in enumerate(truths[image])
            if (image, place) not in taken
        ]
        best = max(overlaps, default=(-1, 0))
        if best[0] >= limit:
            taken.add((image, -best[1]))
            hits += 1
        curve.append((hits / sum(map(len, truths)), hits / rank))
    area, reached = 0.0, 0.0
    for place, (recall, _) in enumerate(curve):
        area += (recall - reached) * max(precision for _, precision in curve[place:])
        reached = recall
    return area


@settings(deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.5, 0.8]))
def test_matching_is_that_of_the_plain_loop(seed, iou):
    rng = np.random.default_rng(seed)
    reference = random_faces(rng, int(rng.integers(0, 15)))
    other = shaken(rng, reference, 3)

    found = match(reference, other, iou)

    assert list(zip(found.reference, found.other, strict=True)) == plain_match(
        reference, other, iou
    )
    assert (np.diff(found.ious) <= 0).all()


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_average_precision_is_that_of_the_plain_loop(seed):
    rng = np.random.default_rng(seed)
    references = [random_faces(rng, int(rng.integers(0, 12))) for _ in range(3)]
    references.append(faces([0, 0, 20, 20, 0.9]))  # at least one truth
    pairs = [(reference, shaken(rng, reference, 2)) for reference in references]

    measured = agreement(pairs)

    areas = [plain_average_precision(pairs, limit) for limit in AP_IOUS]
    assert measured.ap50 == pytest.approx(areas[0], abs=1e-9)
    assert measured.ap == pytest.approx(sum(areas) / 10, abs=1e-9)


def test_the_ious_of_the_mean_are_cocos():
    assert AP_IOUS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


# --- matching ------------------------------------------------------------------------------


def test_the_nearest_pair_comes_first_and_nobody_is_taken_twice():
    reference = faces([0, 0, 10, 10, 0.9], [2, 0, 12, 10, 0.8])
    other = faces([2, 0, 12, 10, 0.7], [1, 0, 11, 10, 0.9])

    found = match(reference, other)

    assert found.reference.tolist() == [1, 0]
    assert found.other.tolist() == [0, 1]
    assert found.ious.tolist() == [1.0, pytest.approx(9 / 11)]


@pytest.mark.parametrize(("width", "pairs"), [(5, 1), (4.99, 0)])
def test_a_pair_of_exactly_the_limit_counts_without_an_inclusive_pixel(width, pairs):
    assert len(match(faces([0, 0, 10, 10, 1]), faces([0, 0, width, 10, 1])).ious) == pairs


@pytest.mark.parametrize(("left", "right"), [(0, 0), (0, 3), (3, 0)])
def test_nobody_matches_nobody(left, right):
    rng = np.random.default_rng(0)

    assert len(match(random_faces(rng, left), random_faces(rng, right)).ious) == 0


def test_boxes_without_area_overlap_nothing():
    flat = np.array([[5, 5, 5, 5], [9, 9, 3, 3]], np.float32)

    assert not box_ious(flat, flat).any()


# --- agreement -----------------------------------------------------------------------------

A, B, C = [0, 0, 10, 10, 0.9], [50, 0, 60, 10, 0.8], [0, 50, 10, 60, 0.7]


def test_a_faithful_artifact_has_all_marks():
    weak = [80, 80, 90, 90, 0.1]  # the reference's own face below the threshold is no mistake
    same = faces(A, B, weak, keypoints=np.zeros((3, 5, 2)))

    measured = agreement([(same, same), (same, same)])

    assert measured.images == 2
    assert measured.reference_faces == measured.found == 4
    assert measured.extra == 0
    assert measured.recall == measured.precision == measured.ap50 == measured.ap == 1
    assert measured.mean_iou == measured.worst_iou == 1
    assert measured.score_difference == measured.keypoint_error == 0
    assert measured.undefined is None


def test_lost_and_extra_faces_are_counted_at_the_deployment_threshold():
    fading = [*B[:4], 0.4]  # still there for the average precision

    measured = agreement([(faces(A, B), faces(A, fading, C))])

    assert (measured.reference_faces, measured.found, measured.extra) == (2, 1, 1)
    assert measured.recall == measured.precision == 0.5
    assert measured.ap50 == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_a_false_face_with_a_low_score_costs_no_average_precision():
    low, high = [*C[:4], 0.1], [*C[:4], 0.95]

    assert agreement([(faces(A, B), faces(A, B, low))]).ap50 == 1
    assert agreement([(faces(A, B), faces(A, B, high))]).ap50 == pytest.approx(2 / 3)


def test_scores_are_ranked_over_all_pictures():
    empty = faces()

    first = agreement([(faces(A), faces(A)), (empty, faces([*B[:4], 0.6]))])
    last = agreement([(faces(A), faces(A)), (empty, faces([*B[:4], 0.95]))])

    assert first.ap50 == 1
    assert last.ap50 == 0.5


def test_shifted_boxes_lower_the_mean_over_ious_only():
    measured = agreement([(faces(A), faces([0, 0, 10, 7.2, 0.9]))])

    assert measured.ap50 == 1
    assert measured.ap == 0.5  # 0.72 reaches 0.5 to 0.7
    assert measured.worst_iou == pytest.approx(0.72)


def test_a_face_that_is_found_twice_counts_once():
    measured = agreement([(faces(A), faces(A, [0, 0, 10, 9, 0.8]))])

    assert (measured.found, measured.extra) == (1, 1)
    assert measured.precision == 0.5


def test_pairs_tell_the_worst_of_score_box_and_keypoints():
    still, moved = np.zeros((2, 5, 2)), np.zeros((2, 5, 2))
    moved[1, 4] = [3, 4]  # 5 pixels on a face of 10
    reference = faces(A, B, keypoints=still)

    measured = agreement([(reference, faces([0, 0, 10, 8, 0.85], B, keypoints=moved))])

    assert measured.score_difference == pytest.approx(0.05)
    assert measured.mean_iou == pytest.approx(0.9)
    assert measured.worst_iou == pytest.approx(0.8)
    assert measured.worst_keypoint_error == pytest.approx(0.5)
    assert measured.keypoint_error == pytest.approx(0.05)


def test_the_order_of_detections_does_not_matter():
    reference, other = faces(A, B, C), faces([0, 1, 10, 11, 0.6], B, [0, 49, 10, 58, 0.9])

    assert agreement([(reference, other)]) == agreement(
        [(reference, other.take(np.array([2, 0, 1])))]
    )


MEASURED = [
    "recall",
    "precision",
    "ap50",
    "ap",
    "mean_iou",
    "worst_iou",
    "score_difference",
    "keypoint_error",
    "worst_keypoint_error",
]


@pytest.mark.parametrize(
    "pairs",
    [
        pytest.param([], id="no pictures"),
        pytest.param([(faces(), faces())], id="no faces"),
        pytest.param([(faces(), faces(A))], id="only the artifact has faces"),
        pytest.param([(faces([*A[:4], 0.3]), faces(A))], id="only weak faces"),
    ],
)
def test_a_reference_without_faces_leaves_everything_undefined_and_says_so(pairs):
    measured = agreement(pairs)

    assert all(math.isnan(getattr(measured, name)) for name in MEASURED)
    assert set(MEASURED) < {field.name for field in fields(measured)}
    assert "no face" in measured.undefined


def test_an_artifact_that_finds_nothing_has_no_recall_and_no_precision():
    measured = agreement([(faces(A), faces())])

    assert measured.recall == measured.ap50 == measured.ap == 0
    assert math.isnan(measured.precision)
    assert math.isnan(measured.worst_iou)
    assert measured.undefined is None


def test_keypoints_on_one_side_only_fail():
    with pytest.raises(CheckFailed, match="only one side has keypoints"):
        agreement([(faces(A, keypoints=np.zeros((1, 5, 2))), faces(A))])


def test_hundreds_of_pictures_take_less_than_a_few_seconds():
    rng = np.random.default_rng(0)
    references = [random_faces(rng, 60, spread=600) for _ in range(300)]
    pairs = [(reference, shaken(rng, reference, 1)) for reference in references]

    start = time.perf_counter()
    agreement(pairs)

    assert time.perf_counter() - start < 5  # 0.2 s measured; slow machines may be busy


@pytest.mark.parametrize(
    ("precision", "faces", "limit"),
    [
        ("int8", 1000, 0.95),  # the share counts
        ("int8", 12, 1 - 1 / 12),  # one of few may sit on the threshold
        ("int8", 9, 0.95),
        ("int8", 0, 0.95),
        ("fp16", 50, 0.98),
        ("fp32", 12, 0.999),
    ],
)
def test_one_face_of_few_may_change_sides_where_numbers_are_rounded(precision, faces, limit):
    assert faces_limit(precision, faces) == pytest.approx(limit)


# --- crossings of the threshold, strides ---------------------------------------------------


@pytest.mark.parametrize(
    ("score", "found", "fell"), [(0.5, 1, 0), (0.499, 1, 1), (0.41, 1, 1), (0.39, 0, 0)]
)
def test_a_face_that_noise_moved_below_the_threshold_is_not_lost(score, found, fell):
    reference, other = faces([*A[:4], 0.5]), faces([*A[:4], score])

    measured = agreement([(reference, other)], margin=0.1)

    assert (measured.found, measured.fell, measured.extra) == (found, fell, 0)
    assert measured.recall == found
    if found:
        assert all(r.passed for r in results_of(measured, "int8")), "also the only face there is"


@pytest.mark.parametrize(("score", "extra", "rose"), [(0.499, 0, 1), (0.41, 0, 1), (0.39, 1, 0)])
def test_a_face_that_noise_moved_above_the_threshold_is_not_new(score, extra, rose):
    reference, other = faces(A, [*B[:4], score]), faces(A, [*B[:4], 0.5])

    measured = agreement([(reference, other)], margin=0.1)

    assert (measured.reference_faces, measured.extra, measured.rose) == (1, extra, rose)
    assert measured.precision == 1 - extra / 2


def test_without_a_margin_both_models_are_cut_at_the_same_score():
    measured = agreement([(faces([*A[:4], 0.5]), faces([*A[:4], 0.499]))])

    assert (measured.found, measured.fell, measured.recall) == (0, 0, 0)


def test_a_fault_of_one_stride_does_not_drown():
    """Ninety-nine faces as they were and one of stride 32 that is gone."""
    many = faces(*([20 * i, 0, 20 * i + 10, 10, 0.9] for i in range(99)))
    small = replace(many, strides=np.full(99, 8))
    large = replace(faces([0, 50, 400, 450, 0.9]), strides=np.array([32]))

    measured = agreement([(small, small), (large, faces())])

    assert measured.recall == 0.99
    assert {stride: marks.recall for stride, marks in measured.by_stride.items()} == {8: 1, 32: 0}
    failed = {r.subject for r in results_of(measured, "int8") if not r.passed}
    assert failed == {"faces_32"}


def test_extra_faces_count_at_their_own_stride():
    reference = replace(faces(A), strides=np.array([8]))
    other = replace(faces(A, B), strides=np.array([8, 8]))

    assert agreement([(reference, other)]).by_stride[8].precision == 0.5


def test_each_point_has_its_own_error():
    moved = np.zeros((1, 5, 2))
    moved[0, 2] = [1, 0]  # a tenth of a face of 10x10 pixels

    measured = agreement([(faces(A, keypoints=np.zeros((1, 5, 2))), faces(A, keypoints=moved))])

    assert measured.point_errors == pytest.approx((0, 0, 0.1, 0, 0))
    failed = {r.metric for r in results_of(measured, "fp32") if not r.passed}
    assert failed == {"nose", "worst_keypoint"}


def grown(original, factor):
    centre = (original.boxes[:, :2] + original.boxes[:, 2:]) / 2
    half = (original.boxes[:, 2:] - original.boxes[:, :2]) / 2 * factor
    return replace(original, boxes=np.hstack([centre - half, centre + half]))


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "int8"])
@pytest.mark.parametrize(
    ("metric", "change"),
    [
        ("mean_iou", lambda f: grown(f, 1.1)),
        ("mean_score", lambda f: replace(f, scores=f.scores - np.float32(0.06))),
        ("worst_score", lambda f: replace(f, scores=f.scores - np.float32(0.3))),
    ],
)
def test_boxes_and_scores_of_found_faces_have_limits(metric, change, precision):
    reference = faces(*([20 * i, 0, 20 * i + 10, 10, 0.9] for i in range(12)))

    measured = agreement([(reference, change(reference))], margin=0.01)

    assert metric in {r.metric for r in results_of(measured, precision) if not r.passed}


def test_one_of_few_faces_may_be_as_bad_as_the_worst():
    assert of_few(0.95, 0.6, 1) == 0.6
    assert of_few(0.95, 0.6, 2) == pytest.approx(0.775)
    assert of_few(0.95, 0.6, 1000) == pytest.approx(0.95, abs=1e-3)


def test_crossings_are_told():
    measured = agreement([(faces(A, [*B[:4], 0.5]), faces(A, [*B[:4], 0.49]))], margin=0.1)

    detail = next(results_of(measured, "int8")).detail
    assert "1 fell below the threshold and 0 rose above it" in detail
