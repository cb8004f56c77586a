"""The recipe that ``build --init`` writes: for given checkpoints, with every key explained."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from scrfdconv.converters.network.architecture import DEFAULT_MODEL, known_name
from scrfdconv.converters.artifact import require_kind
from scrfdconv.converters.errors import UsageError

HEAD = """\
# A recipe of `scrfdconv build`: which artifacts a release has, and what is demanded of them.
#     scrfdconv build {file} -o artifacts
# Paths are relative to this file. Keys that are commented out show their defaults or an example.

version = 1
name = {name}
# latency = true              # time FP16 and INT8 against the float model

# ---- what is converted. The name is that of the folder that the artifacts go to.
"""
CHECKPOINT = """
[checkpoints.{name}]
{source}
# sha256 = "..."              # refuse any other file
# recipe = "scrfd_10g"        # the architecture: a built-in name or a TOML file; or
# config = "config.py"        # an mmdet config, read as data; or
# norm_groups = 16            # GroupNorm groups, where weights leave them open
"""
REST = """
# ---- photographs: folders or files. INT8 of trained weights needs calibration pictures; on the
# ---- test pictures the faces of every artifact are compared with the checkpoint's.
[images]
# calibration = "photos/calibration"
# test = "photos/test"

# ---- what holds for every target unless it says otherwise.
[defaults]
# opset = 17
# exporter = "torchscript"    # or "dynamo"
# tolerance = {{ loosen = 2.0, reason = "why looser limits are right" }}
# budgets = {{ max_size_mb = 20.0, max_latency_ratio = 1.0, max_face_loss = 0.01 }}

# ---- artifacts. A list stands for all combinations.
[[targets]]
format = "onnx"
shape = ["dynamic", [640, 640]]        # height, width
precision = ["fp32", "fp16"]           # "int8", too, once there are calibration pictures
# batch = 1
# checkpoints = ["*"]                  # patterns of names; default: all

# [[targets]]
# format = "torchscript"

# [[targets]]                          # skipped where neither TensorRT nor a GPU is
# format = "tensorrt"
# precision = "fp16"
# shape = [640, 640]
"""


def recipe_text(sources: Sequence[str], file: Path) -> str:
    """A recipe for ``sources``, checkpoint files or built-in names; the default model for none.

    Raises UsageError or InputFileError for what is neither, or has the name of another one.
    """
    parts = [HEAD.format(file=file.name, name=json.dumps(file.stem))]
    names: list[str] = []
    for name, line in _checkpoints(sources or [DEFAULT_MODEL], file.parent):
        if name in names:
            raise UsageError(f"--init: two checkpoints are called {name}; add one of them by hand.")
        names.append(name)
        parts.append(CHECKPOINT.format(name=json.dumps(name), source=line))
    return "".join([*parts, REST.format()])


def _checkpoints(sources: Sequence[str], folder: Path) -> Iterator[tuple[str, str]]:
    for source in sources:
        known = known_name(source)
        if known and not Path(source).exists():
            yield known, f'model = "{known}"   # seeded, untrained weights'
            continue
        require_kind(Path(source), "pytorch")
        relative = Path(os.path.relpath(source, folder)).as_posix()
        yield re.sub(r"[^\w.+-]", "_", Path(source).stem), f"path = {json.dumps(relative)}"
