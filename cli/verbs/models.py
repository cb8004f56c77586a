"""The verb models: the known models."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from scrfdconv.cli.artifacts import options as o
from scrfdconv.cli.main import LOOK_UP, verb
from scrfdconv.cli.terminal import output


@verb(LOOK_UP, bare=True)
def models(
    name: Annotated[str | None, typer.Argument(help="One model only.")] = None,
    toml: Annotated[
        bool, typer.Option("--toml", help="Print NAME as a file for --architecture.")
    ] = False,
    json: o.Json = False,
) -> None:
    """List the known models: published figures beside those computed from the networks."""
    from scrfdconv.converters.network.architecture import (
        BUILTIN,
        named_architecture,
        toml_from_architecture,
    )

    if toml:
        if name is None:
            raise typer.BadParameter("--toml needs the name of a model.")
        for line in toml_from_architecture(named_architecture(name)).splitlines():
            output.show(line)
        return
    chosen = [named_architecture(name).name] if name else list(BUILTIN)
    with output.working("computing"):
        rows = [_row(model) for model in chosen]
    if json:
        output.print_json({"models": rows})
    else:
        _print_table(rows)


def _row(name: str) -> dict[str, Any]:
    from scrfdconv.converters.network.architecture import BUILTIN, PUBLISHED
    from scrfdconv.converters.network.complexity import complexity

    architecture, published = BUILTIN[name], PUBLISHED.get(name)
    cost = complexity(architecture)
    return {
        "name": name,
        "published": published.label if published else None,
        "keypoints": architecture.keypoints,
        "head_norm": "GroupNorm" if architecture.head_groups else "BatchNorm",
        "strides": list(architecture.strides),
        "parameters": cost.parameters,
        "published_parameters_millions": published.params if published else None,
        "gflops": round(cost.flops / 1e9, 4),
        "published_flops": published.flops if published else None,
        "widerface_ap": [published.easy, published.medium, published.hard] if published else None,
        "note": published.note if published else "not released",
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    headings = (
        "model", "kps", "norm", "params M", "published", "GFLOPs VGA", "published",
        "AP easy", "medium", "hard",
    )  # fmt: skip
    output.show_columns([headings, *map(_cells, rows)], words=1)
    for row in rows:
        if row["note"] and row["published"]:
            output.show(f"* {row['published']}: {row['note']}.")
    output.show(
        "AP: WIDER FACE val at VGA, as published. GFLOPs: one multiply-add is one, at 640x480."
    )


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    params = row["published_parameters_millions"]
    wrong = "*" if row["note"] and row["published"] else ""
    return (
        row["name"],
        str(row["keypoints"]),
        row["head_norm"][:-4],
        f"{row['parameters'] / 1e6:.3f}",
        f"{params:.2f}{wrong}" if params else "-",
        f"{row['gflops']:.4f}",
        f"{row['published_flops']}{wrong}" if params else "-",
        *([f"{ap:.2f}" for ap in row["widerface_ap"] or ()] or ["-"] * 3),
    )
