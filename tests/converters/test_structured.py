"""Structured text becomes a dataclass or one error that names the file and the place."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scrfdconv.checks.reports.merge import read_report
from scrfdconv.converters.errors import ArtifactError, InputFileError
from scrfdconv.converters.graph.kept_float import kept_float
from scrfdconv.converters.metadata import architecture_from_metadata
from scrfdconv.converters.network.architecture import BUILTIN, architecture_from_toml
from scrfdconv.converters.precision.int8.calibration import CalibrationTable, load_table
from scrfdconv.converters.precision.int8.conversion import Int8Settings
from scrfdconv.converters.structured import (
    DEEPEST,
    LARGEST_JSON,
    LARGEST_TOML,
    Real,
    json_as,
    read_json,
    read_toml,
    to_json,
    to_plain,
)
from scrfdconv.recipes.build.manifest import load_manifest
from scrfdconv.recipes.int8.plan import Int8Plan, load_plan


@dataclass(frozen=True)
class Part:
    size: int
    share: Real = 0.0

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size is negative")


@dataclass(frozen=True)
class Whole:
    name: str
    parts: tuple[Part, ...] = ()
    kind: Literal["a", "b"] = "a"
    shape: tuple[int, int] = (1, 2)
    limit: float = 1.0
    labels: dict[str, float] = field(default_factory=dict)


# text -> what the error says besides the file
BAD_JSON = {
    "nothing": ("{", "no JSON"),
    "no object": ("[]", "expected object, got array"),
    "a number": ("3", "expected object, got int"),
    "null": ("null", "expected object, got null"),
    "a missing key": ("{}", "missing key name"),
    "a missing key inside": ('{"name": "n", "parts": [{}]}', "$.parts[0]: missing key size"),
    "a wrong type": ('{"name": 3}', "$.name: expected str, got int"),
    "a bool for a number": ('{"name": "n", "parts": [{"size": true}]}', "$.parts[0].size"),
    "a float for an integer": ('{"name": "n", "parts": [{"size": 1.5}]}', "$.parts[0].size"),
    "a bad choice": ('{"name": "n", "kind": "c"}', "$.kind"),
    "too few numbers": ('{"name": "n", "shape": [1]}', "$.shape"),
    "a refused value": ('{"name": "n", "parts": [{"size": -1}]}', "$.parts[0]: size is negative"),
    "NaN": ('{"name": "n", "limit": NaN}', "no JSON"),
    "Infinity": ('{"name": "n", "limit": Infinity}', "no JSON"),
    "1e999": ('{"name": "n", "limit": 1e999}', "out of range"),
    "400 digits": ('{"name": "n", "limit": ' + "9" * 400 + "}", "hex digits"),
    "5000 digits": ('{"name": "n", "limit": ' + "9" * 5000 + "}", ""),
    "a text for a float": ('{"name": "n", "limit": "nan"}', "$.limit: expected float, got str"),
    "a wrong text for Real": ('{"name": "n", "parts": [{"size": 1, "share": "x"}]}', "share"),
    "a wrong label": ('{"name": "n", "labels": {"x": "y"}}', "$.labels"),
    "depth": ("[" * 100_000, "no JSON"),
    "depth inside": ('{"name": "n", "x": ' + "[" * DEEPEST + "]" * DEEPEST + "}", "levels deep"),
    "two documents": ("{} {}", "no JSON"),
    "half a character": ('{"name": "\\ud800"}', "no JSON"),
    "an unknown key": ('{"name": "n", "more": 1}', "$.more: an unknown key"),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json_is_one_sentence_with_file_and_place(tmp_path, name):
    text, said = BAD_JSON[name]
    path = tmp_path / "it.json"
    path.write_text(text)

    with pytest.raises(ArtifactError) as caught:
        read_json(path, Whole, keys="known", error=ArtifactError)

    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("content", [b"\xff\xfe{", b'{"name": "\xff"}', b"\x00", b""])
def test_bytes_that_are_no_text_are_refused(tmp_path, content):
    path = tmp_path / "it.json"
    path.write_bytes(content)

    with pytest.raises(InputFileError, match=r"it\.json"):
        read_json(path, Whole)


def test_no_more_than_the_largest_size_is_read(tmp_path):
    for name, most, read in (("a", LARGEST_JSON, read_json), ("b", LARGEST_TOML, read_toml)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(most + 1)

        with pytest.raises(InputFileError, match="too large"):
            read(tmp_path / name, dict[str, Any])


@pytest.mark.parametrize(
    "text",
    ["[", "a = 1e999", "a = nan", "a = inf", "a = " + "9" * 400, "a = " + "9" * 5000,
     "a = " + "[" * 5000 + "]" * 5000, "a = " + "[" * 70 + "]" * 70, "a = 1\na = 2",
     ".".join("a" * 100) + " = 1", "a = 2020-01-01", "a = [1, 2020-01-01T00:00:00Z]"],
)  # fmt: skip
def test_bad_toml_is_one_sentence(tmp_path, text):
    path = tmp_path / "it.toml"
    path.write_text(text)

    with pytest.raises(InputFileError, match=r"it\.toml"):
        read_toml(path, dict[str, dict[str, int]])


def test_all_keys_are_asked_for_where_a_file_must_be_complete():
    whole = to_json(Whole("n"))
    short = json.dumps({key: value for key, value in json.loads(whole).items() if key != "kind"})

    assert json_as(whole, Whole, "it", keys="all") == Whole("n")
    with pytest.raises(InputFileError, match=r"\$\.kind: missing"):
        json_as(short, Whole, "it", keys="all")


def test_what_json_lacks_is_a_string_and_reads_back():
    text = to_json(Whole("\udcff", (Part(1, math.inf), Part(2, -math.inf), Part(3, math.nan))))

    read = json_as(text, Whole, "it", keys="all")

    assert [part.share for part in read.parts[:2]] == [math.inf, -math.inf]
    assert math.isnan(read.parts[2].share)
    assert read.name == "\\udcff"  # UTF-8 cannot hold half a character


# ---------------------------------------------------------------- every reader

TABLE = CalibrationTable("a", "b", 3, (64, 96), "minmax", {"x": (-0.1, 0.5)}, {"x": [0.7]})
CHECK = {"check": "c", "subject": "s", "metric": "m", "measured": 1, "limit": "nan",
         "relation": "<=", "passed": True, "detail": ""}  # fmt: skip
ENTRY = {
    "path": "a.onnx",
    "files": [{"path": "a.onnx", "sha256": "0" * 64, "size": 1}],
    "sha256": "0" * 64,
    "size": 1,
    "format": "onnx",
    "precision": "fp32",
    "checkpoint": {"name": "n", "model": None, "seed": None, "sha256": "0" * 64,
                   "weights_sha256": "0" * 64, "architecture": to_plain(BUILTIN["scrfd_1g"])},
    "options": {"tolerance": {"loosen": 1.0, "reason": ""}},
    "checks": [CHECK],
}  # fmt: skip
OUTCOME = {
    "name": "a", "checkpoint": "c", "format": "onnx", "precision": "fp32", "shape": "dynamic",
    "batch": 1, "state": "built", "why": "", "exit_code": 0, "command": "", "sha256": "",
    "size": 1, "seconds": 1.0, "report": {"passed": True, "summary": "", "results": [CHECK],
    "notes": []}, "histograms": [{"output": "o", "edges": [0.0, 1.0], "counts": [1], "below": 0,
    "limit": None}], "faces": [{"picture": "p", "reference": [{"x1": 0, "y1": 0, "x2": 1, "y2": 1,
    "score": 0.5}], "artifact": []}], "latency": {"float_ms": 1, "artifact_ms": 1, "ratio": 1,
    "shape": [1, 64, 96]}, "parents": [],
}  # fmt: skip


def plan_document() -> dict:
    """A plan as it is written, with the digest over itself."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "plan.json")
        Int8Plan(Int8Settings(TABLE, keep_float=("a",)), {}).save(path)
        return json.loads(path.read_text())


READERS = {
    "table": (load_table, to_plain(TABLE)),
    "plan": (load_plan, plan_document()),
    "manifest": (load_manifest, {"manifest_version": 2, "recipe": "r", "artifacts": [ENTRY]}),
    "report": (
        read_report,
        {"report_version": 1, "recipe": "r", "passed": True, "summary": "", "strict": False,
         "seconds": 1, "command": "", "environment": {"a": "b"}, "outcomes": [OUTCOME],
         "pictures": [{"name": "p", "width": 1, "height": 1, "thumbnail": ""}]},
    ),
}  # fmt: skip
ODD = [None, True, -1, 2**62, 1.5, -0.0, 1e308, 5e-324, "", "nan", "\0", "x" * 300, [], {}, [[]],
       {"a": 1}, [None], "::error::x", "../x"]  # fmt: skip


def places(value, path=()):
    """Every path into a document."""
    yield path
    if not isinstance(value, dict | list):
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield from places(item, (*path, key))


def changed(document, path, value, *, remove=False):
    """A copy of ``document`` with another value at ``path``, or without it."""
    copy = json.loads(json.dumps(document))
    if not path:
        return value
    parent = copy
    for key in path[:-1]:
        parent = parent[key]
    if remove:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return copy


@pytest.mark.parametrize("name", READERS)
def test_a_good_document_is_read(tmp_path, name):
    read, document = READERS[name]
    path = tmp_path / "it.json"
    path.write_text(json.dumps(document))

    assert read(path) is not None


@pytest.mark.parametrize("name", READERS)
def test_no_change_of_a_document_gives_anything_but_a_value_or_our_error(tmp_path, name):
    read, document = READERS[name]
    path, refused, tried = tmp_path / "it.json", 0, 0
    for place in places(document):
        texts = [changed(document, place, odd) for odd in ODD]
        texts += [changed(document, place, None, remove=True)] if place else []
        for content in texts:
            path.write_text(json.dumps(content))
            tried += 1
            try:
                read(path)
            except InputFileError as error:
                assert str(error).startswith(f"{path}: ")
                refused += 1

    assert refused > tried / 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(sorted(READERS)), st.data())
def test_mutated_documents_are_read_or_refused(tmp_path_factory, name, data):
    read, document = READERS[name]
    place = data.draw(st.sampled_from(list(places(document))))
    text = json.dumps(changed(document, place, data.draw(JSON))).encode()
    cut = data.draw(st.integers(0, len(text)))
    text = text[:cut] + data.draw(st.binary(max_size=3)) + text[cut:]
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_bytes(text)

    try:
        read(path)
    except InputFileError as error:
        assert "fuzz.json" in str(error)


@settings(deadline=None, max_examples=200)
@given(st.text() | JSON.map(json.dumps))
def test_any_metadata_is_read_or_refused(text):
    for read in (
        lambda: architecture_from_metadata({"architecture": text}),
        lambda: kept_float({"kept_float": text}),
    ):
        try:
            read()
        except ArtifactError as error:
            assert "metadata" in str(error)


@pytest.mark.parametrize("key", sorted(to_plain(BUILTIN["scrfd_10g"])))
@pytest.mark.parametrize("value", ["true", "-1", '"x"', "[]", "[1e999]", "nan", "{a = 1}"])
def test_an_architecture_with_an_odd_value_is_read_or_refused(tmp_path, key, value):
    path = tmp_path / "odd.toml"
    path.write_text(f'[architecture]\nbase = "scrfd_10g"\n{key} = {value}\n')

    try:
        architecture_from_toml(path)
    except InputFileError as error:
        assert "odd.toml" in str(error)
