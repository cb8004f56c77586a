"""Writing a checkpoint that mmdet and `load_checkpoint` read."""

from __future__ import annotations

import io
import json
from pathlib import Path

from scrfdconv.converters.checkpoint.loading import (
    META_ARCHITECTURE,
    META_ORIGIN,
    Checkpoint,
)


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write ``checkpoint`` as mmdet does: ``meta`` and ``state_dict``; the same bytes each time.

    What weights leave open, as GroupNorm's groups, stands in ``meta``, beside the sha256 of the
    file that it came from.
    """
    import torch

    meta = {
        META_ARCHITECTURE: json.dumps(checkpoint.architecture.to_dict()),
        META_ORIGIN: checkpoint.digest,
    }
    content = {"meta": meta, "state_dict": dict(checkpoint.weights)}
    buffer = io.BytesIO()  # torch.save writes a file's own name into it
    torch.save(content, buffer)
    path.write_bytes(buffer.getvalue())
