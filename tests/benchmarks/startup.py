"""What `scrfdconv --help` costs, against importing typer alone. Target: at most twice.

    python tests/benchmarks/startup.py [RUNS]

Both run from bytecode, as an installed package does, whatever PYTHONDONTWRITEBYTECODE says.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

RUNS = 15
TYPER = [sys.executable, "-c", "import typer"]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
HELP = [sys.executable, "-m", "scrfdconv.cli", "--help"]


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    return time.perf_counter() - begin


def main() -> None:
    """Print both medians and the median of the pairwise ratios."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    pairs = [(seconds(TYPER), seconds(HELP)) for _ in range(runs + 1)][1:]
    typer, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"import typer {typer * 1e3:.0f} ms, --help {ours * 1e3:.0f} ms, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
