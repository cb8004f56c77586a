"""Tables of cases that take minutes: some in every run, all of them in the slow ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def every(step: int, cases: Iterable[Any]) -> list[Any]:
    """``cases`` as parameters; all but every ``step``-th one are slow."""
    return [
        pytest.param(case, marks=() if place % step == 0 else pytest.mark.slow)
        for place, case in enumerate(cases)
    ]
