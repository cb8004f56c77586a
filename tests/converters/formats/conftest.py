"""What the tests of several formats start from."""

from __future__ import annotations

import pytest

from scrfdconv.converters.formats import formats
from scrfdconv.converters.formats.onnx import OnnxOptions


@pytest.fixture(scope="session")
def small_onnx(tiny, tmp_path_factory):
    """Of a fixed shape: what is verified at one small size shows a fault as well, and sooner."""
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    return formats()["onnx"].convert(tiny, path, OnnxOptions(shape=(64, 96)), None).path
