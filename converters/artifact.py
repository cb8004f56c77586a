"""Files: what kind one is, its digest, and how one is replaced only whole."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from scrfdconv.converters.errors import ArtifactError, InputFileError, MissingError, OutputError

_CHUNK = 1 << 20  # bytes read at a time
_HEAD = 64  # bytes that tell the kind of a file
_PICKLE = b"\x80"  # first byte of every pickle since protocol 2, so of old torch checkpoints
_PLAN = b"ftrt"  # TensorRT plans start so, in every version since 8
_ONNX_IR_VERSION = 0x08  # protobuf tag of ModelProto.ir_version, the first field writers emit


@dataclass(frozen=True)
class Artifact:
    """A converted model on disk."""

    path: Path
    format: str
    precision: str
    digest: str  # sha256 of the file
    parents: tuple[str, ...] = ()  # digests of what it was made from
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file's stem, from which names of derived artifacts are made."""
        return self.path.stem


def digest_of(path: Path) -> str:
    """sha256 of a file, as 64 hexadecimal digits."""
    result = hashlib.sha256()
    with readable(path).open("rb") as file:
        while block := file.read(_CHUNK):
            result.update(block)
    return result.hexdigest()


def readable(path: Path) -> Path:
    """``path``, if it is a file with content that this process may read."""
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError as error:
        raise InputFileError(f"{path}: there is no such file.") from error
    except IsADirectoryError as error:
        raise InputFileError(f"{path}: is a folder; give a model file.") from error
    except OSError as error:
        raise InputFileError(f"{path}: cannot be read ({error.strerror}).") from error
    if empty:
        raise InputFileError(f"{path}: is empty.")
    return path


def kind_of(path: Path) -> str:
    """The format that a file's content has: pytorch, torchscript, onnx or tensorrt.

    The suffix is not asked: deployed files carry any. Raises InputFileError for other content.
    """
    with readable(path).open("rb") as file:
        head = file.read(_HEAD)
    if zipfile.is_zipfile(path):
        return _zip_kind(path)
    if head.startswith(_PLAN):
        return "tensorrt"
    if head.startswith(_PICKLE) or _is_safetensors(path, head):
        return "pytorch"
    if head[0] == _ONNX_IR_VERSION:
        return "onnx"
    if head.startswith(b"PK"):
        raise InputFileError(f"{path}: is a damaged or truncated zip archive; fetch it again.")
    raise InputFileError(
        f"{path}: is neither a checkpoint (.pth, .safetensors) nor ONNX, TorchScript or TensorRT."
    )


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except zipfile.BadZipFile as error:
        raise InputFileError(f"{path}: is a damaged zip archive ({error}).") from error
    if "constants.pkl" in names:
        return "torchscript"
    if "data.pkl" in names:
        return "pytorch"
    raise InputFileError(f"{path}: is a zip archive, but holds no torch model.")


def _is_safetensors(path: Path, head: bytes) -> bool:
    """8 bytes of header length, then a JSON object."""
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 8 + length <= path.stat().st_size


def artifact_at(path: Path, kind: str, precision: str = "fp32") -> Artifact:
    """Describe a file that is already there."""
    return Artifact(path, kind, precision, digest_of(path))


def require_kind(path: Path, *kinds: str) -> str:
    """The kind of ``path``; raises ArtifactError unless it is one of ``kinds``."""
    kind = kind_of(path)
    if kind not in kinds:
        raise ArtifactError(f"{path}: is of kind {kind}, expected {' or '.join(kinds)}.")
    return kind


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A path beside ``out`` to write to; renamed to ``out`` if the block ends without an error.

    Whatever happens in between, an older ``out`` stays as it was and nothing half-written gets
    its name. Leftovers of killed processes are removed by the next one.
    """
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    with writing_to(out):
        require_folder(out)
        _remove_leftovers(out)
        try:
            part.touch()
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())  # or a crash could leave the new name with no content
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)


def require_folder(out: Path) -> None:
    """Raise OutputError unless ``out`` can be a file in an existing folder."""
    with writing_to(out):
        if not out.parent.is_dir():
            raise OutputError(f"{out}: the folder {out.parent} does not exist; create it first.")
        if out.is_dir():
            raise OutputError(f"{out}: is a folder; give a file name.")
        if out.exists() and not out.is_file():  # /dev/null would be replaced by a model
            raise OutputError(f"{out}: is no ordinary file; give another name.")
        if not os.access(out.parent, os.W_OK):
            raise OutputError(f"{out}: no permission to write in {out.parent.resolve()}.")


@contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """Turn failures of the file system into sentences."""
    import errno

    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MissingError(
                f"{out}: no space left on the disk; free some and repeat."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG):
            raise OutputError(f"{out}: cannot be written ({error.strerror}).") from error
        raise


def _remove_leftovers(out: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(out.name)}\.(\d+)\.part")
    for path in out.parent.iterdir():
        match = pattern.fullmatch(path.name)
        if match and not _alive(int(match[1])):
            with suppress(OSError):
                path.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
