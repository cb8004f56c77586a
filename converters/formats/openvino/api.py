"""Access to the library openvino, and to models as the library reads them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from scrfdconv.converters.artifact import digest_of, readable
from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.graph.interface.kinds import FACE_OUTPUTS
from scrfdconv.converters.runner import is_output_name
from scrfdconv.converters.system.libraries import library

SECTION = "scrfdconv"  # of rt_info, where the .xml carries our metadata
WEIGHTS_DIGEST = "bin_sha256"  # in that section: which .bin belongs to the .xml


def openvino() -> Any:
    """The module; raises MissingError where it is not installed."""
    return library("openvino", "OpenVINO", "openvino")


@cache
def core() -> Any:
    """The library's one Core, through which everything else is called.

    Weights are read, not mapped: replacing the file of a running model must not end the process.
    """
    found = openvino().Core()
    found.set_property({"ENABLE_MMAP": False})
    return found


def read_model(path: Path) -> Any:
    """The graph and weights at ``path``; raises ArtifactError where they do not fit together."""
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise ArtifactError(f"{path}: its weights are missing; put {weights.name} beside it.")
    try:
        model = core().read_model(str(readable(path)), str(weights))
    except RuntimeError as error:
        raise ArtifactError(
            f"{path}: OpenVINO cannot read it with {weights.name}: {last_sentence(error)}."
        ) from error
    said = own_metadata_of(model).get(WEIGHTS_DIGEST)
    if said is not None and said != digest_of(weights):
        raise ArtifactError(
            f"{path}: {weights.name} belongs to another build; take both files of one build."
        )
    return model


def own_metadata_of(model: Any) -> dict[str, str]:
    """What our builds say about themselves; nothing for foreign files."""
    if not model.has_rt_info([SECTION]):
        return {}
    section = model.get_rt_info([SECTION]).value
    return {str(k): str(v) for k, v in section.items()} if isinstance(section, dict) else {}


def last_sentence(error: Exception) -> str:
    """The last sentence in an error's text: the lines before it name C++ files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check "))]
    return (told or lines or [type(error).__name__])[-1].rstrip(".")


def name_of(port: Any) -> str:
    """Our name among a port's names, which have no order; else the first by alphabet."""
    names = sorted(port.names)
    ours = (name for name in names if is_output_name(name) or name in FACE_OUTPUTS)
    return next(ours, names[0] if names else "")


def choosers(model: Any) -> list[Any]:
    """The nodes that suppress overlapping boxes, where the model ends with faces."""
    return [node for node in model.get_ops() if node.get_type_name() == "NonMaxSuppression"]


def set_number(node: Any, place: int, value: float) -> None:
    """Let input ``place`` of a node be a float32 constant."""
    from openvino import opset8

    constant = opset8.constant(np.float32(value))
    node.input(place).replace_source_output(constant.output(0))
