"""What a build shows while it runs."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from scrfdconv.cli.terminal.build_view import PlainView, build_view

CODE = """
import runpy, sys
from scrfdconv.cli.terminal.build_view import build_view
result = runpy.run_path({factory!r})["small"]()
with build_view() as view:
    view.planned([outcome.name for outcome in result.outcomes])
    for outcome in result.outcomes:
        view.started(outcome.name)
        view.finished(outcome)
    print("rich" in sys.modules)
"""
FACTORY = Path(__file__).parents[2] / "fakes" / "build_result.py"


def shown_on_a_terminal(stdout: int) -> tuple[bytes, str]:
    """stdout and what a terminal at stderr got."""
    ours, theirs = pty.openpty()
    ran = subprocess.run(
        [sys.executable, "-c", CODE.format(factory=str(FACTORY))], stdout=stdout, stderr=theirs,
        check=True, env={**os.environ, "TERM": "xterm", "COLUMNS": "300"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while block := os.read(ours, 1 << 16):
            shown += block
    except OSError:  # Linux says so that the other side is closed
        pass
    os.close(ours)
    return ran.stdout, shown.decode()


def test_logs_get_one_line_per_finished_step(small_result, capsys):
    with build_view() as view:
        view.planned([outcome.name for outcome in small_result.outcomes])
        for outcome in small_result.outcomes:
            view.started(outcome.name)
            view.finished(outcome)

    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == len(small_result.outcomes)
    assert lines[0].startswith("[1/6] built    scrfd_500m/scrfd_500m.onnx ")
    assert lines[0].endswith(" s  34 checks passed")
    assert lines[2].startswith("[3/6] FAILED   scrfd_500m/")
    assert "4 of 34 checks failed, first score_8 max_abs" in lines[2]
    assert lines[3].endswith("TensorRT is not installed on this machine")


@pytest.mark.parametrize(("total", "start"), [(9, "[1/9] "), (80, "[ 1/80] ")])
def test_counts_are_as_wide_as_the_largest(small_result, capsys, total, start):
    view = PlainView()

    view.planned(["x"] * total)
    view.finished(small_result.outcomes[1])

    assert capsys.readouterr().err.startswith(f"{start}cached ")


def test_logs_do_not_need_rich():
    ran = subprocess.run(
        [sys.executable, "-c", CODE.format(factory=str(FACTORY))], capture_output=True, text=True,
        check=True,
    )  # fmt: skip

    assert ran.stdout == "False\n"


def test_a_terminal_gets_the_same_lines_and_its_cursor_back():
    stdout, shown = shown_on_a_terminal(subprocess.PIPE)

    assert stdout == b"True\n"  # a piped result stays out of the view
    assert "built" in shown
    assert "34 checks passed" in shown
    assert "TensorRT is not installed on this machine" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # shown again after it was hidden
