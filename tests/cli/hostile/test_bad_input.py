"""Whatever is wrong gets one sentence and the right exit code, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from scrfdconv.converters.checkpoint.loading import seeded_checkpoint
from scrfdconv.converters.network.architecture import BUILTIN


def save(weights, path):
    torch.save({"state_dict": dict(weights)}, path)


class Evil:
    """Unpickling this creates a file."""

    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


@pytest.fixture(scope="module")
def inputs(tiny, tiny_onnx, tiny_pth, tmp_path_factory) -> Path:
    """A folder of files that are wrong in one way each."""
    folder = tmp_path_factory.mktemp("inputs")
    whole = tiny_pth.read_bytes()
    (folder / "good.pth").write_bytes(whole)
    (folder / "good.onnx").write_bytes(tiny_onnx.read_bytes())
    (folder / "empty.pth").touch()
    (folder / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.onnx").write_bytes(tiny_onnx.read_bytes()[:4000])
    (folder / "text.pth").write_text("not a model")
    (folder / "config.py").write_text("model = dict(type='RetinaNet')")
    torch.save(tiny.model(), folder / "module.pth")
    torch.save({"state_dict": dict(tiny.weights), "meta": Evil()}, folder / "evil.pth")
    key = "neck.fpn_convs.0.conv.weight"
    known = seeded_checkpoint(BUILTIN["scrfd_500m_kps"]).weights
    save(known, folder / "known.pth")
    save({k: v for k, v in known.items() if k != key}, folder / "missing.pth")
    save({**known, "neck.extra.weight": torch.ones(1)}, folder / "extra.pth")
    save({**known, key: torch.ones(2, 2)}, folder / "shape.pth")
    save({**known, key: known[key] * np.nan}, folder / "nan.pth")
    save({**known, key: known[key] / 0}, folder / "inf.pth")
    save({k: v.half() for k, v in tiny.weights.items()}, folder / "half.pth")
    os.mkfifo(folder / "pipe")
    (folder / "locked.pth").write_bytes(whole)
    (folder / "locked.pth").chmod(0)
    return folder


# arguments, exit code, what the sentence says
CASES = {
    "missing file": (["onnx", "none.pth"], 3, "no such file"),
    "unknown name": (["onnx", "scrfd_11g"], 2, "neither a file nor a known model"),
    "empty file": (["onnx", "empty.pth"], 3, "is empty"),
    "truncated checkpoint": (["onnx", "cut.pth"], 3, "damaged or truncated"),
    "truncated ONNX": (["simplify", "cut.onnx"], 3, "cut.onnx"),
    "text": (["onnx", "text.pth"], 3, "is neither a checkpoint"),
    "folder": (["inspect", "."], 3, "is a folder"),
    "ONNX as checkpoint": (
        ["torchscript", "good.onnx", "--no-lift"], 2, "built from pytorch, not from onnx"),
    "checkpoint as ONNX": (["simplify", "good.pth"], 3, "is of kind pytorch, expected onnx"),
    "checkpoint as artifact of another": (
        ["verify", "good.pth", "--reference", "known.pth"], 1, "checks failed"),
    "pickled module": (["onnx", "module.pth"], 3, "never executed"),
    "pickle that runs code": (["onnx", "evil.pth"], 3, "never executed"),
    "wrong recipe": (["onnx", "known.pth", "--recipe", "scrfd_1g"], 3, "looks like scrfd_500m_kps"),
    "unknown recipe": (["onnx", "known.pth", "--recipe", "x"], 2, "neither a known model"),
    "wrong config": (["onnx", "known.pth", "--config", "config.py"], 3, "config.py"),
    "recipe and config": (
        ["onnx", "known.pth", "--recipe", "scrfd_1g", "--config", "config.py"], 2, "give one"),
    "missing tensor": (["onnx", "missing.pth"], 3, "1 tensor missing (neck.fpn_convs.0"),
    "extra tensor": (["onnx", "extra.pth"], 3, "1 tensor unexpected (neck.extra.weight)"),
    "mis-shaped tensor": (["onnx", "shape.pth"], 3, "[2, 2] instead of [16, 16, 3, 3]"),
    "NaN": (["onnx", "nan.pth"], 3, "not finite"),
    "infinity": (["onnx", "inf.pth"], 3, "not finite"),
    "shape zero": (["onnx", "good.pth", "--shape", 0, 0], 2, "height 0 (nearest: 32)"),
    "shape negative": (["onnx", "good.pth", "--shape", -32, 64], 2, "height -32"),
    "shape of upstream": (["onnx", "good.pth", "--shape", -1, -1], 2, "leave --shape out"),
    "order of upstream": (
        ["onnx", "config.py", "good.pth"], 2, "onnx good.pth --config config.py"),
    "batch of words": (["onnx", "good.pth", "--batch", "many"], 2, "neither dynamic nor a number"),
    "batch for ncnn": (
        ["ncnn", "good.pth", "--shape", 64, 64, "--batch", "dynamic"], 2, "one picture at a time"),
    "shape off the grid": (["onnx", "good.pth", "--shape", 650, 490], 2, "640 or 672"),
    "shape beyond memory": (["onnx", "--shape", 200000, 200000], 4, "choose a smaller shape"),
    "batch without shape": (["onnx", "good.pth", "--batch", 2], 2, "give --shape H W"),
    "batch zero": (["onnx", "good.pth", "--shape", 64, 64, "--batch", 0], 2, "batch"),
    "opset": (["onnx", "good.pth", "--opset", 10], 2, "supported are 11 to 20"),
    "exporter": (["onnx", "good.pth", "--exporter", "caffe"], 2, "caffe"),
    "output folder missing": (["onnx", "good.pth", "-o", "no/out.onnx"], 2, "does not exist"),
    "output is a folder": (["onnx", "good.pth", "-o", "."], 2, "is a folder"),
    "output is a device": (["onnx", "good.pth", "-o", "pipe"], 2, "is no ordinary file"),
    "output is the source": (["onnx", "good.pth", "-o", "good.pth"], 2, "is the checkpoint"),
    "output name too long": (["onnx", "good.pth", "-o", "x" * 300], 2, "too long"),
    "empty name": (["onnx", ""], 2, "SOURCE is empty"),
    "recipe of an ONNX": (["onnx", "good.onnx", "--recipe", "scrfd_1g"], 2, "is onnx"),
    "groups of a name": (["onnx", "scrfd_1g", "--norm-groups", 4], 2, "for checkpoint files"),
    "groups of BatchNorm": (["onnx", "good.pth", "--norm-groups", 4], 2, "has no GroupNorm"),
    "seed of a file": (["onnx", "good.pth", "--seed", 3], 2, "built-in models"),
    "unknown option": (["onnx", "--fast"], 2, "--fast"),
    "unknown verb": (["convert"], 2, "convert"),
    "no reference": (["verify", "good.onnx"], 2, "--reference"),
    "missing artifact": (["verify", "no.onnx", "--reference", "good.pth"], 3, "no such file"),
    "missing images": (
        ["verify", "good.onnx", "--reference", "good.pth", "--images", "no"], 3, "no"),
    "loosened below one": (
        ["verify", "good.onnx", "--reference", "good.pth", "--loosen", 0.5], 2, "1 or more"),
    "host code of digests": (
        ["verify", "manifest.json", "--allow-host-code"], 2, "--allow-host-code is for --rerun"),
    "host code of a manifest": (
        ["verify", "manifest.json", "--rerun", "--allow-host-code"], 3, "no such file"),
    "toml without a name": (["models", "--toml"], 2, "name of a model"),
}  # fmt: skip


LONG = ("shape beyond memory", "checkpoint as artifact of another")  # ten seconds and more
# One of each kind runs as a process: a file, an option, code that must not run, memory.
PROCESSES = (
    "truncated checkpoint",
    "unknown option",
    "pickle that runs code",
    "shape beyond memory",
)


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=pytest.mark.slow if c in LONG else ()) for c in CASES],
)
def test_bad_input_gets_one_sentence_and_the_right_exit_code(case, inputs, scrfdconv, in_process):
    arguments, code, said = CASES[case]
    before = sorted(p.name for p in inputs.iterdir())

    ran = (scrfdconv if case in PROCESSES else in_process)(*arguments, cwd=inputs)

    assert ran.code == code, ran.err
    assert said in ran.sentence
    assert sorted(p.name for p in inputs.iterdir()) == before, "nothing is left behind"


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", ["missing file", "NaN", "opset", "unknown option", "unknown verb"])
def test_with_json_a_failure_is_one_object_too(case, inputs, scrfdconv):
    arguments, code, said = CASES[case]

    ran = scrfdconv(*arguments, "--json", cwd=inputs)

    content = json.loads(ran.out)
    assert content["exit_code"] == ran.code == code
    assert said in content["error"]


def test_a_half_precision_checkpoint_loads(inputs, scrfdconv, tmp_path):
    ran = scrfdconv("onnx", inputs / "half.pth", "--json")

    assert ran.code == 0, ran.err
    assert "float16" in ran.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads and writes everything")
def test_without_permission_reading_and_writing_are_refused(inputs, scrfdconv, tmp_path):
    assert scrfdconv("onnx", "locked.pth", cwd=inputs).code == 3
    tmp_path.chmod(0o500)
    assert scrfdconv("onnx", inputs / "good.pth", "-o", tmp_path / "out.onnx").code == 2


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 64 KiB, where mounting is allowed."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_and_leaves_the_old_artifact(full_disk, scrfdconv):
    old = full_disk / "out.onnx"
    old.write_bytes(b"old")

    ran = scrfdconv("onnx", "--shape", 64, 64, "-o", old)

    assert ran.code == 4, ran.err
    assert "no space left" in ran.sentence
    assert old.read_bytes() == b"old"
    assert [p.name for p in full_disk.iterdir()] == ["out.onnx"]


def start(inputs, tmp_path):
    """A conversion that was begun: its temporary file is there."""
    command = [sys.executable, "-m", "scrfdconv.cli", "onnx", str(inputs / "known.pth")]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".scrfdconv-*/files")):
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("sent", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_an_interrupted_conversion_leaves_the_old_artifact(sent, code, inputs, scrfdconv, tmp_path):
    out = tmp_path / "known.onnx"
    out.write_bytes(b"old")

    process = start(inputs, tmp_path)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)

    assert process.returncode == code
    assert "Traceback" not in err
    assert out.read_bytes() == b"old"
    if sent != signal.SIGKILL:
        assert [p.name for p in tmp_path.iterdir()] == ["known.onnx"]
    else:  # the next run clears what a killed one left
        assert scrfdconv("onnx", inputs / "known.pth").code == 0
        assert [p.name for p in tmp_path.iterdir()] == ["known.onnx"]
        assert out.read_bytes() != b"old"
