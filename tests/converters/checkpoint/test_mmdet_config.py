"""mmdet configs are data."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mmdet_config import CONFIG

from scrfdconv.converters.checkpoint.mmdet_config import (
    described_in_file,
    described_in_text,
)
from scrfdconv.converters.errors import CheckpointError
from scrfdconv.converters.network.architecture import BUILTIN


def read(text, name="config"):
    return described_in_text(text, name, "here").architecture


def test_a_released_config_gives_the_known_network():
    assert read(CONFIG) == replace(BUILTIN["scrfd_2.5g"], name="config")


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("num_groups=16", "num_groups=8", {"head_groups": 8}),
        ("type='GN'", "type='BN'", {"head_groups": 0}),
        ("use_kps=False", "use_kps=True", {"keypoints": 5}),
        ("num_classes=1", "num_classes=3", {"classes": 3}),
        ("scales=[1, 2]", "scales=[1]", {"anchors": 1}),
        ("cls_reg_share=True", "cls_reg_share=False", {"shared_tower": False}),
        ("scale_mode=2", "scale_mode=0", {"box_scales": False}),
        ("stacked_convs=2", "stacked_convs=[3, 2, 1]", {"head_convs": (3,)}),
        ("feat_channels=64", "feat_channels=64, feat_mults=[0.5, 1, 1]", {"head_channels": (32,)}),
        ("strides_share=True", "strides_share=False",
         {"head_shared": False, "head_channels": (64,) * 3, "head_convs": (2,) * 3}),
        ("norm_cfg=_norm, ", "", {"head_groups": 32}),
    ],
)  # fmt: skip
def test_every_option_of_the_head_counts(old, new, changes):
    assert old in CONFIG

    made = read(CONFIG.replace(old, new))

    assert made == replace(BUILTIN["scrfd_2.5g"], name="config", **changes)


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_scales_of_separate_heads_need_mode_two(mode):
    text = CONFIG.replace("strides_share=True", "strides_share=False")
    text = text.replace("scale_mode=2", f"scale_mode={mode}")

    assert read(text).box_scales == (mode == 2)


def test_five_strides_extend_the_neck():
    text = CONFIG.replace("num_outs=3", "num_outs=5").replace("[8, 16, 32]", "[8, 16, 32, 64, 128]")

    assert read(text).strides == (8, 16, 32, 64, 128)


@pytest.mark.parametrize("extra", ["'on_output'", "False", "'on_input'"])
def test_levels_that_the_head_does_not_use_change_nothing(extra):
    text = CONFIG.replace("num_outs=3", "num_outs=5")
    text = text.replace("add_extra_convs='on_output'", f"add_extra_convs={extra}")

    assert read(text) == read(CONFIG)


@pytest.mark.parametrize("more", ["", ", upsample_cfg=dict(mode='nearest')"])
def test_a_top_down_neck_is_read(more):
    found = read(CONFIG.replace("type='PAFPN'", f"type='FPN'{more}"))

    assert found == replace(read(CONFIG), neck="fpn")


@pytest.mark.parametrize(
    ("said", "bins"), [("loss_dfl=True, reg_max=16", 17), ("loss_dfl=dict(type='X')", 9)]
)
def test_boxes_as_distributions_are_read(said, bins):
    text = CONFIG.replace("loss_dfl=False, reg_max=8", said)

    assert read(text) == replace(read(CONFIG), box_bins=bins)


def test_levels_that_are_used_stay_strict():
    text = CONFIG.replace("num_outs=3", "num_outs=5").replace("[8, 16, 32]", "[8, 16, 32, 64]")

    assert read(text).strides == (8, 16, 32, 64)
    with pytest.raises(CheckpointError, match="add_extra_convs"):
        read(text.replace("add_extra_convs='on_output'", "add_extra_convs='on_input'"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("loss_dfl=False, reg_max=8", "loss_dfl=True, reg_max=0", "reg_max = 0 leaves no bins"),
        ("loss_dfl=False, reg_max=8", "loss_dfl=True, reg_max=-1", "reg_max = -1"),
        ("type='ResNetV1e'", "type='ResNet'", "is no SCRFD backbone"),
        ("block='BasicBlock'", "block='SEBlock'", "known are BasicBlock, Bottleneck"),
        ("type='SCRFDHead'", "type='GFLHead'", "only 'SCRFDHead' is"),
        ("type='PAFPN'", "type='GhostPAN'", "'GhostPAN' is not supported (PAFPN, FPN)"),
        ("type='PAFPN'", "type='FPN', upsample_cfg=dict(mode='bilinear')", "only 'nearest' is"),
        ("strides=[8, 16, 32]", "strides=[4, 8, 16]", "do not fit the neck"),
        ("type='GN'", "type='IN'", "not supported (BN, SyncBN, GN)"),
        ("num_classes=1", "num_classes=len(CLASSES)", "line"),
        ("num_classes=1, ", "", "num_classes is missing"),
        ("stage_blocks=(3, 5, 3, 2)", "stage_blocks=(3, 5)", "stage_blocks needs 4"),
        ("num_outs=3", "num_outs='three'", "do not fit an SCRFD"),
        ("num_outs=3", "num_outs=3, act_cfg=dict(type='ReLU')", "act_cfg"),
        ("scales=[1, 2]", "scales=[1, two()]", "scales (line"),
        ("model = dict(", "model = build(", "model"),
        ("optimizer = dict", "optimizer = (dict", "is not an mmdet config"),
    ],
)
def test_what_cannot_be_converted_is_named(old, new, said):
    assert old in CONFIG

    with pytest.raises(CheckpointError) as error:
        read(CONFIG.replace(old, new))

    assert said in str(error.value)


@pytest.mark.parametrize(
    "line",
    ["model['bbox_head']['num_classes'] = 2", "model.update(x=1)", "if True:\n    model = 1"],
)
def test_code_that_changes_the_model_is_refused(line):
    with pytest.raises(CheckpointError, match="never executed"):
        read(f"{CONFIG}\n{line}\n")


STALE = {
    "augmented": ("groups = 16\ngroups //= 2", "num_groups=groups"),
    "in a branch": ("groups = 16\nif True:\n    groups = 8", "num_groups=groups"),
    "imported": ("groups = 16\nfrom x import groups", "num_groups=groups"),
    "item": ("changed = dict(num_groups=16)\nchanged['num_groups'] = 8", "**changed"),
    "update": ("changed = dict(num_groups=16)\nchanged.update(num_groups=8)", "**changed"),
    "unpacked": ("groups, other = 8, 16", "num_groups=groups"),
    "computed key": ("key = 'num_groups'\nchanged = {key: 8}", "**changed"),
    "called": ("changed = make()", "**changed"),
}


@pytest.mark.parametrize("case", STALE)
def test_values_that_code_may_have_changed_are_refused(case):
    """No weight shows a wrong number of groups: the old value must not be taken for the new."""
    before, used = STALE[case]
    assert "num_groups=16" in CONFIG

    with pytest.raises(CheckpointError, match="never executed"):
        read(f"{before}\n{CONFIG.replace('num_groups=16', used)}")


@pytest.mark.parametrize(
    "after", ["_norm['num_groups'] = 8", "_norm.update(num_groups=8)", "scales.append(3)"]
)
def test_a_dict_that_code_changes_is_refused_wherever_it_stands_already(after):
    text = "scales = [1, 2]\n" + CONFIG.replace("scales=[1, 2]", "scales=scales")

    with pytest.raises(CheckpointError, match="never executed"):
        read(f"{text}\n{after}")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("norm_cfg=_norm", "norm_cfg=dict(**_norm)"),
        ("norm_cfg=_norm", "**{'norm_cfg': _norm}"),
        ("norm_cfg=_norm", "norm_cfg={'type': 'GN', **dict(num_groups=16)}"),
        ("_norm = dict", "_norm: dict = dict"),
        ("_norm = dict", "_also = _norm = dict"),
        ("optimizer = dict", "print('hello')  # a comment\noptimizer = dict"),
    ],
)
def test_data_is_read_however_it_is_written(old, new):
    assert old in CONFIG

    assert read(CONFIG.replace(old, new, 1)).head_groups == 16


def test_code_in_a_config_does_not_run(tmp_path):
    target = tmp_path / "ran"
    path = tmp_path / "config.py"
    path.write_text(
        f"import os\nos.system('touch {target}')\nx = open({str(target)!r}, 'w')\n{CONFIG}"
    )

    described_in_file(path, "config")

    assert not target.exists()


def test_base_files_are_inherited_and_deleted_keys_fall_away(tmp_path):
    (tmp_path / "base.py").write_text(CONFIG)
    child = tmp_path / "child.py"
    child.write_text(
        "_base_ = './base.py'\n"
        "model = dict(bbox_head=dict(use_kps=True,\n"
        "    norm_cfg=dict(_delete_=True, type='BN', requires_grad=True)))\n"
    )

    made = described_in_file(child, "child").architecture

    assert (made.keypoints, made.head_groups, made.neck_channels) == (5, 0, 24)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b"\xff\xfe\x00", "is not text"), (b"x" * (2 << 20), "too large")],
)
def test_a_file_that_is_no_config_is_named(content, said, tmp_path):
    path = tmp_path / "config.py"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(CheckpointError, match=said):
        described_in_file(path, "x")


@pytest.mark.parametrize("bases", ["5", "[5]", "name()", "['a.py', name()]", "{'a': 1}"])
def test_bases_that_are_no_file_names_are_an_error(bases, tmp_path):
    path = tmp_path / "config.py"
    (tmp_path / "a.py").write_text(CONFIG)
    path.write_text(f"_base_ = {bases}")

    with pytest.raises(CheckpointError, match="no file name or list of file names"):
        described_in_file(path, "x")


def test_bases_that_refer_to_each_other_end(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("_base_ = 'config.py'")

    with pytest.raises(CheckpointError, match="without end"):
        described_in_file(path, "x")
