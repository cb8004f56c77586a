"""An MNN model from an ONNX file, by MNN's own converter in a process of its own.

The converter prints to stdout from C++ and draws a random identity. The package's own module for
conversion, MNN.tools, is never imported: it installs packages and reports each call.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scrfdconv.converters.artifact import readable
from scrfdconv.converters.errors import ArtifactError, MissingError, UsageError
from scrfdconv.converters.formats.mnn.reading import with_own_uuid
from scrfdconv.converters.graph.model_file import load_onnx, metadata_of, serialised
from scrfdconv.converters.metadata import own_metadata
from scrfdconv.converters.system.libraries import missing
from scrfdconv.converters.system.scratch import scratch_folder

if TYPE_CHECKING:
    import onnx

# Options of the converter for each precision; the asymmetric int8 keeps a face that symmetric
# quantization loses.
_ARGUMENTS = {
    "fp32": (),
    "fp16": ("--fp16",),
    "int8": ("--weightQuantBits", "8", "--weightQuantAsymmetric"),
}
_FOREIGN = "scrfd"  # an identity for a model without our metadata
_CONVERT = "import sys, _tools; sys.exit(not _tools.mnnconvert(['mnnconvert', *sys.argv[1:]]))"


def write_model(source: Path, out: Path, precision: str) -> None:
    """Write ``out`` from the ONNX file ``source``; ArtifactError where MNN cannot convert it."""
    if precision not in _ARGUMENTS:
        raise UsageError(f"mnn has no precision {precision}: it is made in fp32, fp16, int8.")
    if told := missing("MNN", "MNN", "mnn"):
        raise MissingError(told)
    model = load_onnx(source)
    metadata = own_metadata(metadata_of(model))
    if metadata:
        metadata["precision"] = precision
    said = json.dumps(metadata, sort_keys=True) if metadata else _FOREIGN
    arguments = ("--bizCode", said, *_ARGUMENTS[precision])
    if precision != "fp16":
        _run_converter(source, out, arguments)
    else:
        _round_weights(model)
        with scratch_folder() as folder:
            prepared = folder / "model.onnx"
            prepared.write_bytes(serialised(model))
            _run_converter(prepared, out, arguments)
    out.write_bytes(with_own_uuid(readable(out).read_bytes()))


def _round_weights(model: onnx.ModelProto) -> None:
    """Round weights of convolutions to the nearest float16, in place and still as float32.

    The converter cuts bits off, so that every weight comes nearer to zero. Measured for 2.5G_KPS
    with seeded weights: logits at stride 8 move by 0.014, and by 0.005 with rounded weights.
    """
    import numpy as np
    from onnx import numpy_helper

    weights = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    largest = np.finfo(np.float16).max
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            values = numpy_helper.to_array(tensor)
            inside = np.clip(values, -largest, largest)
            rounded = np.where(values == inside, inside.astype(np.float16), values)
            tensor.CopyFrom(numpy_helper.from_array(rounded.astype(np.float32), tensor.name))


def _run_converter(model: Path, out: Path, arguments: tuple[str, ...]) -> None:
    files = ("-f", "ONNX", "--modelFile", str(model), "--MNNModel", str(out))
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", _CONVERT, *files, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode or not out.is_file():
        last = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2].rstrip(".")
        raise ArtifactError(
            f"MNN cannot convert {model.name} (exit code {done.returncode}): {last}."
        )
