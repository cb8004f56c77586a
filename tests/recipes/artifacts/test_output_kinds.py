"""Files with other outputs are opened by everything that looks for faces."""

from __future__ import annotations

import numpy as np
import pytest

from scrfdconv.checks.faces.decode import Faces
from scrfdconv.converters.formats import open_artifact
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.graph.model_file import serialised
from scrfdconv.recipes.faces.detection import DetectOptions, Detector

SIZE = (64, 96)
# The tiny network is not trained: a threshold at which it sees some faces in noise.
OPTIONS = DetectOptions(threshold=0.3)


def faces_of(checkpoint, kind, folder) -> Faces:
    path = folder / f"{kind}.onnx"
    model = onnx_from_checkpoint(checkpoint, OnnxOptions(shape=SIZE, outputs=kind))
    path.write_bytes(serialised(model))
    picture = np.random.default_rng(0).integers(0, 256, (48, 96, 3), np.uint8)
    (found,) = Detector(open_artifact(path), OPTIONS).detect([picture])
    return found


@pytest.mark.parametrize("kind", ["flat", "maps", "faces"])
def test_the_same_faces_are_found_whatever_the_outputs(kind, tiny, tmp_path):
    want, got = (faces_of(tiny, outputs, tmp_path) for outputs in ("raw", kind))

    assert len(want) == len(got) > 0
    np.testing.assert_allclose(got.boxes, want.boxes, atol=1e-3)
    np.testing.assert_allclose(got.scores, want.scores, atol=1e-6)
