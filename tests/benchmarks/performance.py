"""Every ratio of docs/performance.md in one run: verbs, folders, conversions, INT8.

    python tests/benchmarks/performance.py [NAME ...]

Names are those of the scripts beside this one; without any, all run, in a quarter of an hour.
"""

import runpy
import sys
from pathlib import Path

from scrfdconv.converters.system.machine import cpu_name, usable_cores

SCRIPTS = ("startup", "folder", "convert", "int8")


def main():
    chosen = sys.argv[1:] or SCRIPTS
    print(f"{cpu_name()}, {usable_cores()} cores")
    for name in chosen:
        print(f"\n{name}", flush=True)
        sys.argv[1:] = []
        try:
            runpy.run_path(str(Path(__file__).with_name(f"{name}.py")), run_name="__main__")
        except SystemExit as ended:  # a script that is below its floors: the others run, too
            print(f"exit code {ended.code or 0}")


if __name__ == "__main__":
    main()
