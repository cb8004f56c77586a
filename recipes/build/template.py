"""The recipe that ``build --init`` writes: for given checkpoints, with every key explained."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats import Format, formats, reference_format, require_format
from scrfdconv.converters.network.architecture import DEFAULT_MODEL, known_name
from scrfdconv.converters.options import option_fields
from scrfdconv.converters.precision import precisions
from scrfdconv.recipes.build.recipe import FASTEST

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
# architecture = "scrfd_10g"  # the network: a built-in name or a TOML file; or
# config = "config.py"        # an mmdet config, read as data; or
# norm_groups = 16            # GroupNorm groups, where weights leave them open
# mean = "127.5"              # of the pictures, where no config says it: one value or three
# std = "128"
# color = "rgb"               # or bgr: the order of the channels
"""
REST = """
# ---- photographs: folders or files. INT8 of trained weights needs calibration pictures; on the
# ---- test pictures the faces of every artifact are compared with the checkpoint's.
[images]
# calibration = "photos/calibration"
# test = "photos/test"

# ---- what holds for every target that knows the key, unless the target says otherwise.
[defaults]
{defaults}
# tolerance = {{ loosen = 2.0, reason = "why looser limits are right" }}
# budgets = {{ max_size_mb = 20.0, max_latency_ratio = 1.0, max_face_loss = 0.01 }}

# ---- artifacts. A list stands for all combinations.
[[targets]]
format = "{graph}"
shape = ["dynamic", [640, 640]]        # height, width
precision = ["fp32", "fp16"]           # "int8", too, once there are calibration pictures
# checkpoints = ["*"]                  # patterns of names; default: all
"""


def recipe_text(sources: Sequence[str], file: Path) -> str:
    """A recipe for ``sources``: checkpoint files or built-in names; for none, the default model.

    Raises UsageError or InputFileError for other sources, and for two sources of one name.
    """
    parts = [HEAD.format(file=file.name, name=json.dumps(file.stem))]
    names: list[str] = []
    for name, line in _checkpoints(sources or [DEFAULT_MODEL], file.parent):
        if name in names:
            raise UsageError(f"--init: two checkpoints are called {name}; add one of them by hand.")
        names.append(name)
        parts.append(CHECKPOINT.format(name=json.dumps(name), source=line))
    graph = next(one for one in formats().values() if one.from_itself)
    defaults = "\n".join(_keys(graph.options))
    rest = REST.format(defaults=defaults, graph=graph.name)
    others = (one for one in formats().values() if one.source and one is not graph)
    parts += [rest, _precision_keys(graph), *map(_other_target, others), _choice()]
    return "".join(parts)


def _keys(options: type) -> Iterator[str]:
    """The keys of an options class as comments, each with its default and what it does."""
    for field in option_fields(options):
        if field.option.in_recipes and field.name != "shape":
            default = field.option.none_means if field.default is None else field.default
            shown = "..." if default is None else json.dumps(default)
            yield f"# {f'{field.name} = {shown}':<28} # {field.option.help}"


def _precision_keys(graph: Format) -> str:
    """The keys of a target's precisions."""
    parts = []
    for name in graph.precisions:
        keys = list(_keys(precisions()[name].options))
        if keys:
            parts += [f"# of {name}:", *keys]
    return "\n".join([*parts, ""])


def _other_target(one: Format) -> str:
    """A target of a format as a comment, with the keys of its own."""
    skipped = "skipped where it cannot be built" if one.bound_to_machine else one.title
    lines = ["", f"# {'[[targets]]':<28} # {skipped}", f'# format = "{one.name}"']
    if len(one.precisions) > 1:
        lines.append(f"# precision = {json.dumps(list(one.precisions))}")
    known = {field.name for before in one.chain()[:-1] for field in option_fields(before.options)}
    lines += [line for line in _keys(one.options) if line.split()[1] not in known]
    return "\n".join([*lines, ""])


def _choice() -> str:
    """A target that is a choice as a comment, with its keys."""
    names = [one.name for one in formats().values() if one.source]
    return f"""
# {"[[targets]]":<28} # what is fastest here and keeps the faces
# format = "{FASTEST}"
# shape = [640, 640]
# candidates = {json.dumps(names)}
# threads = 1                  # while they are timed; default: all cores
"""


def _checkpoints(sources: Sequence[str], folder: Path) -> Iterator[tuple[str, str]]:
    for source in sources:
        known = known_name(source)
        if known and not Path(source).exists():
            yield known, f'model = "{known}"   # seeded, untrained weights'
            continue
        require_format(Path(source), reference_format().name)
        relative = Path(os.path.relpath(source, folder)).as_posix()
        yield re.sub(r"[^\w.+-]", "_", Path(source).stem), f"path = {json.dumps(relative)}"
