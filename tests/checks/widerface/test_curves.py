"""The precision-recall picture."""

import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest

from scrfdconv.checks.widerface.chart import Anchor, Chart, Line, Panel, Text
from scrfdconv.checks.widerface.chart_png import SCALE, png
from scrfdconv.checks.widerface.chart_svg import svg
from scrfdconv.checks.widerface.curves import STYLES, curves
from scrfdconv.checks.widerface.protocol import evaluate
from scrfdconv.checks.widerface.truth import GroundTruth, ImageTruth

BLACK, WHITE = "#000000", "#FFFFFF"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def evaluation():
    """One face of every subset found at once, one of the hard ones after a false alarm."""
    boxes = np.array([[10.0, 10, 20, 20], [60, 60, 20, 20]])
    counts = np.array([[True, False], [True, False], [True, True]])
    detections = np.array(
        [[10, 10, 20, 20, 0.9], [200, 200, 20, 20, 0.5], [60, 60, 20, 20, 0.4], [0, 0, 3, 3, 0.1]]
    )
    truth = GroundTruth((ImageTruth("0--Parade/a", boxes, counts),))
    return evaluate(truth, {"0--Parade/a": detections})


def texts(drawn):
    return [element.text for element in ET.fromstring(drawn).iter(f"{SVG}text")]


def test_the_picture_names_its_title_its_axes_and_every_subset_with_its_ap(evaluation):
    shown = texts(svg(curves(evaluation, "SCRFD 500M")))

    assert {"SCRFD 500M", "Recall", "Precision", "Easy", "Medium", "Hard"} <= set(shown)
    assert [text for text in shown if text.startswith("AP")] == [
        f"AP {100 * evaluation.ap[name]:.2f} %" for name in ("easy", "medium", "hard")
    ]


def coloured_lines(drawn):
    """Points of the polylines in a subset's colour: the curves, and their samples in the legend."""
    colours = {colour for colour, _ in STYLES.values()}
    found = ET.fromstring(drawn).iter(f"{SVG}polyline")
    return [
        np.array([point.split(",") for point in line.get("points").split()], float)
        for line in found
        if line.get("stroke") in colours
    ]


def test_there_is_one_line_for_every_subset_and_all_of_it_is_inside_the_picture(evaluation):
    chart = curves(evaluation, "title")

    lines = coloured_lines(svg(chart))

    assert len(lines) == 2 * 3
    points = np.concatenate(lines)
    assert (points >= 0).all()
    assert (points <= [chart.width, chart.height]).all()


def test_a_title_with_markup_is_shown_as_it_is(evaluation):
    assert "<b> & 'x'" in texts(svg(curves(evaluation, "<b> & 'x'")))


def test_a_subset_without_faces_is_said_to_have_none():
    boxes, counts = np.array([[10.0, 10, 20, 20]]), np.array([[False], [False], [True]])
    truth = GroundTruth((ImageTruth("0--Parade/a", boxes, counts),))
    evaluation = evaluate(truth, {"0--Parade/a": np.array([[10.0, 10, 20, 20, 0.9]])})

    drawn = svg(curves(evaluation, "title"))

    assert texts(drawn).count("no faces") == 2
    assert "nan" not in drawn


def test_a_detector_that_found_nothing_has_a_picture_without_lines():
    boxes, counts = np.array([[10.0, 10, 20, 20]]), np.ones((3, 1), bool)
    truth = GroundTruth((ImageTruth("0--Parade/a", boxes, counts),))

    drawn = svg(curves(evaluate(truth, {"0--Parade/a": np.zeros((0, 5))}), "title"))

    assert texts(drawn).count("AP 0.00 %") == 3
    assert len(coloured_lines(drawn)) == 3  # the legend's


def test_the_same_evaluation_gives_the_same_file(evaluation):
    assert svg(curves(evaluation, "title")) == svg(curves(evaluation, "title"))
    assert png(curves(evaluation, "title")) == png(curves(evaluation, "title"))


# --- pixels ------------------------------------------------------------------------------------


def drawn_pixels(*shapes):
    """The pixels of a chart of 100x50 that are not paper: (50 * SCALE, 100 * SCALE) booleans."""
    picture = cv2.imdecode(np.frombuffer(png(Chart("", 100, 50, WHITE, shapes)), np.uint8), 1)
    assert picture.shape == (50 * SCALE, 100 * SCALE, 3)
    return (picture < 255).any(axis=2)


def extent(drawn):
    """Left, top, right and bottom of what is drawn, in pixels of the chart."""
    rows, columns = np.nonzero(drawn)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / SCALE


def test_every_subset_has_its_colour_in_the_png(evaluation):
    picture = cv2.imdecode(np.frombuffer(png(curves(evaluation, "title")), np.uint8), 1)

    for colour, _ in STYLES.values():
        blue_green_red = list(bytes.fromhex(colour[1:]))[::-1]
        assert (picture == blue_green_red).all(axis=2).sum() > 100


def test_a_solid_line_has_no_gaps_and_dashes_go_on_around_corners():
    corner = ((10.0, 10.0), (10.0, 40.0), (90.0, 40.0))

    solid = drawn_pixels(Line(corner, BLACK, 1))
    dashed = drawn_pixels(Line(corner, BLACK, 1, (6, 6)))

    np.testing.assert_allclose(extent(solid), [10, 10, 90, 40], atol=1.5)
    assert solid[40 * SCALE, 12 * SCALE : 88 * SCALE].all()
    assert 0.4 < dashed.sum() / solid.sum() < 0.75  # smooth ends make dashes a little longer
    assert not dashed[33 * SCALE - 1 : 33 * SCALE + 1, : 20 * SCALE].any()  # 23 from the start
    assert dashed[37 * SCALE, 10 * SCALE]  # 27 from the start, a dash up to the corner


def test_a_text_ends_or_begins_at_its_place():
    start, middle, end = (
        extent(drawn_pixels(Text((50.0, 30.0), "0.5", BLACK, 12, anchor))) for anchor in Anchor
    )

    assert start[0] == pytest.approx(50, abs=2)
    assert middle[[0, 2]].mean() == pytest.approx(50, abs=2)
    assert end[2] == pytest.approx(50, abs=2)
    assert start[3] == pytest.approx(30, abs=1)


def test_a_text_can_be_read_upwards():
    level, upwards = (
        extent(drawn_pixels(Text((50.0, 25.0), "Lp", BLACK, 12, Anchor.MIDDLE, upwards=up)))
        for up in (False, True)
    )

    to_the_right, down = level - [50, 25, 50, 25], upwards - [50, 25, 50, 25]
    turned = [to_the_right[1], -to_the_right[2], to_the_right[3], -to_the_right[0]]
    np.testing.assert_allclose(down, turned, atol=1)


def test_a_filled_panel_covers_what_is_below_it():
    below = Line(((0.0, 25.0), (100.0, 25.0)), BLACK, 1)

    covered = drawn_pixels(below, Panel((20.0, 10.0), (80.0, 40.0), BLACK, WHITE))
    through = drawn_pixels(below, Panel((20.0, 10.0), (80.0, 40.0), BLACK))

    assert not covered[25 * SCALE, 25 * SCALE : 75 * SCALE].any()
    assert through[25 * SCALE, 25 * SCALE : 75 * SCALE].all()
    assert covered[10 * SCALE, 50 * SCALE]
