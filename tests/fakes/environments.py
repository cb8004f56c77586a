"""Environments like this one with a package more, for packages that cannot stand beside ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def environment_with(folder: Path, *arguments: str) -> Path:
    """The Python of a new environment over this one; skips where pip cannot install.

    What is installed there comes before what is here. ``arguments`` are those of pip install.
    """
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python*/site-packages")
    ours = [path for path in sys.path if path.endswith("site-packages")]
    lines = [f"import site; site.addsitedir({path!r})" for path in ours]
    (packages / "ours.pth").write_text("\n".join(lines))
    pip = [python, "-m", "pip", "install", "-q", *arguments]
    done = subprocess.run(pip, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{arguments[-1]} cannot be installed: {done.stderr.strip()[-200:]}")
    return python
