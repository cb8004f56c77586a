"""Fixtures that every test shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real checkpoints, ONNX files and photographs; absent on most machines."""
    folder = Path(os.environ.get("SCRFDCONV_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real models and photographs are not here: {folder}")
    return folder
