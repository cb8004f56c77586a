"""What verbs cost around their work, against bare scripts that do the same work and check nothing.

    python tests/benchmarks/startup.py [RUNS] [DATA]

Both run from bytecode, as an installed package does, whatever PYTHONDONTWRITEBYTECODE says, and
take turns. Compared are processor seconds: these commands wait for nothing, and other programs on
the machine hardly change them. Printed are the medians and the ratio by rounds, with its limit.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUNS = 7
TYPER = "import typer"
LOAD = "import sys, onnx, onnxruntime as o; m, *n = sys.argv[1:]; "
OPEN = "s = o.InferenceSession(m, providers=['CPUExecutionProvider']); "
# onnxsim imports torch for an optional bridge; a script that knows that leaves torch out, too.
SIMPLIFY = (
    "sys.modules['torch'] = None; import onnxsim; "
    "onnx.save(onnxsim.simplify(onnx.load(m), check_n=0, certify=False)[0], n[0])"
)
HALF = (
    "from onnxconverter_common.float16 import convert_float_to_float16 as f; "
    "onnx.save(f(onnx.load(m), keep_io_types=True), n[0])"
)
# The runs of a verification without photographs: every kind of seeded picture.
COMPARE = OPEN + (
    "import numpy as np; t = o.InferenceSession(n[0], providers=['CPUExecutionProvider']); "
    "d = [(64, 96)] * 6 + [(320, 256)] * 6 + [(128, 128), (640, 640)]; "
    "x = [np.random.default_rng(0).uniform(-1, 1, (1, 3, *s)).astype(np.float32) for s in d]; "
    "[abs(a - b).max() for i in x for a, b in "
    "zip(*(r.run(None, {'input.1': i}) for r in (s, t)))]"
)
LIMIT, HELP_LIMIT = 1.5, 2.0


def processor_seconds(arguments: list[str]) -> float:
    """User and system time of one Python process, which must end well."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with Path(os.devnull).open("wb") as silence:
        actions = [(os.POSIX_SPAWN_DUP2, silence.fileno(), descriptor) for descriptor in (1, 2)]
        command = [sys.executable, *arguments]
        pid = os.posix_spawn(command[0], command, environment, file_actions=actions)
        _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"{arguments} failed with status {status}")
    return usage.ru_utime + usage.ru_stime


def compared(data: Path, folder: Path) -> dict[str, tuple[list[str], list[str], float]]:
    """By name: the bare script, our command, and the limit of the ratio."""
    own = folder / "own.onnx"
    cli = ["-m", "scrfdconv.cli"]
    processor_seconds([*cli, "onnx", "scrfd_500m_kps", "--shape", "640", "640", "-o", str(own),
                       "--no-verify"])  # fmt: skip
    released, out = str(data / "onnx/det_500m.onnx"), str(folder / "out.onnx")
    rows = {
        "--help": (TYPER, ["--help"], []),
        "models": (TYPER, ["models"], []),
        "inspect": (LOAD + OPEN, ["inspect"], [released]),
        "simplify --no-verify": (LOAD + SIMPLIFY, ["simplify", "--no-verify", "-o", out],
                                 [released, out]),
        "fp16 --no-verify": (LOAD + HALF, ["fp16", "--no-verify", "-o", out], [str(own), out]),
        "verify": (LOAD + COMPARE, ["verify", "--reference", released], [released, released]),
    }  # fmt: skip
    return {
        name: (
            ["-c", bare, *files],
            [*cli, *words, *files[:1]],
            HELP_LIMIT if name == "--help" else LIMIT,
        )
        for name, (bare, words, files) in rows.items()
    }


def main() -> None:
    """Print one line for each verb."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    default = os.environ.get("SCRFDCONV_DATA", ROOT.parent / "shared" / "data")
    data = Path(sys.argv[2] if len(sys.argv) > 2 else default)
    print("verb                  bare ms  ours ms  ratio (min-max)    limit")
    with tempfile.TemporaryDirectory() as name:
        for verb, (bare, ours, limit) in compared(data, Path(name)).items():
            pairs = [(processor_seconds(bare), processor_seconds(ours)) for _ in range(runs + 1)]
            first, second = (1e3 * statistics.median(side) for side in zip(*pairs[1:], strict=True))
            ratios = [b / a for a, b in pairs[1:]]
            print(
                f"{verb:20}  {first:7.0f}  {second:7.0f}  {statistics.median(ratios):5.2f} "
                f"({min(ratios):.2f}-{max(ratios):.2f})  {limit:7.1f}"
            )


if __name__ == "__main__":
    main()
