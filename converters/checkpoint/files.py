"""Checkpoint files as they are on disk: recognised by content, bounded, read, never executed."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scrfdconv.converters.artifact import readable
from scrfdconv.converters.checkpoint import pickles
from scrfdconv.converters.errors import CheckpointError, InputFileError, MissingError
from scrfdconv.converters.system.archive import (
    archive_members,
    members_of,
    require_size,
    written_anew,
)

_HEAD = 64  # bytes that tell the kind of a file
_PICKLE = b"\x80"  # first byte of every pickle since protocol 2, so of old torch checkpoints
MAX_HEADER = 8 << 20  # of safetensors: 100 bytes a tensor, and the metadata
_STORAGES = "data/"  # folder of the storages in a torch archive


def is_checkpoint(path: Path, head: bytes) -> bool:
    """True for a file that begins with ``head`` if torch or safetensors wrote weights to it."""
    members = archive_members(path)
    if members is not None:
        # TorchScript archives have constants.pkl, too.
        return "data.pkl" in members and "constants.pkl" not in members
    return head.startswith(_PICKLE) or _is_safetensors(path, head)


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """What a checkpoint file holds, by name; raises CheckpointError for every other file."""
    with readable(path).open("rb") as file:
        head = file.read(_HEAD)
    if not is_checkpoint(path, head):
        raise CheckpointError(
            f"{path}: is no checkpoint; convert from the .pth or .safetensors file."
        )
    require_size(path)
    content = _read_safetensors(path, head) if _is_safetensors(path, head) else _read_torch(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path}: holds a {type(content).__name__}, not weights by name (a state_dict)."
        )
    return content


def _is_safetensors(path: Path, head: bytes) -> bool:
    """8 bytes of header length, then a JSON object."""
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 8 + length <= path.stat().st_size


def _read_safetensors(path: Path, head: bytes) -> Mapping[str, Any]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:  # pragma: no cover - a declared dependency
        raise MissingError(f"{path}: needs `pip install safetensors`.") from error
    if int.from_bytes(head[:8], "little") > MAX_HEADER:
        raise CheckpointError(f"{path}: its header is larger than that of any SCRFD.")
    try:
        return load_file(path)  # type: ignore[no-any-return]
    except Exception as error:  # its own errors, and torch's for odd types
        raise CheckpointError(f"{path}: is damaged or truncated ({_first(error)}).") from error


def _read_torch(path: Path) -> Any:
    """The content of a zip archive or an old pickle, after its claims were checked."""
    import torch

    source = _checked(path)
    try:
        with torch.serialization.safe_globals(_plain_numpy()):
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise _code(path, culprit[1] if culprit else "") from error
    except Exception as error:  # torch passes on any error of its zip and pickle readers
        raise CheckpointError(f"{path}: is damaged or truncated ({_first(error)}).") from error


def _checked(path: Path) -> Any:
    """What torch may read: the archive written anew, or the path of an old pickle."""
    try:
        if archive_members(path) is None:
            with path.open("rb") as stream:
                pickles.read_legacy(stream, path.stat().st_size)
            return path
        members = members_of(path)
        contents = pickles.read_pickle(members.get("data.pkl", b""))
    except pickles.CodeError as error:
        raise _code(path, error.name) from error
    except pickles.PickleError as error:
        raise CheckpointError(f"{path}: is damaged or no checkpoint: it has {error}.") from error
    except CheckpointError:
        raise
    except InputFileError as error:
        raise CheckpointError(str(error)) from error
    sizes = {name.removeprefix(_STORAGES): len(content) for name, content in members.items()}
    for fault in pickles.missing_bytes(contents, sizes):
        raise CheckpointError(f"{path}: is damaged or truncated: {fault}.")
    return written_anew(members)


def _code(path: Path, name: str) -> CheckpointError:
    what = f"the object {name}" if name else "something that is no tensor"
    return CheckpointError(
        f"{path}: holds {what}, which only loads by running code, and checkpoints are never "
        "executed; save the weights alone: torch.save({'state_dict': model.state_dict()}, ...)."
    )


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _plain_numpy() -> list[Any]:
    """Number types that old trainers left in ``meta``: data, without code behind them."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    old_name = (scalar, "numpy.core.multiarray.scalar")
    return [
        scalar,
        old_name,
        np.dtype,
        type(np.dtype("f4")),
        type(np.dtype("f8")),
        type(np.dtype("i4")),
        type(np.dtype("i8")),
    ]
