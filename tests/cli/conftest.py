"""The real command line, as a process or in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
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


@pytest.fixture(scope="session")
def warm_interpreter() -> Iterator[subprocess.Popen[str]]:
    """A process with the libraries loaded, of which each command is a fork."""
    command = [sys.executable, str(Path(__file__).with_name("warm_interpreter.py"))]
    environment = {**os.environ, "COLUMNS": "200"}
    with subprocess.Popen(
        command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def scrfdconv(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    warm_interpreter: subprocess.Popen[str],
) -> Callable[..., Ran]:
    """Run ``scrfdconv`` with arguments in a process and a folder of its own."""

    def run(*arguments: object, cwd: Path = tmp_path, **environment: str) -> Ran:
        out, err = (tmp_path_factory.mktemp("ran") / name for name in ("out", "err"))
        asked = {
            "arguments": list(map(str, arguments)), "cwd": str(cwd), "environment": environment,
            "out": str(out), "err": str(err),
        }  # fmt: skip
        warm_interpreter.stdin.write(json.dumps(asked) + "\n")
        warm_interpreter.stdin.flush()
        ran = Ran(int(warm_interpreter.stdout.readline()), out.read_text(), err.read_text())
        assert "Traceback" not in ran.err, ran.err
        return ran

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
