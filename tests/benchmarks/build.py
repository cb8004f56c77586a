"""What a whole release costs: from nothing, unchanged, and after one checkpoint changed.

    python tests/benchmarks/build.py [RECIPE]

Prints seconds and peak memory (of all processes together), and exits 1 above the limits of a
release of eight models on two cores: 25 minutes and 6 GiB from nothing, 2 seconds unchanged, an
eighth of the full time and 10 seconds after a change.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from scrfdconv.recipes.build.recipe_file import find_recipe, load_recipe

FULL_SECONDS, UNCHANGED_SECONDS, MOST_BYTES = 25 * 60, 2.0, 6 * 2**30
CHANGED_SHARE, CHANGED_EXTRA = 1 / 8, 10.0
SAMPLING = 0.2  # seconds between two looks at the memory


def main() -> int:
    recipe = find_recipe(sys.argv[1] if len(sys.argv) > 1 else "release")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy = folder / "release.toml"
        copy.write_text(recipe.read_text())
        full, peak = run(copy, folder)
        print(f"from nothing: {full:.0f} s, at most {FULL_SECONDS}; peak {peak / 2**30:.2f} GiB")
        idle, _ = run(copy, folder)
        imports = importing()
        print(f"unchanged: {idle:.2f} s, of which importing {imports:.2f} s")
        good = full <= FULL_SECONDS and peak <= MOST_BYTES and idle - imports <= UNCHANGED_SECONDS
        for changed in load_recipe(copy).checkpoints:
            copy.write_text(with_other_seed(copy.read_text(), changed.name))
            again, _ = run(copy, folder)
            limit = full * CHANGED_SHARE + CHANGED_EXTRA
            print(f"{changed.name} changed: {again:.0f} s, {again / full:.3f} of all; {limit:.0f}")
    return 0 if good else 1


def with_other_seed(text, name):
    """The recipe with other weights for one of its models."""
    line = next(x for x in text.splitlines() if x.strip('"').startswith(name) and "model =" in x)
    return text.replace(line, line.replace(" }", ", seed = 1 }"))


def run(recipe, folder):
    """Seconds and peak memory of a build as a user types it."""
    command = [Path(sys.executable).with_name("scrfdconv"), "build", recipe, "-o", folder / "out"]
    begun, peak = time.perf_counter(), 0
    process = subprocess.Popen(command)
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        peak = max(peak, memory(watched))
        time.sleep(SAMPLING)
    assert process.returncode == 0, process.returncode
    return time.perf_counter() - begun, peak


def memory(process):
    """Of a process and its children, pages that they share counted once."""
    total = 0
    for one in (process, *children(process)):
        try:
            total += one.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def children(process):
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def importing():
    """Seconds to import the modules of the verb alone."""
    code = "import scrfdconv.cli, scrfdconv.recipes.build.build, scrfdconv.checks.reports.files"
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
    return time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
