"""An OpenVINO model from an ONNX file: the same input gives the same bytes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrfdconv.converters.artifact import digest_of
from scrfdconv.converters.formats.openvino.api import (
    SECTION,
    WEIGHTS_DIGEST,
    choosers,
    core,
    openvino,
    own_metadata_of,
    set_number,
)
from scrfdconv.converters.graph.interface.forms import form_of, network_of
from scrfdconv.converters.graph.interface.kinds import OVERLAP_PLACE, THRESHOLD_PLACE
from scrfdconv.converters.graph.model_file import load_onnx, metadata_of
from scrfdconv.converters.input_form import PLAIN
from scrfdconv.converters.metadata import own_metadata
from scrfdconv.converters.network.preprocessing import metadata_of_pictures

if TYPE_CHECKING:
    import onnx

# Names that the library gives to its own nodes and to folded constants. They end in a number that
# counts all nodes of the process.
_COUNTED = re.compile(r"[A-Z][A-Za-z]+_[0-9]+")


def write_model(source: Path, out: Path, precision: str) -> None:
    """Write ``out``, an .xml under any name, and its .bin from the ONNX file ``source``."""
    model = _converted(source)
    metadata = _metadata_of(load_onnx(source))
    if metadata:
        metadata["precision"] = precision
    _describe(model, metadata)
    # The library halves weights by default: for float32, this is turned off.
    half = precision == "fp16"
    xml = out.with_suffix(".xml")  # the library writes no other
    openvino().save_model(model, str(xml), compress_to_fp16=half)
    if half and choosers(model):
        model = _with_exact_rules(xml, model)
        openvino().save_model(model, str(xml), compress_to_fp16=False)
        half = False  # it is halved already
    model.set_rt_info(digest_of(out.with_suffix(".bin")), [SECTION, WEIGHTS_DIGEST])
    openvino().save_model(model, str(xml), compress_to_fp16=half)
    xml.replace(out)


def _with_exact_rules(path: Path, exact: Any) -> Any:
    """The halved model at ``path`` with the limits of ``exact`` for its faces, in float32.

    The library halves them, too, and a face at the threshold would be lost.
    """
    model = core().read_model(str(path))
    for node, wanted in zip(choosers(model), choosers(exact), strict=True):
        for place in (OVERLAP_PLACE, THRESHOLD_PLACE):
            set_number(node, place, float(wanted.input_value(place).get_node().get_data()))
    return model


def _metadata_of(graph: onnx.ModelProto) -> dict[str, str]:
    """Our metadata, and those of the pictures that a foreign graph shows to take."""
    own, form = own_metadata(metadata_of(graph)), form_of(graph)
    return own if form == PLAIN else own | metadata_of_pictures(network_of(graph), form)


def _converted(source: Path) -> Any:
    """The graph with constants folded, under names that depend on nothing but the graph.

    ``openvino.convert_model`` does the same and reports each call to its makers.
    """
    from openvino._offline_transformations import apply_moc_transformations

    model = core().read_model(source.read_bytes())
    apply_moc_transformations(model, False)  # False: keep the shapes as they are
    for at, node in enumerate(model.get_ordered_ops()):
        if _COUNTED.fullmatch(node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}.{at}")
    return model


def _describe(model: Any, metadata: dict[str, str]) -> None:
    """Write our metadata into their own section, and drop the notes of the library."""
    for key in [key for key, _ in model.rt_info.items()]:
        del model.rt_info[key]
    for key, value in sorted(metadata.items()):
        model.set_rt_info(value, [SECTION, key])
    assert own_metadata_of(model) == metadata
