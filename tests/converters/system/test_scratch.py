"""Temporary folders: gone after use, and what a killed process left is removed by the next."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from scrfdconv.converters.system.scratch import scratch_folder

HOLDER = """
import sys, time
from pathlib import Path
from scrfdconv.converters.system.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that uses a temporary folder beside ``tmp_path/out``, and that folder."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process, process.stdout.readline().strip()
        process.kill()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_empty_hidden_beside_its_file_and_gone_afterwards(tmp_path):
    with scratch_folder(tmp_path / "model.onnx") as folder:
        assert names(folder) == []
        assert names(tmp_path)[0].startswith(".scrfdconv-")
        (folder / "model.onnx").write_bytes(b"new")
        (folder / "model.onnx").rename(tmp_path / "model.onnx")

    assert names(tmp_path) == ["model.onnx"]


def test_without_a_place_it_is_where_the_system_keeps_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    with scratch_folder() as folder:
        assert folder.is_relative_to(tmp_path)

    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_no_folder(error, tmp_path):
    with pytest.raises(error), scratch_folder(tmp_path / "out") as folder:
        (folder / "deep").mkdir()
        (folder / "deep/half").write_text("half")
        raise error

    assert names(tmp_path) == []


def test_folders_of_living_processes_stay_and_those_of_killed_ones_go(holder, tmp_path):
    process, used = holder

    with scratch_folder(tmp_path / "out"):
        assert os.path.isdir(used)  # noqa: PTH112 - the text that the process printed
    process.kill()
    process.wait()
    with scratch_folder(tmp_path / "out") as folder:
        assert names(tmp_path) == [folder.parent.name]


def test_a_removal_that_was_killed_is_finished_by_the_next_one(tmp_path):
    empty = tmp_path / ".scrfdconv-abcdefgh"
    emptied = tmp_path / ".scrfdconv-ijklmnop"
    empty.mkdir()
    emptied.mkdir()
    (emptied / ".scrfdconv-lock").touch()

    with scratch_folder(tmp_path / "out"):
        pass

    assert names(tmp_path) == []


def test_folders_that_only_look_alike_are_not_touched(tmp_path):
    (tmp_path / "scrfdconv-pictures").mkdir()
    (tmp_path / "scrfdconv-pictures/a.jpg").write_bytes(b"mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "scrfdconv-abcdefgh").symlink_to(tmp_path / "elsewhere")

    with scratch_folder(tmp_path / "out"):
        pass

    assert names(tmp_path) == ["elsewhere", "scrfdconv-abcdefgh", "scrfdconv-pictures"]
    assert names(tmp_path / "scrfdconv-pictures") == ["a.jpg"]


def test_a_lock_is_never_a_link_to_another_file(tmp_path):
    folder = tmp_path / ".scrfdconv-abcdefgh"
    folder.mkdir()
    (tmp_path / "mine").write_bytes(b"mine")
    (folder / ".scrfdconv-lock").symlink_to(tmp_path / "mine")

    with scratch_folder(tmp_path / "out"):
        pass

    assert (tmp_path / "mine").read_bytes() == b"mine"
