"""Agreement of two models on photographs without labels."""

from __future__ import annotations

import pytest

from scrfdconv.converters.errors import CheckFailed, UsageError
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.graph.model_file import serialised
from scrfdconv.recipes.artifacts.sources import SourceOptions
from scrfdconv.recipes.faces.agreement import score_agreement


def photographs(widerface):
    return sorted((widerface / "WIDER_val/images").rglob("*.jpg"))


def test_a_model_agrees_with_itself_and_its_export(tiny_pth, tiny_onnx, widerface):
    pictures = photographs(widerface)[:2]

    same = score_agreement(str(tiny_pth), str(tiny_pth), SourceOptions(), pictures)
    export = score_agreement(str(tiny_onnx), str(tiny_pth), SourceOptions(), pictures)

    assert (same.ap, same.recall, same.precision, same.mean_iou) == (1, 1, 1, 1)
    assert same.reference_faces == export.reference_faces > 0
    assert export.ap == pytest.approx(1, abs=0.01)
    assert export.worst_iou > 0.999


def test_a_reference_without_faces_proves_nothing(tiny, tiny_onnx, widerface, tmp_path):
    import torch

    blind = {k: torch.full_like(w, -20 if "bias" in k else 0) if "stride_cls" in k else w
             for k, w in tiny.weights.items()}  # fmt: skip
    torch.save({"state_dict": blind}, tmp_path / "blind.pth")

    with pytest.raises(CheckFailed, match="nothing was compared"):
        score_agreement(
            str(tiny_onnx), str(tmp_path / "blind.pth"), SourceOptions(), photographs(widerface)[:1]
        )


def test_models_of_different_sizes_never_see_the_same_image(tiny, widerface, tmp_path):
    models = []
    for side in (64, 96):
        models.append(tmp_path / f"{side}.onnx")
        content = serialised(onnx_from_checkpoint(tiny, OnnxOptions(shape=(side, 64))))
        models[-1].write_bytes(content)

    with pytest.raises(UsageError, match="fixed to 64x64 and 96x64"):
        score_agreement(*map(str, models), SourceOptions(), photographs(widerface)[:1])
