"""The verb doctor: what works on this machine, and what is missing for the rest."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from scrfdconv.cli.artifacts import options as o
from scrfdconv.cli.main import LOOK_UP, verb
from scrfdconv.cli.terminal import output

GIB = 2**30
FAILED = 1


@verb(LOOK_UP)
def doctor(
    run: Annotated[
        bool, typer.Option("--run", help="Really convert and verify a small model in each.")
    ] = False,
    json: o.Json = False,
) -> None:
    """Say what works here: versions, processor, memory, GPU, formats.

    Exit 1 if --run fails.
    """
    from scrfdconv.recipes.doctor import examine

    with output.working("trying every format" if run else "looking around"):
        facts = examine(run=run)
    if json:
        output.print_json(facts)
    else:
        _show(facts)
    if any(row["state"] == "failed" for row in facts["formats"]):
        raise typer.Exit(FAILED)


def _show(facts: dict[str, Any]) -> None:
    cpu, memory, gpu = facts["cpu"], facts["memory"], facts["gpu"]
    output.show(f"system     {facts['system']['platform']}, Python {facts['system']['python']}")
    for name, version in facts["packages"].items():
        output.show(f"           {name} {version or '-'}")
    output.show(f"processor  {cpu['model']}: {_features(cpu['features'])}")
    output.show(
        f"threads    {cpu['torch_threads']} of torch, {cpu['usable_cores']} of {cpu['cores']} cores"
    )
    limit = f", limited to {memory['limit'] / GIB:.1f}" if memory["limit"] else ""
    output.show(
        f"memory     {memory['available'] / GIB:.1f} of {memory['total'] / GIB:.1f} GiB free{limit}"
    )
    output.show(f"driver     {gpu['driver'] or '-'} (CUDA in torch: {gpu['torch_cuda'] or '-'})")
    compute = f" ({gpu['compute_capability']})" if gpu["name"] else ""
    output.show(f"GPU        {gpu['name'] or '-'}{compute}")
    trtexec = f", trtexec at {gpu['trtexec']}" if gpu["trtexec"] else ""
    output.show(f"TensorRT   {gpu['tensorrt'] or '-'}{trtexec}")
    output.show(
        f"parser     {gpu['parser'] or '-'} (checks ONNX files for TensorRT, without a GPU)"
    )
    for reason in gpu["missing"]:
        output.show(f"           {reason}")
    for row in facts["formats"]:
        why = f"  {row['why']}" if row["why"] else ""
        output.show(f"{row['format']:<13}{row['precision']:<6}{row['state']:<10}{why}".rstrip())


def _features(features: dict[str, bool | None]) -> str:
    if None in features.values():
        return "features unknown, this system does not tell"
    return ", ".join(name for name, has in features.items() if has) or "none of the features"
