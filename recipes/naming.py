"""What artifacts are called: NAME, the fixed shape, the precision, the suffix."""

from __future__ import annotations

from pathlib import Path


def default_output(
    name: str, suffix: str, shape: tuple[int, int] | None = None, precision: str = "fp32"
) -> Path:
    """``NAME_shapeHxW_fp16.onnx`` in the working directory; parts that do not apply fall away."""
    size = f"_shape{shape[0]}x{shape[1]}" if shape and "_shape" not in name else ""
    kind = "" if precision == "fp32" else f"_{precision}"
    return Path(f"{name}{size}{kind}{suffix}")
