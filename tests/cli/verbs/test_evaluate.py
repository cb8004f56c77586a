"""The verb eval as users type it."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import cv2
import pytest
import torch

from scrfdconv.converters.checkpoint.loading import seeded_checkpoint
from scrfdconv.converters.network.architecture import BUILTIN

GOOD = "x.jpg\n1\n1 2 30 40 0.9\n"


def test_a_model_is_evaluated_drawn_and_its_detections_scored_again(
    scrfdconv, tiny_onnx, widerface, tmp_path
):
    pytest.importorskip("matplotlib")
    ran = scrfdconv("eval", tiny_onnx, "--widerface", widerface, "--mode", 64, "--workers", 2,
                    "--results", "out", "--plot", "curves.svg", "--json")  # fmt: skip
    again = scrfdconv("eval", "--results", "out", "--ground-truth", widerface, "--plot", "c.PNG")

    assert ran.code == 0, ran.err
    assert (ran.json["images"], ran.json["mode"], ran.json["published"]) == (5, "64", None)
    assert ran.json["faces"] == {"easy": 5, "medium": 5, "hard": 10}
    assert ran.json["ap"]["easy"] > 90
    assert ET.parse(tmp_path / "curves.svg").getroot().tag.endswith("svg")
    assert again.code == 0, again.err
    assert cv2.imread(str(tmp_path / "c.PNG")) is not None
    row = next(line for line in again.out.splitlines() if line.startswith("AP"))
    assert [float(v) for v in row.split()[1:]] == [
        pytest.approx(v, abs=0.006) for v in ran.json["ap"].values()
    ]


def test_the_published_row_stands_below_the_measured_one(scrfdconv, widerface, tmp_path):
    checkpoint = seeded_checkpoint(BUILTIN["scrfd_500m_kps"])
    torch.save({"state_dict": dict(checkpoint.weights)}, tmp_path / "m.pth")

    ran = scrfdconv("eval", "m.pth", "--widerface", widerface, "--mode", 64, "--limit", 1)

    assert ran.code == 0, ran.err
    head, measured, published, _ = ran.out.splitlines()
    assert published.startswith("published, SCRFD_500M_KPS at vga")
    assert published.split()[-3:] == ["90.97", "88.44", "69.49"]
    assert len(head) == len(measured) == len(published)


def test_a_smoke_run_says_that_its_number_compares_with_no_other(scrfdconv, tiny_onnx, widerface):
    ran = scrfdconv("eval", tiny_onnx, "--widerface", widerface, "--mode", 64, "--limit", 1)

    assert ran.code == 0, ran.err
    assert "compares with no other" in ran.err
    assert "--results DIR" in ran.err


def test_agreement_needs_no_labels(scrfdconv, tiny_onnx, tiny_pth, widerface):
    ran = scrfdconv("eval", tiny_onnx, "--images", widerface, "--reference", tiny_pth, "--json")

    assert ran.code == 0, ran.err
    assert ran.json["images"] == 5
    assert ran.json["reference_faces"] > 0
    assert ran.json["ap"] == pytest.approx(1, abs=0.01)
    assert not any(isinstance(v, float) and math.isnan(v) for v in ran.json.values())


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_evaluation_continues_from_whole_files(
    sent, scrfdconv, tiny_onnx, widerface, tmp_path
):
    arguments = ["eval", tiny_onnx, "--widerface", widerface, "--mode", 1280, "--results", "out"]
    command = [sys.executable, "-m", "scrfdconv.cli", *map(str, arguments), "--workers", "2"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out").glob("*/*.txt")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(sent)

    ran = scrfdconv(*arguments, "--workers", 1)

    assert ran.code == 0, ran.err
    assert "were finished before" in ran.err
    assert not list((tmp_path / "out").rglob("*.part"))


def results(folder, **files):
    for name, text in files.items():
        path = folder / "found" / f"{name.replace('__', '/')}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_plot_without_its_library_is_refused_before_any_work(
    scrfdconv, tiny_onnx, widerface, tmp_path
):
    (tmp_path / "absent/matplotlib").mkdir(parents=True)
    (tmp_path / "absent/matplotlib/__init__.py").write_text("raise ImportError('absent')")

    ran = scrfdconv(
        *("eval", tiny_onnx, "--widerface", widerface),
        *("--results", "out", "--plot", "c.svg"),
        PYTHONPATH=str(tmp_path / "absent"),
    )

    assert ran.code == 4
    assert "pip install 'scrfdconv[plot]'" in ran.sentence
    assert not (tmp_path / "out").exists()


BAD = {
    "no way at all": ([], {}, 2, "Give MODEL --widerface DIR"),
    "a model without data": (["MODEL"], {}, 2, "needs --widerface"),
    "images without a reference": (["MODEL", "--images", "."], {}, 2, "--reference"),
    "a foreign mode": (["MODEL", "--widerface", "WIDER", "--mode", "big"], {}, 2, "Mode 'big'"),
    "a size off the grid": (
        ["MODEL", "--widerface", "WIDER", "--mode", 650], {}, 2, "take 640 or 672",
    ),
    "a mode for result files": (
        ["--results", "found", "--ground-truth", "WIDER", "--mode", 320], {}, 2, "--mode is for",
    ),
    "a mode for an agreement": (
        ["MODEL", "--images", ".", "--reference", "MODEL", "--mode", 320], {}, 2, "--mode is for",
    ),
    "workers of two kinds": (
        ["MODEL", "--images", ".", "--reference", "MODEL", "--workers", 2, "--scheduler",
         "tcp://h:1"], {}, 2, "--workers is for this machine",
    ),
    "a plot as PDF": (["MODEL", "--widerface", "WIDER", "--plot", "c.pdf"], {}, 2, ".svg or .png"),
    "no ground truth": (
        ["--results", "found", "--ground-truth", "."], {"0--Parade__0_a": GOOD}, 3,
        "wider_face_val.mat is not here",
    ),
    "NaN": (
        ["--results", "found", "--ground-truth", "WIDER"],
        {"0--Parade__0_a": GOOD.replace("0.9", "nan")}, 3, "line 3: '1 2 30 40 nan' is not five",
    ),
    "too few images": (
        ["--results", "found", "--ground-truth", "WIDER"], {"0--Parade__0_a": GOOD}, 3,
        "4 of 5 images are missing, first 0--Parade/0_b",
    ),
    "a foreign event": (
        ["--results", "found", "--ground-truth", "WIDER"], {"99--Other__x": GOOD}, 3,
        "99--Other/x: no such event",
    ),
    "no results": (["--results", "none", "--ground-truth", "WIDER"], {}, 3, "no such folder"),
    "no model": (["none.onnx", "--widerface", "WIDER"], {}, 3, "no such file"),
    "no images": (["MODEL", "--widerface", "."], {}, 3, "is not here"),
}  # fmt: skip


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("arguments", "files", "code", "says"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_sentence(
    arguments, files, code, says, scrfdconv, tiny_onnx, widerface, tmp_path
):
    results(tmp_path, **files)
    given = [{"MODEL": tiny_onnx, "WIDER": widerface}.get(a, a) for a in arguments]

    ran = scrfdconv("eval", *given, "--json")

    assert ran.code == code, ran.err
    assert says in ran.sentence
    assert ran.json["exit_code"] == code
