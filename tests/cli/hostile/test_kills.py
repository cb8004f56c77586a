"""Every verb, ended at random moments: no process, no file on the way, no half output is left."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

pytestmark = pytest.mark.slow

MOMENTS = 8  # for each verb, the signals in turn; half of them where onnx has the same code
ENDS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
SIZE = "--shape 64 64"
MADE_ALIKE = f"{SIZE} --no-verify"  # verified by the code that onnx runs
RUNTIMES_OWN = ".ses"  # which ONNX Runtime keeps among the temporary files
PATIENCE = 60  # seconds; an idle machine takes less than one
RECIPE = """
[checkpoints.tiny]
path = "tiny.pth"
[[targets]]
format = "onnx"
shape = [[64, 64], [64, 96]]
"""


@dataclass(frozen=True)
class Command:
    """A command line, and what it writes."""

    words: str
    output: str = ""


COMMANDS = {
    "onnx": Command(f"tiny.pth {SIZE} -o out.onnx", "out.onnx"),
    "torchscript": Command(f"tiny.pth {MADE_ALIKE} -o out.pt", "out.pt"),
    "fp16": Command(f"tiny.pth {MADE_ALIKE} -o out.onnx", "out.onnx"),
    "int8": Command(
        "tiny.pth --shape 96 128 --images pictures --max-face-loss 1 --no-verify -o out.onnx",
        "out.onnx",
    ),
    "simplify": Command(f"tiny.onnx {SIZE} -o out.onnx", "out.onnx"),
    "detect": Command("tiny.onnx pictures --size 64 64 --draw drawn", "drawn/0.png"),
    "eval": Command("tiny.onnx --widerface wider --mode 64 --workers 2 --results found"),
    "bench": Command("tiny.onnx tiny.onnx --shape 64 64 --runs 5 --threads 1"),
    "build": Command("recipe.toml -o built --jobs 2", "built/tiny/tiny_shape64x64.onnx"),
    "verify": Command("tiny.onnx --reference tiny.pth"),
    "bisect": Command("tiny.onnx --reference tiny.pth"),
    "lift": Command("tiny.onnx -o out.pth", "out.pth"),
    "openvino": Command(f"tiny.pth {MADE_ALIKE} -o out.xml", "out.bin"),
    "ncnn": Command(f"tiny.pth {MADE_ALIKE} -o out.param", "out.bin"),
    "mnn": Command(f"tiny.pth {MADE_ALIKE} -o out.mnn", "out.mnn"),
    "pack": Command("triton tiny.onnx -o packed"),
}


@pytest.fixture
def folder(tmp_path, tiny_pth, tiny_onnx, widerface):
    """All that the commands read, and a place for temporary files."""
    shutil.copy(tiny_pth, tmp_path / "tiny.pth")
    shutil.copy(tiny_onnx, tmp_path / "tiny.onnx")
    (tmp_path / "wider").symlink_to(widerface)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "temporary").mkdir()
    (tmp_path / "pictures").mkdir()
    draw = np.random.default_rng(0)
    for name in range(4):
        picture = draw.integers(0, 256, (64, 64, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"pictures/{name}.png"), picture)
    return tmp_path


def started(verb: str, folder: Path) -> subprocess.Popen:
    """The command in a session of its own, from the moment on that signals reach our handlers."""
    command = [sys.executable, "-m", "scrfdconv.cli", verb, *COMMANDS[verb].words.split()]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "TMPDIR": str(folder / "temporary")},
    )  # fmt: skip
    while process.poll() is None and not _handles_signals(process.pid):
        time.sleep(0.005)
    return process


def _handles_signals(pid: int) -> bool:
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def wait_for_the_session(leader: int) -> list[psutil.Process]:
    """Processes of a session that are still there when all had time to end."""
    deadline = time.monotonic() + PATIENCE
    while left := [one for one in psutil.process_iter() if _session(one.pid) == leader]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return left


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def on_the_way(folder: Path) -> list[str]:
    """What only a running command has."""
    hidden = [p for p in folder.rglob("*") if ".scrfdconv-" in p.name or p.name.endswith(".part")]
    scratch = list(folder.rglob(".scrfdconv/scratch"))
    temporary = [p for p in (folder / "temporary").iterdir() if p.name != RUNTIMES_OWN]
    return sorted({str(path) for path in (*hidden, *scratch, *temporary)})


def remove_what_is_not_made_again(folder: Path) -> None:
    for done in ("built", "found", "packed"):
        shutil.rmtree(folder / done, ignore_errors=True)


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_verb_that_is_ended_leaves_nothing_and_harms_nothing(verb, folder):
    output = folder / (COMMANDS[verb].output or "none")
    begun = time.monotonic()
    first = started(verb, folder)
    handled = time.monotonic()
    _, err = first.communicate(timeout=300)
    whole = time.monotonic() - handled
    assert first.returncode == 0, err
    assert handled - begun < PATIENCE
    allowed = [b"old"]
    if COMMANDS[verb].output:
        allowed.append(output.read_bytes())
    moments = random.Random(verb)

    for turn in range(MOMENTS // 2 if MADE_ALIKE in COMMANDS[verb].words else MOMENTS):
        sent = list(ENDS)[turn % len(ENDS)]
        if COMMANDS[verb].output and verb != "build":  # a build would find damage and go on
            output.write_bytes(b"old")
        remove_what_is_not_made_again(folder)
        before = set(on_the_way(folder))
        process = started(verb, folder)
        moment = moments.uniform(0, whole)
        time.sleep(moment)
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)  # as a terminal does
        else:
            process.send_signal(sent)
        _, err = process.communicate(timeout=PATIENCE)
        what = f"{sent.name} after {moment:.3f} of {whole:.3f} s: {err}"

        assert process.returncode in (ENDS[sent], 0), what
        assert "Traceback" not in err, what
        assert not wait_for_the_session(process.pid), what
        if output.exists():
            assert output.read_bytes() in allowed, what
        if sent != signal.SIGKILL:
            assert set(on_the_way(folder)) <= before, what  # earlier kills left something

    remove_what_is_not_made_again(folder)
    last = started(verb, folder)
    _, err = last.communicate(timeout=300)
    assert last.returncode == 0, err
    assert on_the_way(folder) == []
