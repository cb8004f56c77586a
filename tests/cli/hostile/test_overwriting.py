"""No verb writes over a file that it reads."""

from __future__ import annotations

import re
import shutil

import cv2
import numpy as np
import onnx
import pytest

from scrfdconv.checks.reports.files import report_json
from scrfdconv.converters.artifact import require_distinct
from scrfdconv.converters.errors import OutputError
from scrfdconv.converters.network.architecture import toml_from_architecture

RECIPE = """
version = 1
name = "a"

[checkpoints.a]
path = "{}"

[[targets]]
format = "onnx"
"""


@pytest.fixture
def files(tiny, tiny_onnx, tiny_pth, small_result, tmp_path):
    """A model, a checkpoint, a picture and a table in one folder."""
    shutil.copy(tiny_onnx, tmp_path / "model.onnx")
    shutil.copy(tiny_pth, tmp_path / "model.pth")
    cv2.imwrite(str(tmp_path / "face.png"), np.full((64, 64, 3), 90, np.uint8))
    # pictures by their content
    for name in ("face.bin", "face.onnx"):
        shutil.copy(tmp_path / "face.png", tmp_path / name)
    shutil.copy(tiny_onnx, tmp_path / "model.png")
    (tmp_path / "table.json").write_text("{}")
    (tmp_path / "net.toml").write_text(toml_from_architecture(tiny.architecture))
    onnx.save(
        onnx.load(tiny_onnx),
        tmp_path / "large.onnx",
        save_as_external_data=True,
        location="large.data",
        size_threshold=512,
    )
    (tmp_path / "build.toml").write_text(RECIPE.format("model.pth"))
    (tmp_path / "a").mkdir()
    shutil.copy(tiny_pth, tmp_path / "a" / "a.onnx")
    (tmp_path / "itself.toml").write_text(RECIPE.format("a/a.onnx"))
    package = tmp_path / "insightface/models/a"
    package.mkdir(parents=True)
    shutil.copy(tiny_pth, package / "a.onnx")
    (tmp_path / "package.toml").write_text(RECIPE.format("insightface/models/a/a.onnx"))
    shutil.copy(tmp_path / "build.toml", tmp_path / "report.md")
    (tmp_path / "report.json").write_text(report_json(small_result))
    return tmp_path


IS_TINY = ("--architecture", "net.toml")
COMMANDS = {
    "onnx over its checkpoint": ["onnx", "model.pth", "-o", "model.pth"],
    "onnx over its source": ["onnx", "model.onnx", "--shape", "64", "64", "-o", "model.onnx"],
    "simplify over its source": ["simplify", "model.onnx", "-o", "model.onnx"],
    "fp16 over its source": ["fp16", "model.onnx", "-o", "model.onnx"],
    "fp16 over its source by another path": ["fp16", "model.onnx", "-o", "./x/../model.onnx"],
    "int8 over its source": ["int8", "model.onnx", "--images", "face.png", "-o", "model.onnx"],
    "int8 over a picture": ["int8", "model.onnx", "--images", "face.png", "-o", "face.png"],
    "fp16 over a picture": ["fp16", "model.onnx", "--images", "face.png", "-o", "face.png"],
    "int8 over its table": [
        *("int8", "model.onnx", "--images", "face.png"),
        *("--calibration-table", "table.json", "-o", "table.json"),
    ],
    "int8 over its plan": [
        *("int8", "model.onnx", "--images", "face.png", "--plan", "table.json"),
        *("-o", "table.json"),
    ],
    "a calibration over the source": [
        *("int8", "model.onnx", "--images", "face.png"),
        *("--save-calibration", "model.onnx", "-o", "q.onnx"),
    ],
    "a calibration over the plan": [
        *("int8", "model.onnx", "--images", "face.png", "--plan", "table.json"),
        *("--save-calibration", "table.json", "-o", "q.onnx"),
    ],
    "torchscript over its checkpoint": ["torchscript", "model.pth", "-o", "model.pth"],
    "a planned graph over the source": [
        *("tensorrt", "model.onnx", "--precision", "fp16", "--plan-only", "--shape", "64", "64"),
        *("--no-verify", "-o", "model.engine"),
    ],
    "a planned graph over a picture": [
        *("tensorrt", "model.pth", "--precision", "fp16", "--plan-only", "--shape", "64", "64"),
        *("--images", "face.onnx", "-o", "face.engine"),
    ],
    "onnx over its architecture": ["onnx", "model.pth", *IS_TINY, "-o", "net.toml"],
    "onnx over the weights of its source": ["onnx", "large.onnx", "-o", "large.data"],
    "simplify over the weights of its source": ["simplify", "large.onnx", "-o", "large.data"],
    "fp16 over the weights of its source": ["fp16", "large.onnx", "-o", "large.data"],
    "openvino over a picture": [
        *("openvino", "model.pth", *IS_TINY, "--images", "face.bin", "-o", "face.xml"),
    ],
    "ncnn over a picture": ["ncnn", "model.pth", "--images", "face.bin", "-o", "face.param"],
    "mnn over its source": ["mnn", "model.onnx", "-o", "model.onnx"],
    "openvino over its source": ["openvino", "model.onnx", "-o", "model.onnx"],
    "ncnn over its source": ["ncnn", "model.onnx", "-o", "model.onnx"],
    "lift over its source": ["lift", "model.onnx", "-o", "model.onnx"],
    "lift over the weights of its source": ["lift", "large.onnx", "-o", "large.data"],
    "lift over a picture": ["lift", "model.onnx", "--images", "face.png", "-o", "face.png"],
    "a build over its checkpoint": ["build", "itself.toml", "-o", "."],
    "a package over its checkpoint": ["build", "package.toml", "--insightface", "-o", "."],
    "a report over the recipe": ["build", "report.md", "-o", "."],
    "a merged report over a part": ["report", "merge", "report.json"],
    "a new recipe over a checkpoint": ["build", "--init", "model.pth", "-o", "model.pth"],
    "a drawing over a picture": ["detect", "model.onnx", "face.png", "--draw", "."],
    "a drawing over the model": ["detect", "x/face.png", "face.png", "--draw", "x"],
    "curves over the model": ["eval", "model.png", "--widerface", ".", "--plot", "model.png"],
    "curves over a picture": ["eval", "model.onnx", "--widerface", ".", "--plot", "face.png"],
}


@pytest.mark.sampled(12)
@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_read_is_not_written_over(name, files, scrfdconv):
    (files / "x").mkdir()
    shutil.copy(files / "model.onnx", files / "x" / "face.png")
    before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}

    ran = scrfdconv(*COMMANDS[name], cwd=files)

    assert ran.code not in (0, 70), ran.err
    assert re.search("give another (output file|folder)|name another file", ran.sentence)
    assert {path: path.read_bytes() for path in before} == before


def test_one_file_is_not_written_twice(tmp_path):
    with pytest.raises(OutputError, match="another option"):
        require_distinct((tmp_path / "a", tmp_path / "a"), {})
