"""Do weights belong to an architecture, and if not: what tells the two apart?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from scrfdconv.converters.checkpoint.recognise import (
    Shapes,
    closest,
    has_group_norm,
    likeness,
    needed,
    parameter_shapes,
    recognise,
)
from scrfdconv.converters.errors import CheckpointError
from scrfdconv.converters.network.architecture import Architecture

NAMED = 3  # keys that an error names before it counts the rest

# Fields of an architecture that no tensor shows.
_WITHOUT_TENSORS = ("name", "class_names", "normalization")


def require_fit(shapes: Shapes, architecture: Architecture, where: str) -> None:
    """Raise CheckpointError unless names and shapes are exactly the architecture's."""
    whole, shapes = shapes, needed(shapes)
    expected = parameter_shapes(architecture)
    kinds = {
        "missing": [key for key in expected if key not in shapes],
        "unexpected": [key for key in shapes if key not in expected],
        "mis-shaped": [
            f"{key} {list(shapes[key])} instead of {list(expected[key])}"
            for key in expected
            if key in shapes and shapes[key] != expected[key]
        ],
    }
    faults = [counted(keys, word) for word, keys in kinds.items() if keys]
    if not faults:
        return
    like, share = closest(shapes)
    if like != architecture and share > likeness(shapes, architecture):
        faults.append(f"it looks like {like.name} ({share:.0%} of the tensors)")
    faults = [*_differences(whole, architecture), *faults]
    raise CheckpointError(f"{where} does not fit {architecture.name}: {'; '.join(faults)}.")


def counted(keys: Sequence[str], word: str) -> str:
    """``5 tensors missing (a, b, c, ...)``."""
    named = ", ".join(keys[:NAMED]) + (", ..." if len(keys) > NAMED else "")
    return f"{len(keys)} tensor{'s' * (len(keys) > 1)} {word} ({named})"


def _differences(shapes: Shapes, architecture: Architecture) -> list[str]:
    """``classes is 3, and 1 in the weights``; nothing where the weights are no whole SCRFD."""
    try:
        groups = (architecture.head_groups or 1) if has_group_norm(shapes) else None
        seen = recognise(shapes, architecture.name, groups)
    except CheckpointError:
        return []
    if parameter_shapes(seen) != needed(shapes):
        return []
    pairs = {
        field.name: (getattr(architecture, field.name), getattr(seen, field.name))
        for field in fields(Architecture)
        if field.name not in _WITHOUT_TENSORS
    }
    if architecture.head_groups == 0 and seen.head_groups:
        pairs["head_groups"] = (0, "not 0")
    different = [f"{k} is {a}, and {b} in the weights" for k, (a, b) in pairs.items() if a != b]
    return [*different[:NAMED], *(["..."] if len(different) > NAMED else [])]
