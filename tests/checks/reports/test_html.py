"""The page: complete, safe, self-contained, and with the numbers of report.json."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from scrfdconv.checks.reports.html import html, share
from scrfdconv.checks.reports.outcome import BuildResult, FacesOn, Picture
from scrfdconv.checks.results import CheckResult, Report

VOID = {"meta", "br", "wbr", "link", "img", "input", "hr"}
LARGEST = 3_000_000  # bytes of a page of 88 artifacts, so that mail and CI systems take it


class Page(HTMLParser):
    """The elements as (tag, attributes, ancestors), with the text within each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict]] = []
        self.elements: list[tuple[str, dict]] = []
        self.feed(text)
        self.close()
        assert not self.open, "these elements were never closed"

    def handle_starttag(self, tag, attributes):
        element = (tag, {**dict(attributes), "text": ""})
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, {**dict(attributes), "text": ""}))

    def handle_endtag(self, tag):
        expected, _ = self.open.pop()
        assert tag == expected

    def handle_data(self, data):
        for _, attributes in self.open:
            attributes["text"] += data

    def all(self, tag, **wanted):
        return [
            found for name, found in self.elements
            if name == tag and all(found.get(key) == value for key, value in wanted.items())
        ]  # fmt: skip


@pytest.fixture(scope="module")
def page(small_result) -> Page:
    return Page(html(small_result))


def numbers_of(value) -> set[str]:
    """Every number in a report.json, as it stands there."""
    if isinstance(value, dict):
        return set().union(*map(numbers_of, value.values()))
    if isinstance(value, list):
        return set().union(*map(numbers_of, value))
    if isinstance(value, str):
        return {value} & {"nan", "inf", "-inf"}
    return {json.dumps(value)} - {"true", "false", "null"}


@pytest.mark.parametrize("name", ["small_result", "release_result"])
def test_the_numbers_in_the_page_are_those_of_the_json(name, request):
    result = request.getfixturevalue(name)

    shown = [
        found["data-value"] for _, found in Page(html(result)).elements if "data-value" in found
    ]

    known = numbers_of(json.loads(json.dumps(result.to_dict())))
    assert set(shown) <= known
    assert len(shown) > 100


def test_every_measurement_stands_in_the_page_with_its_limit(small_result, page):
    shown = {found["data-value"] for _, found in page.elements if "data-value" in found}

    for outcome in small_result.to_dict()["outcomes"]:
        for check in outcome["report"]["results"] if outcome["report"] else ():
            assert {json.dumps(check[key]).strip('"') for key in ("measured", "limit")} <= shown
        if outcome["latency"]:
            assert {str(outcome["latency"][key]) for key in ("float_ms", "artifact_ms")} <= shown


def test_nan_and_infinity_are_called_so(page):
    texts = {
        found["text"] for found in page.all("span") if found.get("data-value") in ("nan", "-inf")
    }

    assert texts == {"NaN", "-inf"}


@pytest.mark.parametrize("name", ["small_result", "release_result"])
def test_the_matrix_has_a_cell_for_every_checkpoint_and_kind(name, request):
    result = request.getfixturevalue(name)
    text = html(result)
    (matrix,) = re.findall(r'<table class="matrix">.*?</table>', text, re.DOTALL)

    heads, body = matrix.split("<tbody>")
    columns = len(re.findall(r'<th scope="col">', heads))
    rows = body.split("</tr>")[:-1]
    assert len(rows) == len({outcome.checkpoint for outcome in result.outcomes})
    for row in rows:
        assert row.count("<td") == columns
        assert row.count('<th scope="row">') == 1
    spans = [sum(map(int, re.findall(r'colspan="(\d+)"', row))) for row in heads.split("</tr>")]
    assert spans[:2] == [columns, columns]
    assert body.count("<a href=") == len(result.outcomes)


def test_two_artifacts_of_one_kind_share_a_cell(small_result):
    first = small_result.outcomes[0]

    text = html(BuildResult("r", (first, replace(first, name="opset11.onnx"))))

    (body,) = re.findall(r'<table class="matrix">.*?<tbody>(.*?)</tbody>', text, re.DOTALL)
    assert (body.count("<td>"), body.count("<a href=")) == (1, 2)


def test_every_link_leads_somewhere_in_the_page(page):
    places = {found["id"] for _, found in page.elements if "id" in found}
    links = [found["href"] for _, found in page.elements if "href" in found]

    assert {link[1:] for link in links if link.startswith("#")} <= places
    assert len(places) == len([1 for _, found in page.elements if "id" in found])


def test_the_page_needs_nothing_from_elsewhere(small_result, page):
    text = html(small_result)

    assert not re.search(r"https?://|url\(|@import", text)
    for tag, attributes in page.elements:
        assert tag not in {"script", "link", "iframe", "img", "object", "form"}
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith(("#", "data:image/"))
        assert not any(key.startswith("on") for key in attributes)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none';")


def test_a_picture_from_elsewhere_is_left_out(small_result):
    faces = FacesOn("p", (), ())
    outcome = replace(small_result.outcomes[0], faces=(faces,))
    foreign = Picture("p", 640, 480, "https://example.org/x.jpg")

    text = html(BuildResult("r", (outcome,), (foreign,)))

    assert "example.org" not in text


def test_names_and_texts_are_never_markup(small_result, page):
    text = html(small_result)

    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert page.all("title")[0]["text"] == "small <release> & co: failed"


def test_headings_go_down_in_single_steps(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]

    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_table_head_says_what_it_is_the_head_of(page):
    assert page.all("th")
    assert all(found.get("scope") in ("col", "row", "colgroup") for found in page.all("th"))


def test_wide_content_scrolls_in_a_box_that_keyboards_reach(page):
    tables, boxes = page.all("table"), page.all("div", **{"class": "scroll"})

    assert len(boxes) == len(tables)
    assert all(box["tabindex"] == "0" and box["role"] == "region" for box in boxes)


def test_every_drawing_has_a_name_or_is_hidden(page):
    for drawing in page.all("svg"):
        assert drawing.get("aria-hidden") == "true" or drawing.get("aria-label")


def test_failed_artifacts_are_open_and_the_others_are_not(small_result, page):
    artifacts = page.all("details", **{"class": "artifact"})

    assert sum("open" in found for found in artifacts) == small_result.counts["failed"]
    assert len(artifacts) == len(small_result.outcomes)


def test_every_state_stands_in_words(small_result, page):
    words = [found["text"].split(maxsplit=1)[1] for found in page.all("span") if
             (found.get("class") or "").startswith("state ")]  # fmt: skip

    for state, count in small_result.counts.items():
        assert words.count(state) == 2 * count  # in the matrix and above the artifact


def test_every_command_is_there(small_result, page):
    texts = {found["text"] for found in page.all("code")}

    assert {o.command for o in small_result.outcomes} | {small_result.command} <= texts


def test_faces_of_both_are_drawn_and_told_apart_without_colour(small_result, page):
    pictures = sum(len(outcome.faces) for outcome in small_result.outcomes)

    for kind in ("found", "reference"):
        drawn = [path for path in page.all("path", **{"class": kind}) if "v" in path["d"]]
        assert len(drawn) == pictures
    (style,) = page.all("style")
    assert re.search(r"\.reference \{[^}]*stroke-dasharray", style["text"])


def test_parents_that_are_artifacts_are_linked(small_result):
    parent, child = small_result.outcomes[:2]
    assert child.parents == (parent.name,)

    text = html(BuildResult("r", (parent, child)))

    (made_from,) = re.findall(r"made from</dt><dd>(<a .*?)</dd>", text)
    assert made_from.startswith('<a href="#a0">')


def test_boxes_are_shown_without_their_picture(small_result):
    outcome = small_result.outcomes[0]

    text = html(BuildResult("r", (outcome,)))

    assert text.count('role="img" aria-label="Faces on') == len(outcome.faces)
    assert '<use href="#p' not in text


def brightness(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    shares = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1, 2], ids=["light", "dark", "paper"])
def test_every_text_can_be_read_on_its_ground(page, theme):
    (style,) = page.all("style")
    block = re.findall(r":root \{(.*?)\}", style["text"], re.DOTALL)[theme]
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", block))

    for text in ("ink", "quiet", "good", "bad", "warn", "accent"):
        for ground in ("ground", "raised", "bad-ground"):
            low, high = sorted(brightness(colours[name]) for name in (text, ground))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)  # level AA


def test_a_release_fits_into_three_megabytes(release_result):
    assert len(html(release_result).encode()) < LARGEST


def test_a_build_of_nothing_has_a_page(builds):
    assert "nothing was asked for" in html(builds["nothing"]())


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, "< 1 %"),
        (0.36, "36 %"),
        (1.0, "100 %"),
        (41.04, "41 times"),
        (float("inf"), "far beyond"),
    ],
)
def test_shares_of_a_limit_are_for_people(value, written):
    assert share(value) == written


def test_slope_and_offset_of_an_output_stand_in_columns(small_result):
    results = [
        CheckResult("parity", "bbox_8", metric, value, 0.075)
        for metric, value in (("slope", 0.0123), ("offset", 0.0456))
    ]
    outcome = replace(small_result.outcomes[0], report=Report.of(results, []))

    table = Page(html(replace(small_result, outcomes=(outcome,))))

    headings = [found["text"] for found in table.all("th", scope="col")]
    assert headings.index("slope") + 1 == headings.index("offset")
    cells = " ".join(found["text"] for found in table.all("td"))
    assert "0.0123≤ 0.075 0.0456≤ 0.075" in cells
