"""Measurements of opened artifacts: metrics, images, decoding, parity, reports.

Public names load their modules when they are used: importing the package costs nothing.
"""

from __future__ import annotations

from scrfdconv.converters.public import loaded_when_used

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
__getattr__ = loaded_when_used(__name__, _PUBLIC)
