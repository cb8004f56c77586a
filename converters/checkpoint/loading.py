"""Checkpoints: weights with the architecture that they belong to.

Files load with ``weights_only=True``, so that a checkpoint is data and never code, and strictly:
a missing, unexpected or mis-shaped tensor is an error. Lenient loading is how half-random
networks were exported for years.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrfdconv.converters.artifact import digest_of
from scrfdconv.converters.checkpoint.files import read_checkpoint
from scrfdconv.converters.checkpoint.fit import NAMED, counted, require_fit
from scrfdconv.converters.checkpoint.mmdet_config import (
    Described,
    class_names_of,
    described_in_file,
    described_in_text,
)
from scrfdconv.converters.checkpoint.recognise import (
    BINS,
    LIKENESS,
    closest,
    keypoints_in,
    needed,
    only_groups_are_open,
    parameter_shapes,
    recognise,
    unused_levels,
)
from scrfdconv.converters.errors import ArtifactError, CheckpointError, UsageError
from scrfdconv.converters.metadata import PREFIX, architecture_from_metadata
from scrfdconv.converters.network.architecture import (
    BUILTIN,
    DEFAULT_MODEL,
    Architecture,
    common_row,
    known_name,
    named_architecture,
)
from scrfdconv.converters.normalization import (
    ASSUMED,
    NOTHING_SAID,
    STANDARD,
    NormalizationOptions,
)

if TYPE_CHECKING:
    from torch import Tensor

    from scrfdconv.converters.network.model import SCRFD

logger = logging.getLogger(__name__)

DEFAULT_SEED = 0
# Keys of `meta` in checkpoints that were lifted: the architecture as JSON, the origin's sha256.
META_ARCHITECTURE, META_ORIGIN = f"{PREFIX}architecture", f"{PREFIX}lifted_from"
_SEEN = "names and shapes of the weights"
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_PARTS = re.compile(r"^(.*?)(backbone|neck|bbox_head)\.")
_SHOWN = 100  # characters of a name that an error shows
# 34G has 900 tensors; with moving averages and a wrapper's copies a few times as many.
MAX_TENSORS = 20_000


@dataclass(frozen=True)
class Checkpoint:
    """Weights (float32, on the CPU), their architecture, and where both come from."""

    name: str  # names the artifacts made from it
    architecture: Architecture
    recognised_by: str
    weights: Mapping[str, Tensor]
    digest: str  # sha256 of the file, or of the seeded weights
    path: Path | None = None
    notes: tuple[str, ...] = ()  # what was left out or converted on loading
    format: str = "pytorch"
    # False: neither file nor user says how pictures are normalised, and the default is assumed
    says_normalization: bool = True

    @property
    def seeded(self) -> bool:
        """True if the weights were drawn, not trained."""
        return self.path is None

    @cached_property
    def weights_digest(self) -> str:
        """sha256 over names, shapes and values: equal for equal weights in any container."""
        return _digest_of_weights(self.weights)

    def model(self) -> SCRFD:
        """The network in evaluation mode with these weights."""
        import torch

        from scrfdconv.converters.network.model import SCRFD

        with torch.device("meta"):
            model = SCRFD(self.architecture)
        counters = {
            name: torch.zeros((), dtype=torch.int64)
            for name in model.state_dict()
            if name.endswith("num_batches_tracked")
        }
        model.load_state_dict({**self.weights, **counters}, assign=True)
        return model.eval().requires_grad_(requires_grad=False)


def load_source(
    source: str | None,
    *,
    architecture: str | None = None,
    config: Path | None = None,
    groups: int | None = None,
    seed: int = DEFAULT_SEED,
    normalization: NormalizationOptions = NOTHING_SAID,
) -> Checkpoint:
    """SOURCE of the command line: a checkpoint file, a built-in name, or None for the default.

    Built-in names stand for seeded, untrained weights.
    """
    if source is not None and not source.strip():  # an unset variable of a script
        raise UsageError("SOURCE is empty; leave it out for the default model.")
    name = known_name(source) if source else DEFAULT_MODEL
    if source and (Path(source).exists() or name is None):
        if not Path(source).exists() and "." not in source and "/" not in source:
            raise UsageError(
                f"{source}: neither a file nor a known model; known are {', '.join(BUILTIN)}."
            )
        return load_checkpoint(
            Path(source),
            architecture=architecture,
            config=config,
            groups=groups,
            normalization=normalization,
        )
    if architecture and config:
        raise UsageError("--architecture and --config both say the architecture: give one.")
    known = BUILTIN[name or DEFAULT_MODEL]
    found = Described(known, f"the built-in {known.name}", says_normalization=False)
    if architecture:
        found = _named(architecture)
    elif config:
        found = _common(described_in_file(config, config.stem), f"--config {config}")
    said = normalization.over(found.normalization, found.by)
    return seeded_checkpoint(replace(found.architecture, normalization=said or STANDARD), seed)


def seeded_checkpoint(architecture: Architecture, seed: int = DEFAULT_SEED) -> Checkpoint:
    """Untrained weights, the same on every machine; the name says that they are seeded."""
    from scrfdconv.converters.network.seeded import seeded_weights

    weights = seeded_weights(architecture, seed)
    name = f"{architecture.name}-seeded" + (f"{seed}" if seed else "")
    return Checkpoint(
        name=name,
        architecture=architecture,
        recognised_by=f"built-in {architecture.name}",
        weights=weights,
        digest=_digest_of_weights(weights),
    )


def load_checkpoint(
    path: Path,
    *,
    architecture: str | Architecture | None = None,
    config: Path | None = None,
    groups: int | None = None,
    normalization: NormalizationOptions = NOTHING_SAID,
) -> Checkpoint:
    """Load an mmdet ``.pth``, a bare state_dict or ``.safetensors``.

    The first of these decides what network it is: ``architecture`` (itself, a known name, or a
    TOML file), ``config``, the file's ``meta`` (from `save_checkpoint`, or a config text), the
    names and shapes of the tensors.
    ``groups`` is GroupNorm's number of groups, where names and shapes leave it open, and
    ``normalization`` what the user says of it, where no config does. Raises CheckpointError for
    files that do not load or do not fit the architecture, UsageError for contradictions.
    """
    if sum(option is not None for option in (architecture, config, groups)) > 1:
        raise UsageError("--architecture, --config and --norm-groups exclude each other: give one.")
    content = read_checkpoint(path)
    tensors, notes = _tensors(_state_dict(content, path), path)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    shapes = _without_unused_levels(shapes, notes)
    found = _find_architecture(path, content, shapes, architecture, config, groups)
    network, how = found.architecture, found.by
    said = normalization.over(found.normalization, f"{path} ({how})")
    network = replace(
        network,
        normalization=said or STANDARD,
        class_names=network.class_names or _names_in(content, network.classes),
    )
    require_fit(shapes, network, f"{path} ({how})")
    _require_whole_bins(tensors, network, path)
    weights = {name: tensors[name] for name in parameter_shapes(network)}
    weights = _float32(weights, path, notes)
    notes += [] if said else [ASSUMED]
    if how == _SEEN and groups is None and network.head_groups:
        notes.append(
            f"{network.head_groups} groups in GroupNorm assumed, as the published "
            f"{network.name} has; weights do not show them, and --norm-groups says another"
        )
    return Checkpoint(
        name=path.stem,
        architecture=network,
        recognised_by=how,
        weights=weights,
        digest=digest_of(path),
        path=path,
        notes=tuple(notes),
        says_normalization=said is not None,
    )


# ---------------------------------------------------------------- reading


def _state_dict(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            return content[wrapper]  # type: ignore[no-any-return]
    if not any(_PARTS.match(str(key)) for key in content):
        keys = ", ".join(str(key) for key in list(content)[:NAMED])
        raise CheckpointError(f"{path}: has no state_dict of an SCRFD; its keys are {keys} ...")
    return content


def _tensors(state: Mapping[str, Any], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors under mmdet's names, and notes on what was stripped or left out.

    Wrappers prefix every name (``module.``, ``ema_``). Where averaged copies (``ema_...``) stand
    beside the plain names, the plain ones count: mmcv's EMA hook swaps the averages into them
    before a checkpoint is saved.
    """
    import torch

    if len(state) > MAX_TENSORS:
        raise CheckpointError(f"{path}: has {len(state)} entries, and no SCRFD has as many.")
    by_prefix: dict[str, dict[str, Tensor]] = {}
    other: dict[str, Any] = {}
    for key, value in state.items():
        match = _PARTS.match(key) if isinstance(key, str) else None
        if match is None or not isinstance(value, torch.Tensor):
            other[str(key)[:_SHOWN]] = value
        else:
            by_prefix.setdefault(match[1], {})[key[len(match[1]) :]] = value
    if not by_prefix:
        raise CheckpointError(f"{path}: none of its {len(state)} entries is a tensor of an SCRFD.")
    prefix = min(by_prefix, key=lambda p: ("ema" in p, len(p)))
    tensors, notes = by_prefix.pop(prefix), []
    if prefix:
        notes.append(f"prefix {prefix!r} stripped from {len(tensors)} names")
    averages = [k for k in other if re.match(r"(module\.)?ema_", k)]
    averages += [p + k for p, group in by_prefix.items() if "ema" in p for k in group]
    if averages:
        notes.append(f"{len(averages)} moving averages (ema_) left out: the plain names hold them")
    strangers = [k for k in other if k not in averages]
    strangers += [p + k for p, group in by_prefix.items() if "ema" not in p for k in group]
    if strangers:
        raise CheckpointError(f"{path}: {counted(strangers, 'unexpected')}.")
    return tensors, notes


def _float32(weights: Mapping[str, Tensor], path: Path, notes: list[str]) -> dict[str, Tensor]:
    import torch

    strange = [n for n, t in weights.items() if t.layout != torch.strided or t.is_meta]
    if strange:
        raise CheckpointError(f"{path}: {counted(strange, 'sparse or without values')}.")
    strange = [n for n, t in weights.items() if not _is_plain(t)]
    if strange:
        raise CheckpointError(f"{path}: {counted(strange, 'complex, quantised or overlapping')}.")
    others = {str(t.dtype).removeprefix("torch.") for t in weights.values()} - {"float32"}
    if others:
        notes.append(f"converted from {', '.join(sorted(others))} to float32")
    result = {name: tensor.detach().to(torch.float32) for name, tensor in weights.items()}
    bad = [name for name, tensor in result.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(f"{path}: {counted(bad, 'not finite (NaN or infinite)')}.")
    below = [n for n, t in result.items() if n.endswith("running_var") and t.min() < 0]
    if below:
        raise CheckpointError(f"{path}: {counted(below, 'negative, and variances are not')}.")
    return result


def _require_whole_bins(tensors: Mapping[str, Tensor], a: Architecture, path: Path) -> None:
    """Raise CheckpointError for distributions over other bins than 0, 1, 2 ..."""
    stored = tensors.get(BINS)
    if a.box_bins and stored is not None and stored.tolist() != list(range(a.box_bins)):
        raise CheckpointError(
            f"{path}: {BINS} is not 0 to {a.box_bins - 1}, as boxes over {a.box_bins} bins have it."
        )


def _is_plain(tensor: Tensor) -> bool:
    """True for a tensor of real numbers whose values all have memory of their own."""
    if tensor.is_quantized or tensor.is_complex() or tensor.is_nested:
        return False
    return tensor.nbytes <= tensor.untyped_storage().nbytes()


# ---------------------------------------------------------------- architecture


def _find_architecture(
    path: Path,
    content: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    architecture: str | Architecture | None,
    config: Path | None,
    groups: int | None,
) -> Described:
    if isinstance(architecture, Architecture):
        return Described(architecture, "the caller")
    if architecture is not None:
        return _named(architecture)
    if config is not None:
        return _counted(described_in_file(config, path.stem), f"--config {config}", shapes, path)
    meta = content.get("meta")
    text = meta.get("config") if isinstance(meta, Mapping) else None
    if groups is not None and not any(".gn." in key for key in shapes):
        raise UsageError(f"--norm-groups {groups}: {path} has no GroupNorm.")
    own = meta.get(META_ARCHITECTURE) if isinstance(meta, Mapping) else None
    if isinstance(own, str) and groups is None:
        return Described(_own_architecture(own, path), "the architecture in meta")
    if isinstance(text, str) and text.strip() and groups is None:
        where = f"{path}: the config in its meta"
        return _counted(
            described_in_text(text, path.stem, where), "the config in meta", shapes, path
        )
    try:
        seen = common_row(recognise(shapes, path.stem, groups))
        return Described(seen, _SEEN, says_normalization=False)
    except CheckpointError as error:
        like, share = closest(needed(shapes))
        if share >= LIKENESS and not only_groups_are_open(shapes):
            require_fit(shapes, like, f"{path} (most like {like.name})")
        raise CheckpointError(f"{path}: {error}.") from error


def _named(architecture: str) -> Described:
    """A row states a normalisation only where it has another one than the published networks."""
    found = named_architecture(architecture)
    other = found.normalization != STANDARD
    return Described(found, f"--architecture {architecture}", says_normalization=other)


def _counted(
    found: Described, by: str, shapes: Mapping[str, tuple[int, ...]], path: Path
) -> Described:
    """With the number of keypoints that the weights have, where the config leaves it open."""
    a = found.architecture
    if a.keypoints and not found.says_keypoints:
        try:
            points = keypoints_in(shapes, a.anchors)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}.") from error
        found = replace(found, architecture=replace(a, keypoints=points or a.keypoints))
    return _common(found, by)


def _common(found: Described, by: str) -> Described:
    return replace(found, architecture=common_row(found.architecture), by=by)


def _own_architecture(text: str, path: Path) -> Architecture:
    try:
        architecture = architecture_from_metadata({"architecture": text})
    except ArtifactError as error:
        raise CheckpointError(f"{path}: {error}") from error
    assert architecture is not None
    return common_row(architecture)


def _without_unused_levels(
    shapes: Mapping[str, tuple[int, ...]], notes: list[str]
) -> dict[str, tuple[int, ...]]:
    """``shapes`` without the neck's extra levels that the head has no stride for, and a note."""
    unused = unused_levels(shapes)
    if not unused:
        return dict(shapes)
    levels = {key.split(".")[2] for key in unused}
    notes.append(f"{len(levels)} levels of the neck left out: the head uses none of them")
    return {key: shape for key, shape in shapes.items() if key not in unused}


def _names_in(content: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """The names of several classes in mmdet's ``meta``, where there are as many."""
    meta = content.get("meta")
    return class_names_of([meta.get("CLASSES")] if isinstance(meta, Mapping) else [], classes)


def _digest_of_weights(weights: Mapping[str, Tensor]) -> str:
    result = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name]
        result.update(f"{name}{list(tensor.shape)}".encode())
        result.update(tensor.contiguous().numpy().tobytes())
    return result.hexdigest()
