"""What verification costs: the whole command against a bare script that checks nothing.

    python tests/benchmarks/convert.py [RUNS]

The bare script imports torch, loads the checkpoint, exports once with the TorchScript exporter at
640x640 and runs onnxsim. Runs of both take turns; printed are medians, and the ratio's spread over
the pairs. Real checkpoints come from ../shared/data or $SCRFDCONV_DATA, and seeded 34G is added.
Processor seconds are printed beside wall time: other programs on the machine hardly change them.
Targets: at most 1.2 times the bare script's time, peak memory below 1.5 times.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SCRFDCONV_DATA", ROOT.parent / "shared" / "data"))
RUNS = 5

BARE = """
import sys, io, warnings
import torch, onnx, onnxsim
from scrfdconv.converters.network.architecture import BUILTIN
from scrfdconv.converters.network.model import SCRFD
path, name, out = sys.argv[1:]
warnings.simplefilter("ignore")
state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
state.pop("bbox_head.integral.project", None)
model = SCRFD(BUILTIN[name])
model.load_state_dict(state, strict=False)
model.eval()
with torch.inference_mode():
    torch.onnx.export(model, (torch.zeros(1, 3, 640, 640),), out, dynamo=False, opset_version=17,
                      input_names=["input.1"], output_names=list(BUILTIN[name].output_names))
simplified, ok = onnxsim.simplify(onnx.load(out))
onnx.save(simplified, out)
"""


def measured(command: list[str]) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak MiB of one process, as the system accounts them."""
    begin = time.perf_counter()
    with Path(os.devnull).open("wb") as silence:
        actions = [(os.POSIX_SPAWN_DUP2, silence.fileno(), 1)]
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
        _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"{command} failed with status {status}")
    seconds = time.perf_counter() - begin
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def sources(folder: Path) -> list[tuple[Path, str]]:
    """Checkpoint files and the names of their networks."""
    import torch

    from scrfdconv.converters.checkpoint.loading import load_source

    seeded = folder / "scrfd_34g.pth"
    torch.save({"state_dict": dict(load_source("scrfd_34g").weights)}, seeded)
    real = {"scrfd_500m_bnkps": "scrfd_500m_kps", "scrfd_2.5g_bnkps": "scrfd_2.5g_kps"}
    paths = [(DATA / "checkpoints" / f"{stem}.pth", name) for stem, name in real.items()]
    return [(path, name) for path, name in paths if path.exists()] + [(seeded, "scrfd_34g")]


def main() -> None:
    """Print one row per checkpoint."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = str(folder / "out.onnx")
        print("checkpoint            bare s  ours s  ratio (min-max)    processor (min-max)"
              "    bare MiB  ours MiB  ratio")  # fmt: skip
        for path, network in sources(folder):
            bare = [sys.executable, "-c", BARE, str(path), network, out]
            ours = [sys.executable, "-m", "scrfdconv.cli", "onnx", str(path)]
            ours += ["--shape", "640", "640", "-o", out, "--json"]
            pairs = [(measured(bare), measured(ours)) for _ in range(runs + 1)][1:]
            row(path.stem, pairs)


Measured = tuple[float, float, float]


def row(name: str, pairs: list[tuple[Measured, Measured]]) -> None:
    """Medians of both and of the pairwise ratios."""
    (a, _, a_mib), (b, _, b_mib) = (
        [statistics.median(pair[side][what] for pair in pairs) for what in range(3)]
        for side in (0, 1)
    )
    wall, processor = ([ours[what] / bare[what] for bare, ours in pairs] for what in (0, 1))
    shown = [f"{statistics.median(r):5.2f} ({min(r):.2f}-{max(r):.2f})" for r in (wall, processor)]
    print(
        f"{name:20}  {a:6.2f}  {b:6.2f}  {shown[0]}  {shown[1]:>19}"
        f"  {a_mib:10.0f}  {b_mib:8.0f}  {b_mib / a_mib:5.2f}"
    )


if __name__ == "__main__":
    main()
