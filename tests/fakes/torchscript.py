"""TorchScript archives written by hand: any code, without a compiler that refuses some."""

from __future__ import annotations

import zipfile
from pathlib import Path

# An object of class M without attributes; an empty tuple of constants.
DATA = b"\x80\x02c__torch__\nM\nq\x00)\x81}(ub."
CONSTANTS = b"\x80\x02)."
HEAD = """\
class M(Module):
  __parameters__ = []
  __buffers__ = []
  def forward(self: __torch__.M,
    x: Tensor) -> Tensor:
"""


def torchscript(path: Path, *lines: str, **members: bytes) -> Path:
    """Write an archive whose forward has these lines; ``members`` replace or add files.

    Of a member's name, two underscores stand for a slash and ``_pkl`` for the suffix.
    """
    code = HEAD + "".join(f"    {line}\n" for line in lines)
    content = {
        "data.pkl": DATA,
        "constants.pkl": CONSTANTS,
        "version": b"3\n",
        "code/__torch__.py": code.encode(),
    }
    content |= {name.replace("_pkl", ".pkl"): data for name, data in members.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(f"m/{name}", data)
    return path
