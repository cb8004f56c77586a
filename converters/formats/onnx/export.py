"""The two exporters of torch.onnx, from a checkpoint to a raw ONNX graph with free axes."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.errors import MissingError
from scrfdconv.converters.graph.passes import axis_names
from scrfdconv.converters.network.architecture import CHANNELS, trace_size
from scrfdconv.converters.runner import INPUT_NAME

if TYPE_CHECKING:
    import onnx

# The TorchScript exporter takes 0.4-3 s per network, dynamo 4-25 s, for the same graph.
Exporter = Literal["torchscript", "dynamo"]


def exported(checkpoint: Checkpoint, opset: int, exporter: Exporter) -> onnx.ModelProto:
    """The network as the exporter writes it; raises MissingError where dynamo lacks onnxscript."""
    export = _export_dynamo if exporter == "dynamo" else _export_torchscript
    return export(checkpoint, opset)


def _export_torchscript(checkpoint: Checkpoint, opset: int) -> onnx.ModelProto:
    import onnx
    import torch

    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        # This exporter is chosen on purpose, so users need no deprecation warning. The checks at
        # several sizes find whatever its tracer warns of.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            checkpoint.model(),
            (torch.zeros(1, CHANNELS, *trace_size(checkpoint.architecture)),),
            buffer,  # type: ignore[arg-type]  # file objects are fine for this exporter
            dynamo=False,
            opset_version=opset,
            input_names=[INPUT_NAME],
            output_names=list(checkpoint.architecture.output_names),
            dynamic_axes=axis_names(checkpoint.architecture),
        )
    return onnx.load_from_string(buffer.getvalue())


def _export_dynamo(checkpoint: Checkpoint, opset: int) -> onnx.ModelProto:
    import torch

    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingError(
            "--exporter dynamo needs onnxscript: pip install 'scrfdconv[dynamo]'."
        ) from error
    a = checkpoint.architecture
    free = dict.fromkeys(("batch", "height", "width"), torch.export.Dim.DYNAMIC)
    with _quiet(), torch.inference_mode():
        program = torch.onnx.export(
            checkpoint.model(),
            # a batch of 2: torch.export takes a size of 1 for a constant
            (torch.zeros(2, CHANNELS, *trace_size(a)),),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT_NAME],
            output_names=list(a.output_names),
            dynamic_shapes=({0: free["batch"], 2: free["height"], 3: free["width"]},),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warnings and log lines of torch.export and onnxscript."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
