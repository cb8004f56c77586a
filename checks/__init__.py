"""Measurements of opened artifacts: metrics, images, decoding, parity, reports.

Public names load their modules when they are used: importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "CheckResult": "checks.results",
    "Demand": "checks.verification",
    "Faces": "checks.faces.decode",
    "Report": "checks.results",
    "agreement": "checks.faces.matching",
    "letterbox": "checks.faces.images",
    "read_image": "checks.faces.images",
    "verify": "checks.verification",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"{__name__} has no public name {name}")
    return getattr(import_module(f"scrfdconv.{_PUBLIC[name]}"), name)
