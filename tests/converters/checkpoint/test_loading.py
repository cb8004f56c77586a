"""Loading weights: every container people have, strictly, and never as code."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet_config import CONFIG
from safetensors.torch import save_file

from scrfdconv.converters.checkpoint.loading import load_checkpoint, load_source, seeded_checkpoint
from scrfdconv.converters.errors import CheckpointError, InputFileError, UsageError
from scrfdconv.converters.network.architecture import BUILTIN


def saved(tmp_path: Path, content: object, name: str = "model.pth") -> Path:
    path = tmp_path / name
    torch.save(content, path)
    return path


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


CONTAINERS = {
    "mmdet": lambda w: {"meta": {"epoch": 640, "time": np.float64(1.5)}, "state_dict": w},
    "training": lambda w: {"meta": {}, "state_dict": w, "optimizer": {"state": {}, "lr": 0.1}},
    "bare": OrderedDict,
    "wrapped": lambda w: {"model": w},
    "module": lambda w: {"state_dict": {f"module.{k}": v for k, v in w.items()}},
    "modelscope": lambda w: {f"detector.{k}": v for k, v in w.items()},
    "modelscope module": lambda w: {f"detector.module.{k}": v for k, v in w.items()},
    "ema only": lambda w: {"state_dict": {f"ema_{k}": v for k, v in w.items()}},
    "mmcv ema": lambda w: {
        "state_dict": {**w, **{f"ema_{k.replace('.', '_')}": v * 2 for k, v in w.items()}}
    },
    "dotted ema": lambda w: {"state_dict": {**{f"ema_{k}": v * 2 for k, v in w.items()}, **w}},
    "counters": lambda w: {
        "state_dict": {
            **w,
            "bbox_head.integral.project": torch.arange(9.0),
            "backbone.stem.1.num_batches_tracked": torch.tensor(7),
        }
    },
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_same_weights(container, tiny, tmp_path):
    path = saved(tmp_path, CONTAINERS[container](dict(tiny.weights)))

    loaded = load_checkpoint(path)

    assert equal(loaded.weights, tiny.weights)
    assert loaded.weights_digest == tiny.weights_digest
    assert loaded.name == "model"


def test_other_bins_than_whole_numbers_are_refused(tiny, tmp_path):
    network = seeded_checkpoint(replace(tiny.architecture, box_bins=9))
    key = "bbox_head.integral.project"
    right = saved(tmp_path, {**network.weights, key: torch.arange(9.0)}, "right.pth")
    wrong = saved(tmp_path, {**network.weights, key: torch.arange(9.0) / 2}, "wrong.pth")

    assert load_checkpoint(right).architecture.box_bins == 9
    with pytest.raises(CheckpointError, match=rf"{key} is not 0 to 8"):
        load_checkpoint(wrong)


def test_a_config_without_the_distributions_of_the_weights_names_both(tmp_path):
    network = seeded_checkpoint(replace(BUILTIN["scrfd_2.5g"], neck="fpn", box_bins=9))
    weights = {**network.weights, "bbox_head.integral.project": torch.arange(9.0)}
    path = saved(tmp_path, {"meta": {"config": CONFIG}, "state_dict": weights})

    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)

    assert "neck is pafpn, and fpn in the weights; box_bins is 0, and 9" in str(error.value)


def test_old_pickle_files_load(tiny, tmp_path):
    path = tmp_path / "old.pth"
    torch.save({"state_dict": dict(tiny.weights)}, path, _use_new_zipfile_serialization=False)

    assert equal(load_checkpoint(path).weights, tiny.weights)


def test_safetensors_load(tiny, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(dict(tiny.weights), path)

    assert equal(load_checkpoint(path).weights, tiny.weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32_and_are_noted(dtype, tiny, tmp_path):
    path = saved(tmp_path, {k: v.to(dtype) for k, v in tiny.weights.items()})

    loaded = load_checkpoint(path)

    assert {tensor.dtype for tensor in loaded.weights.values()} == {torch.float32}
    assert str(dtype).removeprefix("torch.") in loaded.notes[0]


def broken(weights, how):
    weights = dict(weights)
    key = "neck.fpn_convs.0.conv.weight"
    if how == "missing":
        weights.pop(key)
    elif how == "extra":
        weights["neck.fpn_convs.0.conv.gain"] = torch.ones(1)
    elif how == "shape":
        weights[key] = torch.zeros(3, 3, 3, 3)
    elif how == "stranger":
        weights["head.fc.weight"] = torch.zeros(2, 2)
    elif how == "number":
        weights[7] = torch.zeros(1)
    elif how == "sparse":
        weights[key] = weights[key].to_sparse()
    elif how == "meta":
        weights[key] = weights[key].to("meta")
    elif how == "variance":
        name = next(name for name in weights if name.endswith("running_var"))
        weights[name] = -weights[name]
    elif how in ("nan", "inf"):
        weights[key] = weights[key].clone()
        weights[key][0, 0, 0, 0] = float(how)
    return weights


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "1 tensor missing (neck.fpn_convs.0.conv.weight)"),
        ("extra", "1 tensor unexpected (neck.fpn_convs.0.conv.gain)"),
        ("shape", "neck.fpn_convs.0.conv.weight [3, 3, 3, 3] instead of [16, 16, 3, 3]"),
        ("stranger", "1 tensor unexpected (head.fc.weight)"),
        ("number", "1 tensor unexpected (7)"),
        ("sparse", "1 tensor sparse or without values (neck.fpn_convs.0.conv.weight)"),
        ("meta", "1 tensor sparse or without values (neck.fpn_convs.0.conv.weight)"),
        ("variance", "negative, and variances are not (backbone."),
        ("nan", "not finite"),
        ("inf", "not finite"),
    ],
)
@pytest.mark.parametrize("architecture", [None, "scrfd_500m_kps"])
def test_a_tensor_that_does_not_fit_is_named(how, said, architecture, tmp_path):
    weights = seeded_checkpoint(BUILTIN["scrfd_500m_kps"]).weights
    path = saved(tmp_path, broken(weights, how))

    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path, architecture=architecture)

    assert said in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": 3}, "classes is 3, and 1 in the weights"),
        ({"anchors": 3}, "anchors is 3, and 2 in the weights"),
        ({"keypoints": 4}, "keypoints is 4, and 5 in the weights"),
        ({"head_groups": 16}, "head_groups is 16, and 0 in the weights"),
        ({"neck_channels": 32}, "neck_channels is 32, and 16 in the weights"),
        ({"stage_blocks": (2, 3, 2, 5)}, "stage_blocks is (2, 3, 2, 5), and (2, 3, 2, 6) in"),
    ],
)
def test_an_architecture_that_contradicts_the_weights_is_told_from_them(change, said, tmp_path):
    known = BUILTIN["scrfd_500m_kps"]
    path = saved(tmp_path, dict(seeded_checkpoint(known).weights))

    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path, architecture=replace(known, name="other", **change))

    assert said in str(error.value)


def test_groups_that_a_known_network_has_are_assumed_aloud(tmp_path):
    path = saved(tmp_path, dict(seeded_checkpoint(BUILTIN["scrfd_500m"]).weights))

    assumed = load_checkpoint(path)
    said = load_checkpoint(path, groups=16)

    assert "16 groups in GroupNorm assumed" in " ".join(assumed.notes)
    assert "assumed, as the published" not in " ".join(said.notes)


def test_a_network_near_a_known_one_is_asked_for_its_groups(tmp_path):
    gnkps = replace(BUILTIN["scrfd_500m"], name="gnkps", keypoints=5)
    path = saved(tmp_path, dict(seeded_checkpoint(gnkps).weights))

    with pytest.raises(CheckpointError, match="--norm-groups N"):
        load_checkpoint(path)

    assert replace(load_checkpoint(path, groups=16).architecture, name="gnkps") == gnkps


def test_groups_of_a_network_without_groupnorm_are_refused(tiny_pth):
    with pytest.raises(UsageError, match="has no GroupNorm"):
        load_checkpoint(tiny_pth, groups=4)


def test_a_wrong_recipe_names_the_right_one(tmp_path):
    path = saved(tmp_path, dict(seeded_checkpoint(BUILTIN["scrfd_500m"]).weights))

    with pytest.raises(CheckpointError, match="looks like scrfd_500m "):
        load_checkpoint(path, architecture="scrfd_500m_kps")


def test_a_config_in_meta_that_fits_other_weights_is_an_error(tiny, tmp_path):
    text = "model = dict(type='SCRFD')"
    path = saved(tmp_path, {"meta": {"config": text}, "state_dict": dict(tiny.weights)})

    with pytest.raises(CheckpointError, match="config in its meta"):
        load_checkpoint(path)


class Evil:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_that_runs_code_does_not_run(new_format, tiny, tmp_path):
    target, path = tmp_path / "ran", tmp_path / "evil.pth"
    content = {"state_dict": dict(tiny.weights), "meta": Evil(str(target))}
    torch.save(content, path, _use_new_zipfile_serialization=new_format)

    with pytest.raises(CheckpointError, match="never executed"):
        load_checkpoint(path)

    assert not target.exists()


def test_a_bare_pickle_that_runs_code_does_not_run(tmp_path):
    target, path = tmp_path / "ran", tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Evil(str(target))))

    with pytest.raises(CheckpointError):
        load_checkpoint(path)

    assert not target.exists()


def test_a_pickled_module_is_refused_with_the_cure(tiny, tmp_path):
    with pytest.raises(CheckpointError, match="save the weights alone"):
        load_checkpoint(saved(tmp_path, tiny.model()))


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"state_dict": {}}, {"meta": {}}, {"state_dict": {"a": 1}}]
)
def test_a_file_without_weights_says_so(content, tmp_path):
    with pytest.raises(CheckpointError):
        load_checkpoint(saved(tmp_path, content))


@pytest.mark.parametrize("share", [0.2, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["zip", "pickle", "safetensors"])
def test_a_truncated_file_is_an_input_error(share, kind, tiny, tmp_path):
    path = tmp_path / "whole"
    if kind == "safetensors":
        save_file(dict(tiny.weights), path)
    else:
        torch.save(dict(tiny.weights), path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])

    with pytest.raises(InputFileError):
        load_checkpoint(path)


def test_options_that_say_the_architecture_exclude_each_other(tiny_pth):
    with pytest.raises(UsageError, match="give one"):
        load_checkpoint(tiny_pth, architecture="scrfd_10g", groups=4)


def test_a_name_stands_for_seeded_weights():
    source = load_source("SCRFD_500M_BNKPS")

    assert source.seeded
    assert source.name == "scrfd_500m_kps-seeded"
    assert load_source(None).digest == source.digest


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError, match="known are scrfd_500m"):
        load_source("scrfd_11g")


def test_released_checkpoints_are_recognised(data):
    found = {p.stem: load_checkpoint(p) for p in sorted(data.glob("checkpoints/*.pth"))}

    assert {name: c.architecture.name for name, c in found.items()} == {
        "scrfd_2.5g_bnkps": "scrfd_2.5g_kps",
        "scrfd_500m": "scrfd_500m",
        "scrfd_500m_bnkps": "scrfd_500m_kps",
    }
    assert found["scrfd_500m_bnkps"].recognised_by == "the config in meta"
    assert found["scrfd_500m"].recognised_by == "names and shapes of the weights"


@pytest.mark.parametrize("fixture", ["tiny", "tiny_gn"])
def test_unused_levels_of_the_neck_are_left_out_with_a_note(fixture, request, tmp_path):
    network = request.getfixturevalue(fixture)
    weights = dict(network.weights)
    for level in (3, 4):
        weights[f"neck.fpn_convs.{level}.conv.weight"] = torch.ones(8, 8, 3, 3)
        weights[f"neck.fpn_convs.{level}.conv.bias"] = torch.ones(8)
    groups = network.architecture.head_groups or None

    loaded = load_checkpoint(saved(tmp_path, weights), groups=groups)

    assert loaded.architecture.strides == (8, 16, 32)
    assert loaded.weights_digest == network.weights_digest
    assert "2 levels of the neck left out" in loaded.notes[0]
