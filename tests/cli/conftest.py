"""The real command line, as a process or in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """The last line on stderr: where a command says what went wrong."""
        return self.err.strip().rpartition("\n")[2]


@pytest.fixture
def scrfdconv(tmp_path: Path) -> Callable[..., Ran]:
    """Run ``scrfdconv`` with arguments in a folder of its own."""

    def run(*arguments: object, cwd: Path = tmp_path, **environment: str) -> Ran:
        command = [sys.executable, "-m", "scrfdconv.cli", *map(str, arguments)]
        ran = subprocess.run(
            command, cwd=cwd, text=True, capture_output=True, check=False, timeout=300,
            env={**os.environ, "COLUMNS": "200", **environment},
        )  # fmt: skip
        assert "Traceback" not in ran.stderr, ran.stderr
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    return run


@pytest.fixture
def in_process(monkeypatch, capfd) -> Callable[..., Ran]:
    """The same command line in this process: sooner, for what needs no process of its own."""
    from scrfdconv.cli import app

    def run(*arguments: object, cwd: Path | None = None) -> Ran:
        if cwd:
            monkeypatch.chdir(cwd)
        monkeypatch.setenv("COLUMNS", "200")
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            app(list(map(str, arguments)))
        out, err = capfd.readouterr()
        assert "Traceback" not in err, err
        return Ran(ended.value.code, out, err)

    return run
