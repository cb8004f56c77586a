"""No verb writes over a file that it reads."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest

from scrfdconv.converters.artifact import require_distinct
from scrfdconv.converters.errors import OutputError


@pytest.fixture
def files(tiny_onnx, tiny_pth, tmp_path):
    """A model, a checkpoint, a picture and a table in one folder."""
    shutil.copy(tiny_onnx, tmp_path / "model.onnx")
    shutil.copy(tiny_pth, tmp_path / "model.pth")
    cv2.imwrite(str(tmp_path / "face.png"), np.full((64, 64, 3), 90, np.uint8))
    (tmp_path / "table.json").write_text("{}")
    (tmp_path / "config.py").write_text("model = dict()\n")
    return tmp_path


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
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_read_is_not_written_over(name, files, scrfdconv):
    (files / "x").mkdir()
    before = {path: path.read_bytes() for path in files.iterdir() if path.is_file()}

    ran = scrfdconv(*COMMANDS[name], cwd=files)

    assert ran.code not in (0, 70), ran.err
    assert "give another output file" in ran.sentence
    assert {path: path.read_bytes() for path in before} == before


def test_one_file_is_not_written_twice(tmp_path):
    with pytest.raises(OutputError, match="another option"):
        require_distinct((tmp_path / "a", tmp_path / "a"), {})
