"""What docs/ci.md shows is valid, and its commands exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from scrfdconv.cli import app

yaml = pytest.importorskip("yaml", reason="PyYAML comes with the extra dask")

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "ci.md"


def fenced() -> list[dict]:
    blocks = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return [yaml.safe_load(block) for block in blocks]


def shell_lines(content) -> list[str]:
    """Every line of every ``run`` and ``script``."""
    if isinstance(content, list):
        return [line for item in content for line in shell_lines(item)]
    if not isinstance(content, dict):
        return []
    found = []
    for key, value in content.items():
        if key in ("run", "script"):
            scripts = [value] if isinstance(value, str) else value
            found += [line for script in scripts for line in script.splitlines()]
        else:
            found += shell_lines(value)
    return found


def commands() -> list[str]:
    """Every command line of scrfdconv, in the YAML and in the text."""
    lines = [line for block in fenced() for line in shell_lines(block)]
    lines += re.findall(r"`(scrfdconv [^`]*)`", DOCUMENT.read_text())
    found = (re.search(r"scrfdconv [^)#|;&]*", line) for line in lines)
    return sorted({match[0].strip() for match in found if match})


def parse(arguments: list[str]) -> None:
    """Let the command line's own parser read ``arguments``; raises where it does not know one."""
    command = typer.main.get_command(app)
    context = command.make_context("scrfdconv", list(arguments), resilient_parsing=True)
    while hasattr(command, "get_command"):
        name, *arguments = arguments
        command = command.get_command(context, name)
        if command is None:
            raise KeyError(name)
        context = type(context)(command, parent=context, info_name=name)
    command.make_parser(context).parse_args(args=list(arguments))


def test_all_examples_are_yaml_with_jobs_that_run_something():
    github, fan_out, gitlab = fenced()

    assert github["jobs"].keys() == {"build"}
    assert fan_out["jobs"].keys() == {"plan", "build", "report"}
    assert gitlab["release"]["artifacts"]["reports"]["junit"] == "out/junit.xml"
    assert len(commands()) >= 5


@pytest.mark.parametrize("command", commands())
def test_every_command_is_one_of_the_command_line(command):
    parse(shlex.split(command)[1:])


@pytest.mark.parametrize("command", ["report merge a.json --surprise", "reports", "report split"])
def test_a_command_that_does_not_exist_would_be_noticed(command):
    with pytest.raises((typer.BadParameter.__mro__[1], KeyError)):
        parse(shlex.split(command))


@pytest.mark.slow
def test_the_fan_out_runs_as_written(tiny_pth, tmp_path):
    """Plan, build in two jobs and report: the steps' own lines, on small models."""
    targets = '[[targets]]\nformat = "onnx"\n'
    both = "".join(f'[checkpoints.{n}]\npath = "{tiny_pth}"\n' for n in ("one", "two"))
    (tmp_path / "release.toml").write_text(both + targets)
    jobs = fenced()[1]["jobs"]
    output = tmp_path / "output"

    run_steps(jobs["plan"], tmp_path, GITHUB_OUTPUT=str(output))
    matrix = json.loads(output.read_text().removeprefix("matrix="))
    for job in matrix["include"]:
        run_steps(jobs["build"], tmp_path, ONLY=job["only"])
        (tmp_path / "parts").mkdir(exist_ok=True)
        (tmp_path / "out").rename(tmp_path / "parts" / f"part-{job['name']}")
    run_steps(jobs["report"], tmp_path)

    merged = json.loads((tmp_path / "merged/report.json").read_text())
    assert merged["summary"] == "2 artifacts: 2 built"
    assert len(json.loads((tmp_path / "merged/manifest.json").read_text())["artifacts"]) == 2


def run_steps(job, folder, **variables):
    """Run a job's lines for scrfdconv, as its shell does."""
    environment = {**os.environ, **variables}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for step in job["steps"]:
        if "scrfdconv" in step.get("run", ""):
            ran = subprocess.run(
                ["bash", "-eo", "pipefail", "-c", step["run"]], cwd=folder, env=environment,
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert ran.returncode == 0, ran.stderr
