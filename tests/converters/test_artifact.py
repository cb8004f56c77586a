"""Kinds of files, and replacing one only whole."""

from __future__ import annotations

import zipfile

import pytest
import torch

from scrfdconv.converters import artifact
from scrfdconv.converters.artifact import digest_of, once_per_file, replacing
from scrfdconv.converters.errors import ArtifactError, InputFileError, OutputError
from scrfdconv.converters.formats import format_of, require_format
from scrfdconv.converters.formats.torchscript.runner import without_deprecation
from scrfdconv.converters.graph.model_file import load_onnx


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"hello world", "is neither a checkpoint"),
        (b"PK\x03\x04 and nothing", "damaged or truncated zip"),
        (b"\xff\xd8\xff\xe0 JFIF", "is neither a checkpoint"),
    ],
)
def test_a_file_of_no_known_kind_is_named(content, said, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)

    with pytest.raises(InputFileError, match=said):
        format_of(path)


def test_missing_files_folders_and_foreign_archives_are_told_apart(tmp_path):
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme", "hello")

    for path, said in ((tmp_path / "none", "no such file"), (tmp_path, "is a folder"),
                       (archive, "holds no torch model")):  # fmt: skip
        with pytest.raises(InputFileError, match=said):
            format_of(path)


def test_the_content_decides_not_the_suffix(tiny_onnx, tiny_pth, tmp_path):
    plan = tmp_path / "engine.pth"
    plan.write_bytes(b"ftrt" + bytes(60))
    script = tmp_path / "script.onnx"
    with without_deprecation():
        torch.jit.save(torch.jit.script(torch.nn.Identity()), script)

    kinds = [format_of(p).name for p in (tiny_onnx, tiny_pth, plan, script)]

    assert kinds == ["onnx", "pytorch", "tensorrt", "torchscript"]
    with pytest.raises(ArtifactError, match="is of kind onnx, expected pytorch"):
        require_format(tiny_onnx, "pytorch")


def test_a_new_file_appears_whole(tmp_path):
    out = tmp_path / "a.onnx"

    with replacing(out) as part:
        part.write_bytes(b"new")
        assert not out.exists()

    assert out.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_after_a_failure_the_old_file_is_still_there(error, tmp_path):
    out = tmp_path / "a.onnx"
    out.write_bytes(b"old")

    with pytest.raises(error), replacing(out) as part:
        part.write_bytes(b"half")
        raise error

    assert out.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


@pytest.mark.parametrize("place", ["none/a.onnx", "."])
def test_a_place_that_cannot_be_written_is_a_usage_error(place, tmp_path):
    with pytest.raises(OutputError), replacing(tmp_path / place):
        pass


def test_the_digest_is_sha256_of_the_content(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")

    assert digest_of(path).startswith("ba7816bf8f01cfea")


@pytest.fixture
def content():
    """Reads a file, with the list of all readings."""
    readings = []

    @once_per_file
    def read(path):
        readings.append(path)
        return path.read_text()

    return read, readings


def test_an_answer_is_remembered_until_the_file_is_another_one(content, tmp_path, monkeypatch):
    monkeypatch.setattr(artifact, "SETTLED_NS", 0)
    read, readings = content
    path, part = tmp_path / "a", tmp_path / "part"
    path.write_text("old")
    part.write_text("new")  # of the same size, put in place as artifacts are

    assert [read(path), read(path)] == ["old", "old"]
    part.replace(path)
    assert [read(path), read(path)] == ["new", "new"]
    assert len(readings) == 2
    path.unlink()
    with pytest.raises(InputFileError, match="no such file"):
        read(path)


def test_of_a_file_that_is_still_being_written_nothing_is_remembered(content, tmp_path):
    read, readings = content
    path = tmp_path / "a"
    found = []
    for text in "abcdef":  # faster than the clock of the file system
        path.write_text(text)
        found.append(read(path))

    assert found == list("abcdef")
    assert len(readings) == 6


def test_a_model_read_twice_belongs_to_each_reader(tiny_onnx):
    first = load_onnx(tiny_onnx)
    nodes = len(first.graph.node)
    del first.graph.node[:]

    assert len(load_onnx(tiny_onnx).graph.node) == nodes > 0
