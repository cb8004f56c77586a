"""Read an mmdet config as data: parsed, never executed.

A config is Python source made of assignments of literals and ``dict(...)`` calls. Only these are
understood. Other code never runs, and is an error where the model needs its value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scrfdconv.converters.checkpoint.config_data import (
    SPOILED,
    NoData,
    assignments_in_file,
    assignments_in_text,
)
from scrfdconv.converters.checkpoint.pipelines import normalization_in
from scrfdconv.converters.errors import CheckpointError, UsageError
from scrfdconv.converters.network.architecture import (
    FIRST_STAGE_STRIDE,
    Architecture,
    Block,
    NeckKind,
)
from scrfdconv.converters.network.bounds import MOST_VALUES
from scrfdconv.converters.normalization import STANDARD, Normalization

KEYPOINTS = 5  # NK in upstream's head
_NAMES = ("CLASSES", "classes", "class_names")  # how configs call the list of their classes
_COUNTS = ("num_kps", "NK")  # how forks call it, where theirs is an option
DEFAULT_NORM = {"type": "GN", "num_groups": 32}  # default of upstream's head

REG_MAX = 8  # default of upstream's head

_BLOCKS: Mapping[str, Block] = {"BasicBlock": "basic", "Bottleneck": "bottleneck"}
_NECKS: Mapping[str, NeckKind] = {"PAFPN": "pafpn", "FPN": "fpn"}


@dataclass(frozen=True)
class Described:
    """An architecture, and what says so."""

    architecture: Architecture
    by: str
    says_normalization: bool = True  # False: the architecture's is the default, and assumed
    says_keypoints: bool = True  # False: their number is the default, and weights may differ

    @property
    def normalization(self) -> Normalization | None:
        """What was said; None: nothing."""
        return self.architecture.normalization if self.says_normalization else None


def described_in_file(path: Path, name: str) -> Described:
    """What an mmdet config file describes, ``_base_`` files included."""
    return _described(assignments_in_file(path), name, str(path))


def described_in_text(text: str, name: str, where: str) -> Described:
    """What a config text describes, such as a checkpoint carries in its ``meta``."""
    return _described(assignments_in_text(text, where), name, where)


def _described(values: Mapping[str, Any], name: str, where: str) -> Described:
    architecture = _architecture(values, name, where)
    normalization = normalization_in(values, where)
    head = _Table(dict(values), where).sub("model").sub("bbox_head")
    return Described(
        replace(
            architecture,
            normalization=normalization or STANDARD,
            class_names=_class_names(values, architecture.classes),
        ),
        where,
        says_normalization=normalization is not None,
        says_keypoints=_points(head) is not None,
    )


class _Table:
    """A dict of the config with its place in the file, which errors name."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise CheckpointError(f"{where}: is missing or not a dict, as an SCRFD config has it.")
        self.values, self.where = values, where
        self._require_data(values.get(SPOILED), where)

    def get(self, key: str, default: Any = None) -> Any:
        value = self.values.get(key, default)
        for item in value if isinstance(value, list | tuple) else [value]:
            self._require_data(item, f"{self.where}.{key}")
        return value

    def _require_data(self, value: Any, where: str) -> None:
        if isinstance(value, NoData):
            raise CheckpointError(
                f"{where} (line {value.line}) is computed by code, and configs are never "
                "executed; write the value."
            )

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise CheckpointError(f"{self.where}.{key} is missing in the config.")
        return value

    def sub(self, key: str) -> _Table:
        return _Table(self.get(key), f"{self.where}.{key}")

    def expect(self, key: str, default: Any, allowed: Any) -> None:
        value = self.get(key, default)
        if value != allowed:
            raise CheckpointError(
                f"{self.where}.{key} = {value!r:.80} is not supported, only {allowed!r} is."
            )


def _architecture(values: Mapping[str, Any], name: str, where: str) -> Architecture:
    model = _Table(dict(values), where).sub("model")
    try:
        return _assemble(model, name)
    except UsageError as error:
        raise CheckpointError(f"{where}: {error}") from error
    except (TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise CheckpointError(
            f"{where}: the model's values do not fit an SCRFD ({error})."
        ) from error


def _assemble(model: _Table, name: str) -> Architecture:
    backbone, neck, head = model.sub("backbone"), model.sub("neck"), model.sub("bbox_head")
    head.expect("type", None, "SCRFDHead")
    kind = _neck(neck)
    strides = _strides(neck, head)
    shared = bool(head.get("strides_share", True))
    groups = _groups(head)
    channels, convs = _towers(head, 1 if shared else len(strides))
    anchors = head.sub("anchor_generator")
    scale_mode = head.get("scale_mode", 1)
    return Architecture(
        name=name,
        **_backbone(backbone),
        neck_channels=int(neck.need("out_channels")),
        head_channels=channels,
        head_convs=convs,
        head_groups=groups,
        head_shared=shared,
        head_separable=bool(head.get("dw_conv", False)),
        # The rule of upstream's head: a scale exists in mode 2, and in mode 1 if strides share.
        box_scales=scale_mode > 0 and (shared or scale_mode == 2),  # noqa: PLR2004
        keypoints=(_points(head) or KEYPOINTS) if head.get("use_kps", False) else 0,
        strides=strides,
        anchors=_anchors(anchors),
        classes=int(head.need("num_classes")),
        shared_tower=bool(head.get("cls_reg_share", False)),
        neck=kind,
        box_bins=_bins(head),
    )


def _backbone(backbone: _Table) -> dict[str, Any]:
    kind, cfg = backbone.get("type"), backbone.sub("block_cfg")
    planes = tuple(int(p) for p in cfg.need("stage_planes"))
    blocks = tuple(int(b) for b in cfg.need("stage_blocks"))
    if kind == "MobileNetV1":
        block: Block = "separable"
        stem, channels = planes[:2], planes[2:]
    elif kind == "ResNetV1e":
        name = cfg.get("block", "BasicBlock")
        if name not in _BLOCKS:
            raise CheckpointError(f"{cfg.where}.block = {name!r}: known are {', '.join(_BLOCKS)}.")
        base = int(backbone.get("base_channels", planes[0]))
        block, stem, channels = _BLOCKS[name], (base // 2, base // 2, base), planes
    else:
        raise CheckpointError(
            f"{backbone.where}.type = {kind!r} is no SCRFD backbone (MobileNetV1, ResNetV1e)."
        )
    return {
        "block": block,
        "stem_channels": stem,
        "stage_blocks": blocks,
        "stage_channels": channels,
    }


def _neck(neck: _Table) -> NeckKind:
    kind = neck.get("type")
    if kind not in _NECKS:
        raise CheckpointError(
            f"{neck.where}.type = {kind!r} is not supported ({', '.join(_NECKS)})."
        )
    # Neither an activation nor the way of enlarging leaves a trace in the weights.
    neck.expect("act_cfg", None, None)
    if neck.get("upsample_cfg") is not None:
        neck.sub("upsample_cfg").expect("mode", None, "nearest")
    return _NECKS[kind]


def _strides(neck: _Table, head: _Table) -> tuple[int, ...]:
    start, count = int(neck.get("start_level", 0)), int(neck.need("num_outs"))
    if not (0 <= start < MOST_VALUES and 0 < count <= MOST_VALUES):
        raise CheckpointError(f"{neck.where}: {count} levels from {start} on are impossible.")
    strides = tuple(int(s) for s in head.sub("anchor_generator").need("strides"))
    made = tuple(FIRST_STAGE_STRIDE << (start + i) for i in range(count))
    backbone_levels = len(neck.need("in_channels")) - start
    # Extra levels are 3x3 s2 convs on the last output, or unused: mmdet's multi_apply stops at the
    # last stride of the head. Levels of the backbone are never unused: a finer one sees them.
    if len(strides) > backbone_levels:
        neck.expect("add_extra_convs", False, "on_output")
        neck.expect("relu_before_extra_convs", False, False)
    used = made if len(strides) < backbone_levels else made[: len(strides)]
    if strides != used:
        raise CheckpointError(
            f"{head.where}: strides {strides!s:.80} do not fit the neck, which makes {made}."
        )
    return strides


def _bins(head: _Table) -> int:
    """Upstream's rule: any ``loss_dfl`` that is true makes distributions of the boxes."""
    largest = int(head.get("reg_max", REG_MAX))
    if head.get("loss_dfl") and largest < 1:
        raise CheckpointError(f"{head.where}.reg_max = {largest} leaves no bins to loss_dfl.")
    return largest + 1 if head.get("loss_dfl") else 0


def _groups(head: _Table) -> int:
    norm = _Table(head.get("norm_cfg", DEFAULT_NORM), f"{head.where}.norm_cfg")
    kind = norm.get("type")
    if kind in ("BN", "SyncBN"):
        return 0
    if kind == "GN":
        return int(norm.need("num_groups"))
    raise CheckpointError(f"{norm.where}.type = {kind!r} is not supported (BN, SyncBN, GN).")


def _towers(head: _Table, towers: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and number of convs of each tower; lists are per stride, a shared head uses [0]."""
    feat, convs = int(head.need("feat_channels")), head.get("stacked_convs", 4)
    mults = head.get("feat_mults") or [1] * towers
    counts = list(convs) if isinstance(convs, list | tuple) else [convs] * towers
    channels = tuple(int(feat * mults[i]) for i in range(towers))
    return channels, tuple(int(counts[i]) for i in range(towers))


def _class_names(values: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """The names of several classes, where the config has as many as the head."""
    data = values.get("data")
    of_data = (
        [data.get(part) for part in ("test", "val", "train")] if isinstance(data, dict) else []
    )
    sets = [one.get("classes") for one in of_data if isinstance(one, dict)]
    return class_names_of([*(values.get(key) for key in _NAMES), *sets], classes)


def class_names_of(lists: Iterable[Any], classes: int) -> tuple[str, ...]:
    """The first of ``lists`` that has a text for each of several classes."""
    for names in lists:
        texts = isinstance(names, list | tuple) and all(isinstance(n, str) for n in names)
        if texts and classes > 1 and len(names) == classes:
            return tuple(names)
    return ()


def _points(head: _Table) -> int | None:
    """The number of keypoints where the config says one."""
    return next((int(head.need(key)) for key in _COUNTS if key in head.values), None)


def _anchors(generator: _Table) -> int:
    scales = generator.get("scales")
    if scales is None:  # mmdet's other spelling
        return len(generator.need("ratios")) * int(generator.need("scales_per_octave"))
    return len(generator.need("ratios")) * len(scales)
