"""Runs command lines in processes of their own, forked from one that has the libraries loaded.

A new interpreter spends two seconds on imports alone. Each request is one line of JSON on stdin;
the answer on stdout is the exit code of the process.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import sys
from typing import Any

# Without onnxruntime: importing it starts a thread, which no fork has, and at its end waits for.
LIBRARIES = ("cv2", "numpy", "onnx", "torch", "torch.onnx")
TIMEOUT = 300  # seconds; SIGALRM ends the process


def become(request: dict[str, Any]) -> None:
    """Turn this process into the one that was asked for, up to its first line of code."""
    signal.alarm(TIMEOUT)
    os.chdir(request["cwd"])
    os.environ.update(request["environment"])
    # As `python -m` would begin: modules here, then those of PYTHONPATH.
    sys.path[:1] = [request["cwd"], *request["environment"].get("PYTHONPATH", "").split()]
    for name, descriptor in (("/dev/null", 0), (request["out"], 1), (request["err"], 2)):
        opened = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv = ["scrfdconv.cli", *request["arguments"]]


def main() -> None:
    """Answer requests until stdin ends."""
    for name in LIBRARIES:
        importlib.import_module(name)
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            become(json.loads(line))
            runpy.run_module("scrfdconv.cli", run_name="__main__", alter_sys=True)
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
