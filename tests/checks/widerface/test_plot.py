"""The precision-recall picture."""

import sys
import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest

from scrfdconv.checks.widerface.plot import STYLES, plot_curves
from scrfdconv.checks.widerface.protocol import evaluate_results
from scrfdconv.checks.widerface.truth import GroundTruth, ImageTruth
from scrfdconv.converters.errors import MissingError

pytest.importorskip("matplotlib")

SVG = "{http://www.w3.org/2000/svg}"
ONE_BOX = np.array([[10.0, 10, 20, 20]])


def evaluated(boxes, counts, detections):
    truth = GroundTruth((ImageTruth("0--Parade/a", boxes, counts),))
    return evaluate_results(truth, {"0--Parade/a": detections})


@pytest.fixture
def evaluation():
    """One face of every subset found at once, one of the hard ones after a false alarm."""
    boxes = np.array([[10.0, 10, 20, 20], [60, 60, 20, 20]])
    counts = np.array([[True, False], [True, False], [True, True]])
    detections = np.array(
        [[10, 10, 20, 20, 0.9], [200, 200, 20, 20, 0.5], [60, 60, 20, 20, 0.4], [0, 0, 3, 3, 0.1]]
    )
    return evaluated(boxes, counts, detections)


@pytest.fixture
def svg(tmp_path):
    """Draw an evaluation as SVG."""

    def draw(evaluation, title="title"):
        plot_curves(evaluation, title, tmp_path / "part", ".svg")
        return ET.parse(tmp_path / "part").getroot()

    return draw


def texts(drawn):
    return [element.text for element in drawn.iter(f"{SVG}text")]


def curves(drawn):
    """The three lines by the name of their subset."""
    groups = {group.get("id"): group for group in drawn.iter(f"{SVG}g")}
    return {name: groups[name].find(f"{SVG}path") for name in STYLES if name in groups}


def test_the_picture_names_its_title_its_axes_and_every_subset_with_its_ap(evaluation, svg):
    shown = texts(svg(evaluation, "SCRFD 500M"))

    assert {"SCRFD 500M", "Recall", "Precision"} <= set(shown)
    assert [text for text in shown if "AP" in text] == [
        f"{name.capitalize()}  AP {100 * evaluation.ap[name]:.2f} %" for name in STYLES
    ]


def test_there_is_a_line_in_its_colour_for_every_subset(evaluation, svg):
    drawn = curves(svg(evaluation))

    assert drawn.keys() == STYLES.keys()
    for name, line in drawn.items():
        assert STYLES[name][0].lower() in line.get("style")
        assert line.get("d").startswith("M")


@pytest.mark.parametrize("title", ["<b> & 'x'", "a_$x$_b"])
def test_a_title_with_markup_is_shown_as_it_is(title, evaluation, svg):
    assert title in texts(svg(evaluation, title))


def test_a_subset_without_faces_is_said_to_have_none(svg):
    found = evaluated(
        ONE_BOX, np.array([[False], [False], [True]]), np.array([[10.0, 10, 20, 20, 0.9]])
    )

    shown = texts(svg(found))

    assert {"Easy  no faces", "Medium  no faces"} <= set(shown)
    assert not any("nan" in text for text in shown)


def test_a_detector_that_found_nothing_has_a_picture_without_lines(svg):
    drawn = svg(evaluated(ONE_BOX, np.ones((3, 1), bool), np.zeros((0, 5))))

    assert sum("AP 0.00 %" in text for text in texts(drawn)) == 3
    assert not any(line is not None and line.get("d") for line in curves(drawn).values())


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_same_evaluation_gives_the_same_file(suffix, evaluation, tmp_path):
    for name in ("a", "b"):
        plot_curves(evaluation, "title", tmp_path / name, suffix)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert b"<dc:date>" not in (tmp_path / "a").read_bytes()


def test_every_subset_has_its_colour_in_the_png(evaluation, tmp_path):
    plot_curves(evaluation, "title", tmp_path / "part", ".png")
    picture = cv2.imread(str(tmp_path / "part"))

    for colour, _ in STYLES.values():
        blue_green_red = list(bytes.fromhex(colour[1:]))[::-1]
        assert (picture == blue_green_red).all(axis=2).sum() > 100


def test_without_the_library_its_extra_is_named(evaluation, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(MissingError, match=r"pip install 'scrfdconv\[plot\]'"):
        plot_curves(evaluation, "title", tmp_path / "part", ".png")
