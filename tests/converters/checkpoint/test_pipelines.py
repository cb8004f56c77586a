"""The normalisation that a config says."""

from __future__ import annotations

import pytest
from mmdet_config import CONFIG

from scrfdconv.converters.checkpoint.mmdet_config import described_in_text
from scrfdconv.converters.errors import CheckpointError
from scrfdconv.converters.normalization import Normalization

STEP = "dict(type='Normalize', mean=[1, 2, 3.5], std=[4, 5, 6], to_rgb=False)"
WANTED = Normalization((1, 2, 3.5), (4, 5, 6), "bgr")


def said(text):
    return described_in_text(CONFIG + text, "config", "here").normalization


@pytest.mark.parametrize(
    "text",
    [
        f"test_pipeline = [dict(type='MultiScaleFlipAug', transforms=[dict(type='Pad'), {STEP}])]",
        f"train_pipeline = [dict(type='Load'), {STEP}]",
        f"data = dict(test=dict(pipeline=[{STEP}]))",
        f"data = dict(train=dict(pipeline=[{STEP}]), test=dict(type='X'))",
        "img_norm_cfg = dict(mean=[1, 2, 3.5], std=[4, 5, 6], to_rgb=False)",
        "img_norm_cfg = dict(mean=[1, 2, 3.5], std=[4, 5, 6], to_rgb=False)\n"
        "test_pipeline = [dict(type='Normalize', **img_norm_cfg)]",
        "data_preprocessor = dict(mean=[1, 2, 3.5], std=[4, 5, 6])",
        f"train_pipeline = [{STEP}]\ntest_pipeline = make()",
        f"img_norm_cfg = dict(mean=[0] * 3)\ntrain_pipeline = [{STEP}]",
    ],
)
def test_any_place_of_a_config_says_it(text):
    assert said(text) == WANTED


def test_a_step_without_to_rgb_is_rgb():
    text = "test_pipeline = [dict(type='Normalize', mean=[0, 0, 0], std=[1, 1, 1])]"

    assert said(text) == Normalization((0, 0, 0), (1, 1, 1), "rgb")


@pytest.mark.parametrize("text", ["", "test_pipeline = [dict(type='Resize')]", "data = dict()"])
def test_a_config_without_a_step_says_nothing(text):
    assert said(text) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"train_pipeline = [{STEP}]\ntest_pipeline = [{STEP.replace('4', '7')}]",
         r"test_pipeline normalises pictures as BGR.*7.*train_pipeline as BGR.*4"),
        ("test_pipeline = make()", r"test_pipeline \(line \d+\) is computed by code"),
        ("test_pipeline = [dict(type='Normalize', mean=m(), std=[1, 1, 1])]", "3 numbers"),
        ("test_pipeline = [dict(type='Normalize', mean=[1, 2], std=[1, 1, 1])]", "3 numbers"),
        ("test_pipeline = [dict(type='Normalize', mean=[1, 2, 3])]", "std must be 3 numbers"),
        ("test_pipeline = [dict(type='Normalize', mean=[0] , std=[0, 1, 1])]", "3 numbers"),
        ("test_pipeline = [dict(type='Normalize', mean=[0, 0, 0], std=[0, 1, 1])]", "above 0"),
        (f"test_pipeline = [{STEP.replace('False', '1')}]", "neither True nor False"),
    ],
)  # fmt: skip
def test_what_is_unclear_is_refused(text, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        said(text)
