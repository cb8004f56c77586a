"""Lines on stderr."""
from __future__ import annotations
from collections.abc import Mapping, Sequence
from scrfdconv.checks.outcome import Outcome
class BuildView:
    def __enter__(self) -> BuildView: return self
    def __exit__(self, *_: object) -> None: ...
    def planned(self, names: Sequence[str], states: Mapping[str, str]) -> None: ...
    def started(self, name: str) -> None: ...
    def finished(self, outcome: Outcome) -> None:
        import sys
        print(outcome.state, outcome.name, outcome.seconds, outcome.why, file=sys.stderr)
