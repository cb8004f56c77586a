"""What is asked of a reduced precision, and what comes back: the settings of the conversion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrfdconv.checks.results import CheckResult
from scrfdconv.checks.verification import Demand
from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.formats import Source

if TYPE_CHECKING:
    from scrfdconv.recipes.artifacts.target import Target

Progress = Callable[[int, int], None]
Stage = Callable[[str], AbstractContextManager[Progress]]

DEFAULT_SIZE = (640, 640)  # of photographs for dynamic models: upstream's size


@contextmanager
def silent(_: str) -> Iterator[Progress]:
    """A stage that shows nothing."""
    yield lambda done, total: None


@dataclass(frozen=True, kw_only=True)
class Order:
    """A float graph, and the conversion that is wanted."""

    source: Source  # what the artifact is compared with
    parent: Artifact  # the float graph
    target: Target
    precision: str
    images: tuple[Path, ...]
    demand: Demand | None
    stage: Stage


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Settings for the conversion, and everything that was measured on the way to them."""

    demand: Demand | None
    settings: Any = None
    results: tuple[CheckResult, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    # Facts and lines about the time of the finished artifact.
    timing: Callable[[Artifact], tuple[Mapping[str, Any], tuple[str, ...]]] | None = None
    keep: Callable[[], None] = lambda: None
