"""A build at a glance: a row per checkpoint, a column per kind of artifact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from scrfdconv.checks.reports.outcome import BuildResult, Outcome


@dataclass(frozen=True)
class Column:
    """One kind of artifact. Columns of one format, and in it of one shape, stand together."""

    format: str
    shape: str  # with the batch, if that is not 1
    precision: str

    @classmethod
    def of(cls, outcome: Outcome) -> Column:
        """The column in which ``outcome`` stands."""
        return cls(outcome.format, outcome.shape + outcome.batch_shown, outcome.precision)


@dataclass(frozen=True)
class Matrix:
    """``rows[i]`` is a checkpoint and, for each column, its artifacts: none, one, or several."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[tuple[Outcome, ...], ...]], ...]

    @classmethod
    def of(cls, result: BuildResult) -> Matrix:
        """Sort the outcomes in; rows and columns keep the order of the recipe."""
        columns = _columns(result)
        cells: dict[str, dict[Column, list[Outcome]]] = {}
        for outcome in result.outcomes:
            row = cells.setdefault(outcome.checkpoint, {column: [] for column in columns})
            row[Column.of(outcome)].append(outcome)
        return cls(
            columns,
            tuple((name, tuple(map(tuple, row.values()))) for name, row in cells.items()),
        )

    def formats(self) -> Iterator[tuple[str, int]]:
        """Each format and how many columns it spans."""
        for kind, group in groupby(self.columns, lambda column: column.format):
            yield kind, len(list(group))

    def shapes(self) -> Iterator[tuple[str, int]]:
        """Each shape within its format and how many columns it spans."""
        for (_, shape), group in groupby(self.columns, lambda c: (c.format, c.shape)):
            yield shape, len(list(group))


def _columns(result: BuildResult) -> tuple[Column, ...]:
    found = dict.fromkeys(map(Column.of, result.outcomes))
    formats = list(dict.fromkeys(column.format for column in found))
    shapes = list(dict.fromkeys(column.shape for column in found))
    # A stable sort: precisions stay in the order in which the recipe has them.
    return tuple(sorted(found, key=lambda c: (formats.index(c.format), shapes.index(c.shape))))
