"""Drawn faces stay visible and every part can be read."""

import numpy as np
import pytest

from scrfdconv.checks.faces.decode import KEYPOINT_NAMES, Faces
from scrfdconv.checks.faces.draw import BOX_COLOUR, KEYPOINT_COLOURS, draw_faces


def face(box, score=0.87, keypoints=True):
    x1, y1, x2, y2 = box
    share = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
    points = share * [x2 - x1, y2 - y1] + [x1, y1]
    return Faces(
        np.array([box], np.float32),
        np.array([score], np.float32),
        points[None].astype(np.float32) if keypoints else None,
    )


def grey(height, width):
    return np.full((height, width, 3), 120, np.uint8)


def changed(before, after):
    return (before != after).any(axis=2)


@pytest.mark.parametrize("side", [64, 160, 640, 3000])
def test_a_face_stays_visible_at_every_size_of_picture(side):
    image = grey(side, side)
    box = [side * 0.3, side * 0.3, side * 0.7, side * 0.7]

    drawn = draw_faces(image, face(box))

    inside = slice(round(side * 0.3), round(side * 0.7))
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert 0 < changed(image, drawn)[inside, inside].mean() < 0.25


def test_the_given_picture_is_not_touched():
    image = grey(100, 100)

    draw_faces(image, face([20, 20, 80, 80]))

    assert (image == 120).all()


def test_no_faces_leave_the_picture_as_it_is():
    image = grey(50, 70)
    nobody = Faces(np.empty((0, 4), np.float32), np.empty(0, np.float32))

    assert np.array_equal(draw_faces(image, nobody), image)


def test_every_keypoint_has_its_own_colour_in_its_place():
    faces = face([100, 100, 500, 500])

    drawn = draw_faces(grey(640, 640), faces)

    for (x, y), colour in zip(faces.keypoints[0].astype(int), KEYPOINT_COLOURS, strict=True):
        assert tuple(drawn[y, x].tolist()) == colour
    assert len({*KEYPOINT_COLOURS, BOX_COLOUR}) == len(KEYPOINT_NAMES) + 1


def test_keypoints_of_small_faces_do_not_cover_them():
    image = grey(640, 640)
    with_points = draw_faces(image, face([300, 300, 316, 318]))
    without = draw_faces(image, face([300, 300, 316, 318], keypoints=False))

    assert 5 <= changed(with_points, without).sum() <= 25


def test_the_score_is_above_the_box_or_inside_where_the_picture_ends():
    image = grey(640, 640)

    above = changed(image, draw_faces(image, face([200, 200, 300, 300], keypoints=False)))
    inside = changed(image, draw_faces(image, face([200, 0, 300, 100], keypoints=False)))

    assert above[185:198, 200:240].mean() > 0.5
    assert inside[2:15, 205:230].mean() > 0.5


def test_different_scores_are_written_differently():
    one, other = (draw_faces(grey(300, 300), face([90, 90, 200, 200], s)) for s in (0.51, 0.99))

    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    "box",
    [
        [-50, -50, 30, 30],
        [80, 80, 500, 500],
        [-1e9, -1e9, 1e9, 1e9],
        [40, 40, 40, 40],
        [60, 60, 40, 40],
        [-90, -90, -50, -50],
        [99, 0, 140, 20],
        [200, 300, 240, 340],
    ],
)
def test_boxes_outside_or_without_area_do_no_harm(box):
    assert draw_faces(grey(100, 100), face(box)).shape == (100, 100, 3)


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (300, 5)])
def test_pictures_that_are_smaller_than_a_label_do_no_harm(shape):
    assert draw_faces(grey(*shape), face([0, 0, 4, 4])).shape == (*shape, 3)


def test_a_view_of_a_picture_can_be_drawn_on():
    image = grey(100, 100)[::-1, ::-1]

    assert draw_faces(image, face([20, 20, 80, 80])).any()
