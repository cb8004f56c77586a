"""MNN's file, read without the library: a flatbuffer whose schema is schema/default in MNN.

Only the needed fields are read, by their numbers in the schema. Every offset is checked against the
file, because the library does not check offsets.
"""

from __future__ import annotations

import hashlib
import json
import struct
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scrfdconv.converters.artifact import readable
from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.graph.convolution import Convolution

# Net
_BIZ_CODE, _OPS, _OUTPUT_NAMES, _VERSION_INFO, _UUID = 0, 3, 4, 2, 11
# Op
_MAIN_TYPE, _MAIN, _NAME, _TYPE = 1, 2, 3, 5
# OpParameter and OpType, as far as they are told apart here
_CONVOLUTION_2D, _INPUT_PARAMETER = 9, 21
_INPUT = 34
# Input, Convolution2D, Convolution2DCommon, IDSTQuan
_DIMS = 0
_COMMON, _WEIGHT, _BIAS, _QUANTIZED = 0, 1, 2, 3
_KERNEL_X, _KERNEL_Y, _OUT = 2, 3, 10
_BUFFER, _KIND = 0, 2
_HALVES = 3  # IDSTQuan.type of float16 weights; other types are 8-bit weights with scales
_ROOT = 4  # bytes of the offset at the beginning
_UUID_LENGTH = 36
_MOST_OPS = 100_000  # 34G has 400


@dataclass(frozen=True)
class MnnNetwork:
    """What a .mnn says of itself, with its convolutions."""

    path: Path
    biz_code: str
    outputs: tuple[str, ...]
    input_name: str
    input_dims: tuple[int, ...]
    kinds: tuple[int, ...]  # OpType of each layer
    convolutions: tuple[Convolution, ...]  # without those that have weights of 8 bits
    precision: str

    @property
    def metadata(self) -> dict[str, str]:
        """Our metadata, stored as JSON in MNN's field for a business name (bizCode); {} without."""
        try:
            content = json.loads(self.biz_code)
        except ValueError:
            return {}
        good = isinstance(content, dict) and all(isinstance(v, str) for v in content.values())
        return content if good else {}


def is_network(path: Path, head: bytes) -> bool:
    """True if the root table has layers and names of outputs."""
    try:
        size = path.stat().st_size
        (root,) = struct.unpack_from("<I", head)
        with path.open("rb") as file:
            file.seek(root)
            (back,) = struct.unpack("<i", file.read(4))
            file.seek(root - back)
            length, table_size = struct.unpack("<HH", file.read(4))
            slots = file.read(length - 4)
    except (OSError, ValueError, struct.error):
        return False
    fields = struct.unpack(f"<{len(slots) // 2}H", slots[: len(slots) // 2 * 2])
    wanted = (_OPS, _OUTPUT_NAMES)
    return (
        len(fields) > max(wanted)
        and all(0 < fields[i] < table_size for i in wanted)
        and root + table_size <= size
    )


def read_network(path: Path) -> MnnNetwork:
    """The content of a .mnn; raises ArtifactError where an offset leads out of the file."""
    content = readable(path).read_bytes()
    try:
        network = _network(path, _Buffer(content))
    except (struct.error, ValueError, RecursionError):
        raise ArtifactError(f"{path}: is a damaged MNN model; convert it again.") from None
    if network.metadata and uuid_of(content) != _own_uuid(content):
        raise ArtifactError(
            f"{path}: is damaged: its content is not what was written; convert it again."
        )
    return network


def _network(path: Path, buffer: _Buffer) -> MnnNetwork:
    root = buffer.root()
    ops = buffer.tables(root, _OPS)
    inputs = [op for op in ops if buffer.number(op, _TYPE) == _INPUT]
    if len(inputs) != 1:
        raise ArtifactError(f"{path}: is not an SCRFD: it has {len(inputs)} inputs, not one image.")
    (image,) = inputs
    main = buffer.table(image, _MAIN)
    convolutions, types = [], set()
    for op in ops:
        if buffer.number(op, _MAIN_TYPE, "<B") == _CONVOLUTION_2D:
            convolution, kind = _convolution(buffer, op)
            types.add(kind)
            if convolution is not None:
                convolutions.append(convolution)
    return MnnNetwork(
        path=path,
        biz_code=buffer.text(root, _BIZ_CODE),
        outputs=tuple(buffer.texts(root, _OUTPUT_NAMES)),
        input_name=buffer.text(image, _NAME),
        input_dims=tuple(buffer.array(main, _DIMS, np.dtype("<i4")).tolist()),
        kinds=tuple(buffer.number(op, _TYPE) for op in ops),
        convolutions=tuple(convolutions),
        precision=next((kind for kind in ("int8", "fp16") if kind in types), "fp32"),
    )


def _convolution(buffer: _Buffer, op: int) -> tuple[Convolution | None, str]:
    """The convolution and the numbers that its weights are stored in."""
    main = buffer.table(op, _MAIN)
    common = buffer.table(main, _COMMON)
    out = buffer.number(common, _OUT)
    sides = [buffer.number(common, key, default=1) for key in (_KERNEL_Y, _KERNEL_X)]
    bias = buffer.array(main, _BIAS, np.dtype("<f4"))
    weight, kind = buffer.array(main, _WEIGHT, np.dtype("<f4")), "fp32"
    if not weight.size and buffer.has(main, _QUANTIZED):
        stored = buffer.table(main, _QUANTIZED)
        if buffer.number(stored, _KIND) != _HALVES:
            return None, "int8"
        raw = buffer.array(stored, _BUFFER, np.dtype("<i1"))
        weight, kind = raw.view("<f2").astype(np.float32), "fp16"
    if out <= 0 or not weight.size:
        raise ValueError(out)
    shaped = weight.reshape(out, -1, *sides)
    return Convolution(buffer.text(op, _NAME), shaped, bias if bias.size else np.zeros(out)), kind


def convolutions_of(network: MnnNetwork) -> Iterator[Convolution]:
    """Every convolution with float or half weights."""
    yield from network.convolutions


def facts_of_network(network: MnnNetwork) -> dict[str, Any]:
    """What ``inspect`` says of the network."""
    return {
        "layers": len(network.kinds),
        "kinds_of_layers": len(Counter(network.kinds)),
        "input": f"{network.input_name} {list(network.input_dims)}",
        "precision": network.precision,
    }


# ---------------------------------------------------------------- identity


def uuid_of(content: bytes) -> str:
    """The identity in the file."""
    buffer = _Buffer(content)
    return buffer.text(buffer.root(), _UUID)


def with_own_uuid(content: bytes) -> bytes:
    """The file with an identity that follows from its content: the converter draws a random one."""
    old, new = uuid_of(content), _own_uuid(content)
    if len(old) != _UUID_LENGTH:
        raise ArtifactError("MNN's converter wrote no identity of the usual length.")
    return content.replace(old.encode(), new.encode(), 1)


def _own_uuid(content: bytes) -> str:
    """An identity from everything in the file but the old identity."""
    blank = content.replace(uuid_of(content).encode(), b"-" * _UUID_LENGTH, 1)
    return str(uuid.UUID(bytes=hashlib.sha256(blank).digest()[:16]))


# ---------------------------------------------------------------- flatbuffers


class _Buffer:
    """Tables, numbers, texts and arrays of a flatbuffer; struct.error where it is too short."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def root(self) -> int:
        """Where the first table begins."""
        return self._read("<I", 0)

    def has(self, table: int, field: int) -> bool:
        """True if the field is there."""
        return self._place(table, field) is not None

    def number(self, table: int, field: int, kind: str = "<i", default: int = 0) -> int:
        """A field that is a number."""
        at = self._place(table, field)
        return default if at is None else self._read(kind, at)

    def table(self, table: int, field: int) -> int:
        """A field that is a table."""
        return self._target(self._needed(table, field))

    def tables(self, table: int, field: int) -> list[int]:
        """A field that is a list of tables."""
        start, count = self._list(table, field)
        if count > _MOST_OPS:
            raise ValueError(count)
        return [self._target(start + 4 * i) for i in range(count)]

    def text(self, table: int, field: int) -> str:
        """A field that is a text; "" where it is not there."""
        at = self._place(table, field)
        return "" if at is None else self._text(self._target(at))

    def texts(self, table: int, field: int) -> list[str]:
        """A field that is a list of texts."""
        return [self._text(at) for at in self.tables(table, field)]

    def array(self, table: int, field: int, kind: np.dtype[Any]) -> np.ndarray:
        """A field that is a list of numbers; empty where it is not there."""
        if not self.has(table, field):
            return np.zeros(0, kind)
        start, count = self._list(table, field)
        return np.frombuffer(self._content, kind, count, start)

    def _text(self, at: int) -> str:
        length = self._read("<I", at)
        (raw,) = struct.unpack_from(f"{length}s", self._content, at + 4)
        return bytes(raw).decode("utf-8", "replace")

    def _list(self, table: int, field: int) -> tuple[int, int]:
        at = self._target(self._needed(table, field))
        return at + 4, self._read("<I", at)

    def _needed(self, table: int, field: int) -> int:
        at = self._place(table, field)
        if at is None:
            raise ValueError(field)
        return at

    def _place(self, table: int, field: int) -> int | None:
        """Where a field's value stands: tables point back to a list of such places."""
        places = table - self._read("<i", table)
        slot = 4 + 2 * field
        if slot >= self._read("<H", places):
            return None
        offset = self._read("<H", places + slot)
        return table + offset if offset else None

    def _target(self, at: int) -> int:
        return at + self._read("<I", at)

    def _read(self, kind: str, at: int) -> int:
        if at < 0:  # struct would count from the end
            raise ValueError(at)
        value: int = struct.unpack_from(kind, self._content, at)[0]
        return value
