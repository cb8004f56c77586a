"""The verb build: every artifact of a recipe, verified, remembered, reported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scrfdconv.cli.artifacts import options as o
from scrfdconv.cli.main import MAKE, verb
from scrfdconv.cli.terminal import output
from scrfdconv.cli.terminal.results import publish

if TYPE_CHECKING:
    from scrfdconv.recipes.build.build import BuildOptions
    from scrfdconv.recipes.build.recipe import Recipe

DEFAULT_OUT, DEFAULT_RECIPE = Path("artifacts"), Path("build.toml")


RecipeOption = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RECIPE",
        help="A TOML file, or `release` of the package; "
        "with --init the checkpoints for a new recipe.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        help="Folder of the artifacts; with --init the file.",
        show_default="artifacts",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        help="Steps at a time, one thread each; results do not depend on it.",
        show_default="one for each core",
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="GLOB", help="Only artifacts of this name; repeatable."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would run, and why; build nothing.")
]
Force = Annotated[bool, typer.Option("--force", help="Build what is up to date, too.")]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Start nothing more after a failure.")]
Strict = Annotated[bool, typer.Option("--strict", help="Count skipped artifacts as failures.")]
Matrix = Annotated[
    bool, typer.Option("--matrix", help="Print the recipe as a JSON matrix for CI machines.")
]
Init = Annotated[
    bool, typer.Option("--init", help="Write a commented recipe for the given checkpoints.")
]
Insightface = Annotated[
    bool, typer.Option("--insightface", help="Write model packages for insightface, too.")
]


@verb(MAKE)
def build(
    recipe: RecipeOption = None,
    out: Out = None,
    jobs: Jobs = None,
    only: Only = None,
    dry_run: DryRun = False,
    force: Force = False,
    fail_fast: FailFast = False,
    strict: Strict = False,
    scheduler: o.Scheduler = None,
    matrix: Matrix = False,
    init: Init = False,
    insightface: Insightface = False,
    json: o.Json = False,
) -> None:
    """Build every artifact of a recipe: verified, only what changed, with reports for CI."""
    from scrfdconv.converters.system.machine import usable_cores
    from scrfdconv.recipes.build.build import BuildOptions
    from scrfdconv.recipes.build.recipe_file import find_recipe, load_recipe

    if init:
        _init(recipe or [], out or DEFAULT_RECIPE)
        return
    if not recipe or len(recipe) > 1:
        raise typer.BadParameter("give one RECIPE, or --init with checkpoints.")
    o.of_this_machine("--jobs", jobs, scheduler)
    if scheduler and (matrix or dry_run):
        raise typer.BadParameter("--scheduler is for building; --matrix and --dry-run build none.")
    loaded = load_recipe(find_recipe(recipe[0]))
    options = BuildOptions(
        jobs or usable_cores(),
        tuple(only or ()),
        force=force,
        fail_fast=fail_fast,
        strict=strict,
        scheduler=scheduler,
    )
    if matrix:
        _print_matrix(loaded, options)
    elif dry_run:
        _show_plan(loaded, out or DEFAULT_OUT, options)
    else:
        _build(loaded, out or DEFAULT_OUT, options, packages=insightface)


def _build(recipe: Recipe, out: Path, options: BuildOptions, *, packages: bool) -> None:
    from scrfdconv.cli.terminal.build_view import build_view
    from scrfdconv.converters.artifact import require_distinct
    from scrfdconv.recipes.build.build import build
    from scrfdconv.recipes.build.plan import plan
    from scrfdconv.recipes.packs.insightface import package_files, write_packages

    if packages:
        written = dict.fromkeys(package_files(plan(recipe, options.only), out))
        require_distinct(written, recipe.files_read())
    with build_view() as view:
        result = build(recipe, out, options, view, ["scrfdconv", *sys.argv[1:]])
    for told in write_packages(result.outcomes, out) if packages else ():
        output.say(told)
    publish(result, out)


def _show_plan(recipe: Recipe, out: Path, options: BuildOptions) -> None:
    from scrfdconv.recipes.build.build import decisions

    found = decisions(recipe, out, options)
    rows = [
        {
            "step": d.step.name,
            "parent": d.step.parent,
            "runs": bool(d.why) and not d.blocked,
            "why": d.blocked or d.why or "up to date",
            "internal": d.step.internal,
        }
        for d in found
    ]
    due = sum(bool(row["runs"]) for row in rows)
    if output.wants_json():
        output.print_json({"recipe": recipe.name, "steps": rows, "due": due})
        return
    for row in rows:
        mark = "run " if row["runs"] else "skip" if row["why"] != "up to date" else "ok  "
        made_from = f"  from {row['parent']}" if row["parent"] else ""
        output.show(f"{mark}  {row['step']}  ({row['why']}){made_from}")
    output.show(f"{due} of {len(rows)} steps would run")


def _print_matrix(recipe: Recipe, options: BuildOptions) -> None:
    from scrfdconv.recipes.build.plan import plan

    counts: dict[str, int] = {}
    for step in plan(recipe, options.only):
        if not step.internal:
            counts[step.checkpoint.name] = counts.get(step.checkpoint.name, 0) + 1
    include = [
        {"name": name, "only": f"{name}/*", "artifacts": count} for name, count in counts.items()
    ]
    output.print_json({"include": include}, indent=None)


def _init(sources: list[str], file: Path) -> None:
    from scrfdconv.converters.artifact import replacing, writing_to
    from scrfdconv.converters.errors import OutputError
    from scrfdconv.recipes.build.template import recipe_text

    with writing_to(file):
        if file.exists():
            raise OutputError(f"{file}: is there already; name another file with -o.")
    text = recipe_text(sources, file)
    with replacing(file) as part:
        part.write_text(text, "utf-8")
    if output.wants_json():
        output.print_json({"path": str(file)})
    output.show(f"{file}  now `scrfdconv build {file}`")
