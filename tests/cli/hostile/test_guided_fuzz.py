"""Readers written in Python, on files that reach ever more of their branches: our errors only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="atheris has no wheel for this Python or system")

SECONDS = 8  # for each reader: a few ten thousand files
MOST_SECONDS, MOST_MEGABYTES = 20, 4096  # of one file; of the process, libraries included
PROGRAM = Path(__file__).parents[2] / "fakes" / "guided.py"
# Reader, name of its file, a good file to begin with.
READERS = {
    "config": (
        "scrfdconv.converters.checkpoint.config_data:assignments_in_file", "config.py",
        "a = dict(x=[1, 2] * 3, y='z')\nmodel = dict(type='SCRFD', **a)\nmodel['b'] = (1.5,)\n"),
    "architecture": (
        "scrfdconv.converters.network.architecture:architecture_from_toml", "net.toml",
        'name = "a"\nblock = "basic"\nstem_channels = [4, 4, 8]\nstage_blocks = [1, 1, 1, 1]\n'),
    "recipe": (
        "scrfdconv.recipes.build.recipe_file:load_recipe", "recipe.toml",
        '[checkpoints.a]\npath = "a.pth"\n[[targets]]\nformat = "onnx"\nshape = [[64, 64]]\n'),
    "INT8 plan": ("scrfdconv.recipes.int8.plan:load_plan", "plan.json", json.dumps({"version": 1})),
    "calibration table": (
        "scrfdconv.converters.precision.int8.calibration:load_table", "table.json",
        json.dumps({"version": 2, "images": 3, "shape": [64, 96], "ranges": {"x": [0, 1]}})),
    "ncnn": (
        "scrfdconv.converters.formats.ncnn.reading:read_network", "a.param",
        "7767517\n2 2\nInput in0 0 1 in0 0=64 1=64 2=3\nReLU r 1 1 in0 out0\n"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_reader_answers_whatever_it_is_given(name, tmp_path):
    reader, file, good = READERS[name]
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "good").write_text(good)
    (tmp_path / "a.bin").write_bytes(bytes(64))  # weights beside a .param

    ran = subprocess.run(
        [
            sys.executable, str(PROGRAM), reader, str(tmp_path / file), str(corpus),
            f"-max_total_time={SECONDS}", f"-timeout={MOST_SECONDS}",
            f"-rss_limit_mb={MOST_MEGABYTES}", "-max_len=4096", f"-artifact_prefix={tmp_path}/",
        ],
        capture_output=True, text=True, errors="replace", check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "DONE" in ran.stderr, "libFuzzer came to its end"
