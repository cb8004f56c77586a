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

    ``meta`` holds what weights leave open, such as GroupNorm's groups, and the sha256 of the file
    that the checkpoint was lifted from.
    """
    import torch

    meta = {
        META_ARCHITECTURE: json.dumps(checkpoint.architecture.to_dict()),
        META_ORIGIN: checkpoint.digest,
    }
    content = {"meta": meta, "state_dict": dict(checkpoint.weights)}
    buffer = io.BytesIO()  # torch.save would write the name of a file into the file
    torch.save(content, buffer)
    path.write_bytes(buffer.getvalue())
