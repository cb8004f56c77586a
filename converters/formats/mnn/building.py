"""An MNN model from an ONNX file, by MNN's own converter in a process of its own.

The converter prints to stdout from C++ and draws a random identity. The package's own module for
conversion, MNN.tools, is never imported: it installs packages and reports each call.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from scrfdconv.converters.artifact import readable
from scrfdconv.converters.errors import ArtifactError, MissingError, UsageError
from scrfdconv.converters.formats.mnn.reading import with_own_uuid
from scrfdconv.converters.graph.model_file import load_onnx
from scrfdconv.converters.metadata import own_metadata
from scrfdconv.converters.system.libraries import missing

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
    metadata = own_metadata({p.key: p.value for p in load_onnx(source).metadata_props})
    if metadata:
        metadata["precision"] = precision
    said = json.dumps(metadata, sort_keys=True) if metadata else _FOREIGN
    arguments = ("-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(out))
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", _CONVERT, *arguments, "--bizCode", said, *_ARGUMENTS[precision]],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode or not out.is_file():
        last = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2].rstrip(".")
        raise ArtifactError(
            f"{source}: MNN cannot convert it (exit code {done.returncode}): {last}."
        )
    out.write_bytes(with_own_uuid(readable(out).read_bytes()))
