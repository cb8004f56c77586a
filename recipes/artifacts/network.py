"""SOURCE as the network that a target needs: an ONNX file is lifted, a checkpoint is one already.

Files that this package wrote and that fit what is asked are taken as they are, and so are FP16 and
INT8 files, unless the target is made from a network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scrfdconv.checks.results import Report
from scrfdconv.checks.verification import Demand
from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.errors import ArtifactError, CheckFailed
from scrfdconv.converters.formats import Source, formats
from scrfdconv.converters.graph.interface.forms import form_of, network_of
from scrfdconv.converters.graph.interface.kinds import output_kind
from scrfdconv.converters.graph.interface.preamble import dims_of
from scrfdconv.converters.graph.model_file import image_input, load_onnx, metadata_of, opset_of
from scrfdconv.converters.input_form import PLAIN
from scrfdconv.converters.metadata import architecture_from_metadata, own_metadata
from scrfdconv.converters.precision import FLOAT
from scrfdconv.recipes.artifacts.lift import fit, lifted
from scrfdconv.recipes.artifacts.target import Target

if TYPE_CHECKING:
    import onnx

GRAPH = next(one for one in formats().values() if one.from_itself)
_SIZE_IN_NAME = re.compile(r"_shape\d+x\d+")  # of the file, not of what is made from it


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A source for one target, and what was done to get there."""

    source: Source
    lifted: Artifact | None = None  # the file that ``source`` was lifted from
    fit: Report | None = None  # how well ``source`` agrees with that file; None: not measured
    notes: tuple[str, ...] = ()


def opened_for(source: Source, target: Target, *, lift: bool = True, verify: bool = True) -> Opened:
    """``source``, or the network in it where the target is better made from a network.

    A graph that cannot be lifted is taken as it is, and a note says why. Raises ArtifactError or
    CheckFailed for such a graph where the target needs the network.
    """
    if not (lift and isinstance(source, Artifact) and source.format == GRAPH.name):
        return Opened(source=source)
    needed = not target.maker.chain()[0].from_itself
    fits = _is_wanted(source, target) and not source.normalization.given
    if not needed and (GRAPH.precision_of(source.path) != FLOAT or fits):
        return Opened(source=source)
    if not needed and (told := _kept_as_prepared(source, target)):
        return Opened(source=source, notes=(told,))
    try:
        return network_in(source, verify=verify)
    except (ArtifactError, CheckFailed) as error:
        if needed:
            raise
        return Opened(source=source, notes=(f"the graph is taken as it is: {error}",))


def _kept_as_prepared(source: Artifact, target: Target) -> str:
    """Why a graph that prepares its pictures itself is not lifted; "" for other graphs.

    What is made of the lifted network would take other pictures, without anybody asking for that.
    """
    options: Any = target.of(GRAPH.options)
    if options.asks_for_input or target.maker.why_no_input_forms:
        return ""
    model = load_onnx(source.path)
    try:
        form = form_of(model)
    except ArtifactError:  # lifting it tells the reason
        return ""
    if form == PLAIN:
        return ""
    return (
        f"the graph is taken as it is: it takes {form.words(network_of(model))}; --input, --layout "
        "and --input-color lift it, and choose what the new file takes"
    )


def network_in(source: Artifact, *, verify: bool = True) -> Opened:
    """The checkpoint in an ONNX file, compared with the file unless ``verify`` is False.

    Raises ArtifactError for a file that cannot be lifted, and CheckFailed, with the report, for one
    that gives other outputs.
    """
    found = lifted(source)
    name = _SIZE_IN_NAME.sub("", found.checkpoint.name)
    checkpoint = replace(found.checkpoint, name=name)
    report = None
    if verify:
        report = fit(replace(found, checkpoint=checkpoint), source.path, Demand())
        if not report.passed:
            raise CheckFailed(f"{source.path}: was not lifted: {report.summary()}.", report)
    told = _fit_in_words(report) if report else "not compared with that file (--no-verify)"
    note = f"lifted from {source.path.name}: {told}"
    return Opened(source=checkpoint, lifted=source, fit=report, notes=(note,))


def _fit_in_words(report: Report) -> str:
    """The largest difference of weights and of each kind of output, in one line."""
    worst: dict[str, float] = {}
    for result in report.results:
        subject = result.subject.partition("_")[0]
        if (subject, result.metric) == ("convolutions", "relative"):
            worst["weights (relative)"] = result.measured
        elif result.check == "parity" and result.metric == "max_abs":
            worst[subject] = max(worst.get(subject, 0.0), result.measured)
    shown = ", ".join(f"{name} {value:.2g}" for name, value in worst.items())
    return f"it differs from the file by at most: {shown}"


def _is_wanted(source: Artifact, target: Target) -> bool:
    """True for a file of ours with the opset, the ends and the sizes that are asked for."""
    model = load_onnx(source.path)
    own = own_metadata(metadata_of(model))
    if architecture_from_metadata(own) is None:
        return False
    options: Any = target.of(GRAPH.options)
    return (
        options.opset in (None, opset_of(model))
        and options.outputs in (None, output_kind(own))
        and (not options.asks_for_input or options.form(network_of(model)) == form_of(model))
        and (form_of(model) == PLAIN or not target.maker.why_no_input_forms)
        and (output_kind(own) != "faces" or not target.maker.why_no_faces)
        and _takes(model, target)
    )


def _takes(model: onnx.ModelProto, target: Target) -> bool:
    """True if the sizes of the input are free or those of ``target``; no sizes: those it has."""
    if target.shape is None:
        return True
    batch, _, height, width = form_of(model).sizes(dims_of(image_input(model)))
    asked = ((batch, target.batch), (height, target.shape[0]), (width, target.shape[1]))
    return all(have in (None, size) for have, size in asked)
