"""TorchScript: traced, frozen, one file that loads with torch alone.

torch deprecates TorchScript: a DeprecationWarning in 2.13, a FutureWarning in 2.15. TorchScript
still runs everywhere that libtorch runs, so the format stays, and the one warning is suppressed on
purpose.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile

from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.checkpoint.metadata import metadata_for
from scrfdconv.converters.network.architecture import CHANNELS, require_shape, trace_size
from scrfdconv.converters.options import SizeOptions

METADATA_FILE = "scrfdconv.json"  # inside the archive, read through `_extra_files`


def torchscript_from_checkpoint(source: Checkpoint, options: SizeOptions) -> bytes:
    """Trace the network; the code reads sizes from its input.

    A fixed shape stands in the metadata only, for which the runner refuses other images: a guard
    in the code (``aten::list``) would keep Core ML's converter from reading the file.
    """
    import torch

    a = source.architecture
    if options.shape:
        require_shape(options.shape, a.size_multiple)
    # A batch of 2: tracing does not tell a size of 1 from a constant in every operator.
    images = torch.zeros(2, CHANNELS, *trace_size(a))
    metadata = metadata_for(source, "fp32", options.shape, options.batch)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        # The deprecation is known, and the checks at several sizes find whatever the tracer warns
        # of.
        warnings.simplefilter("ignore")
        module = torch.jit.trace(  # type: ignore[no-untyped-call]
            source.model(), images, check_trace=False
        )
        frozen = torch.jit.freeze(module.eval())
        torch.jit.save(frozen, buffer, {METADATA_FILE: json.dumps(metadata)})
    return _without_paths(buffer)


def _without_paths(saved: io.BytesIO) -> bytes:
    """The archive without its optional debug files: they hold the paths of this machine."""
    stripped = io.BytesIO()
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(stripped, "w") as new:
        for name in old.namelist():
            if not name.endswith(".debug_pkl"):
                new.writestr(zipfile.ZipInfo(name), old.read(name))
    return stripped.getvalue()
