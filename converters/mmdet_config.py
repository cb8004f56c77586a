"""Read an mmdet config as data: parsed, never executed.

A config is Python source made of assignments of literals and ``dict(...)`` calls. Only those are
understood; whatever else a file contains is never run, and is an error where the model needs it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scrfdconv.converters.architecture import FIRST_STAGE_STRIDE, Architecture, Block
from scrfdconv.converters.errors import CheckpointError, UsageError

MAX_CONFIG_BYTES = 1 << 20  # real configs have 5 kB; a file of this size is something else
MAX_BASES = 20  # depth of `_base_` chains; a cycle ends here
KEYPOINTS = 5  # NK in upstream's head: not configurable
DEFAULT_NORM = {"type": "GN", "num_groups": 32}  # of upstream's head, where a config has none

_SPOILED = "changed by code"  # key of a mark in dicts that a statement may have changed
_BLOCKS: Mapping[str, Block] = {"BasicBlock": "basic", "Bottleneck": "bottleneck"}


class _Unreadable:
    """An expression that is not data; an error only where the model uses it."""

    def __init__(self, node: ast.AST) -> None:
        self.line = getattr(node, "lineno", 0)


def architecture_from_config_file(path: Path, name: str) -> Architecture:
    """The architecture that an mmdet config file describes, ``_base_`` files included."""
    return _architecture(_load(path, MAX_BASES), name, str(path))


def architecture_from_config_text(text: str, name: str, where: str) -> Architecture:
    """The architecture in config text, such as a checkpoint carries in its ``meta``."""
    return _architecture(_assignments(text, where), name, where)


# ---------------------------------------------------------------- parsing


def _load(path: Path, depth: int) -> dict[str, Any]:
    if depth == 0:
        raise CheckpointError(f"{path}: `_base_` files refer to each other without end.")
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path}: is too large for an mmdet config.")
        text = path.read_text("utf-8")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: is not text; --config takes an mmdet .py file.") from error
    values = _assignments(text, str(path))
    bases = values.pop("_base_", [])
    if isinstance(bases, _Unreadable):
        raise CheckpointError(f"{path}: line {bases.line}: _base_ is not a literal.")
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        merged = _merge(merged, _load(path.parent / base, depth - 1))
    return _merge(merged, values)


def _assignments(text: str, where: str) -> dict[str, Any]:
    """Top-level ``name = literal`` pairs; a later one may use an earlier name."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{where}: is not an mmdet config: {error}.") from error
    names: dict[str, Any] = {}
    for statement in tree.body:
        targets = _plain_targets(statement)
        if targets:
            assert isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value
            names |= dict.fromkeys(targets, _value(statement.value, names))
        elif "model" in _mentioned(statement):
            raise CheckpointError(
                f"{where}: line {statement.lineno} changes `model` by code, and configs are never "
                "executed; write the values into `model = dict(...)`."
            )
        else:  # whatever it does, it may do to these
            for name in _mentioned(statement):
                names[name] = _spoiled(names.get(name), statement)
    return names


def _plain_targets(statement: ast.stmt) -> list[str]:
    """The names that a plain assignment gives its value; none for every other statement."""
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign) and statement.value:
        targets = [statement.target]
    found = [target.id for target in targets if isinstance(target, ast.Name)]
    return found if len(found) == len(targets) else []


def _mentioned(statement: ast.stmt) -> set[str]:
    """Every name that a statement could bind or change."""
    found = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
    return found


def _spoiled(value: Any, statement: ast.stmt) -> _Unreadable:
    """Mark a dict that code may have changed, also where other names and dicts hold it."""
    mark = _Unreadable(statement)
    if isinstance(value, dict):
        value[_SPOILED] = mark
    elif isinstance(value, list):
        value[:] = [mark]
    return mark


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """The data in ``node``, or ``_Unreadable``."""
    value: Any = _Unreadable(node)
    match node:
        case ast.Constant():
            value = node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            value = -number
        case ast.List():
            value = [_value(item, names) for item in node.elts]
        case ast.Tuple():
            value = tuple(_value(item, names) for item in node.elts)
        case ast.Dict():
            keys = [k.value if isinstance(k, ast.Constant) else k for k in node.keys]
            value = _dict(zip(keys, node.values, strict=True), names)
        case ast.Call(func=ast.Name(id="dict"), args=[]):
            value = _dict([(k.arg, k.value) for k in node.keywords], names)
        case ast.Name() if node.id in names:
            value = names[node.id]
    return value


def _dict(pairs: Iterable[tuple[Any, ast.expr]], names: Mapping[str, Any]) -> Any:
    """A dict of the data in ``pairs``, in which None as a key stands for ``**other``."""
    made: dict[Any, Any] = {}
    for key, node in pairs:
        value = _value(node, names)
        if key is None and isinstance(value, dict):
            made |= value
        elif key is None or isinstance(key, ast.expr):
            return _Unreadable(node)
        else:
            made[key] = value
    return made


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Mmcv's inheritance: dicts merge, ``_delete_=True`` replaces, everything else replaces."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and not value.get("_delete_"):
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged


# ---------------------------------------------------------------- meaning


class _Table:
    """A dict of the config that knows where it stands, so that errors can say so."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise CheckpointError(f"{where}: is missing or not a dict, as an SCRFD config has it.")
        self.values, self.where = values, where
        self._require_data(values.get(_SPOILED), where)

    def get(self, key: str, default: Any = None) -> Any:
        value = self.values.get(key, default)
        for item in value if isinstance(value, list | tuple) else [value]:
            self._require_data(item, f"{self.where}.{key}")
        return value

    def _require_data(self, value: Any, where: str) -> None:
        if isinstance(value, _Unreadable):
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
                f"{self.where}.{key} = {value!r} is not supported, only {allowed!r} is."
            )


def _architecture(values: Mapping[str, Any], name: str, where: str) -> Architecture:
    model = _Table(dict(values), where).sub("model")
    try:
        return _assemble(model, name)
    except UsageError as error:
        raise CheckpointError(f"{where}: {error}") from error
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise CheckpointError(
            f"{where}: the model's values do not fit an SCRFD ({error})."
        ) from error


def _assemble(model: _Table, name: str) -> Architecture:
    backbone, neck, head = model.sub("backbone"), model.sub("neck"), model.sub("bbox_head")
    head.expect("type", None, "SCRFDHead")
    _refuse_dfl(head)
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
        keypoints=KEYPOINTS if head.get("use_kps", False) else 0,
        strides=strides,
        anchors=_anchors(anchors),
        classes=int(head.need("num_classes")),
        shared_tower=bool(head.get("cls_reg_share", False)),
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
        "block": block, "stem_channels": stem, "stage_blocks": blocks, "stage_channels": channels,
    }  # fmt: skip


def _refuse_dfl(head: _Table) -> None:
    # upstream: any truthy loss_dfl switches stride_reg to a distribution over reg_max + 1 bins
    if head.get("loss_dfl"):
        raise CheckpointError(
            f"{head.where}.loss_dfl: boxes as distributions (DFL) cannot be converted: the "
            "deployed interface has four distances per anchor, and upstream's export refuses it, "
            "too. Train with loss_dfl=False."
        )


def _strides(neck: _Table, head: _Table) -> tuple[int, ...]:
    neck.expect("type", None, "PAFPN")
    neck.expect("act_cfg", None, None)  # an activation leaves no trace in the weights
    start, count = int(neck.get("start_level", 0)), int(neck.need("num_outs"))
    if count > len(neck.need("in_channels")) - start:  # extra levels: only as 3x3 s2 convs
        neck.expect("add_extra_convs", False, "on_output")
        neck.expect("relu_before_extra_convs", False, False)
    strides = tuple(int(s) for s in head.sub("anchor_generator").need("strides"))
    made = tuple(FIRST_STAGE_STRIDE << (start + i) for i in range(count))
    if strides != made:
        raise CheckpointError(
            f"{head.where}: strides {strides} do not fit the neck, which makes {made}."
        )
    return strides


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


def _anchors(generator: _Table) -> int:
    scales = generator.get("scales")
    if scales is None:  # mmdet's other spelling
        return len(generator.need("ratios")) * int(generator.need("scales_per_octave"))
    return len(generator.need("ratios")) * len(scales)
