"""The precision-recall picture."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from scrfdconv.checks.curves import curves_svg
from scrfdconv.checks.widerface import evaluate
from scrfdconv.checks.widerface_truth import GroundTruth, ImageTruth

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


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_the_picture_names_its_title_its_axes_and_every_subset_with_its_ap(evaluation):
    shown = texts(curves_svg(evaluation, "SCRFD 500M"))

    assert {"SCRFD 500M", "Recall", "Precision", "Easy", "Medium", "Hard"} <= set(shown)
    assert [text for text in shown if text.startswith("AP")] == [
        f"AP {100 * evaluation.ap[name]:.2f} %" for name in ("easy", "medium", "hard")
    ]


def test_there_is_one_line_for_every_subset_and_all_of_it_is_inside_the_picture(evaluation):
    root = ET.fromstring(curves_svg(evaluation, "title"))

    lines = [line.get("points") for line in root.iter(f"{SVG}polyline")]
    points = np.array([point.split(",") for line in lines for point in line.split()], float)
    assert len(lines) == 3
    assert (points >= 0).all()
    assert (points <= [float(root.get("width")), float(root.get("height"))]).all()


def test_a_title_with_markup_is_shown_as_it_is(evaluation):
    assert "<b> & 'x'" in texts(curves_svg(evaluation, "<b> & 'x'"))


def test_a_subset_without_faces_is_said_to_have_none():
    boxes, counts = np.array([[10.0, 10, 20, 20]]), np.array([[False], [False], [True]])
    truth = GroundTruth((ImageTruth("0--Parade/a", boxes, counts),))
    evaluation = evaluate(truth, {"0--Parade/a": np.array([[10.0, 10, 20, 20, 0.9]])})

    svg = curves_svg(evaluation, "title")

    assert texts(svg).count("no faces") == 2
    assert "nan" not in svg


def test_a_detector_that_found_nothing_has_a_picture_without_lines():
    boxes, counts = np.array([[10.0, 10, 20, 20]]), np.ones((3, 1), bool)
    truth = GroundTruth((ImageTruth("0--Parade/a", boxes, counts),))

    svg = curves_svg(evaluate(truth, {"0--Parade/a": np.zeros((0, 5))}), "title")

    assert texts(svg).count("AP 0.00 %") == 3
    assert "polyline" not in svg


def test_the_same_evaluation_gives_the_same_file(evaluation):
    assert curves_svg(evaluation, "title") == curves_svg(evaluation, "title")
