"""Torch's pickles as data: what a pickle would build, without building anything.

Pickles are programs. Torch's own reader for weights runs only a few of their instructions, but
believes every size in them: a tensor of 10^12 values over a storage of four, a storage larger than
its file. The reader here follows the same few instructions, with names in place of objects, and
compares the sizes of all tensors with the bytes in the file.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from scrfdconv.converters.errors import CheckpointError

MAX_INSTRUCTIONS = 2_000_000  # 40 a tensor; trainers keep some thousand tensors
MAX_DEPTH = 32  # of tuples in tuples
MAX_RANK = 8  # of a tensor; a convolution's weight has 4
MAX_ARGUMENTS = 16  # of a call
MAX_NUMBER = 32  # bytes of a whole number: 8 and room for torch's magic number

ITEM_BYTES: Mapping[str, int] = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
TENSOR = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
# The harmless part of what torch's own reader and the allowed number types accept.
_EMPTY_ONLY = ("collections.OrderedDict", "collections.Counter", "__builtin__.set", "builtins.set")
_CALLS = (
    *TENSOR,
    "torch._utils._rebuild_parameter",
    # Refused by name later, so that the error can say which tensor it is.
    "torch._utils._rebuild_meta_tensor_no_storage",
    "torch._utils._rebuild_sparse_tensor",
    "torch.Size",
    "torch.device",
    "torch.serialization._get_layout",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
)
_DTYPE = re.compile(r"torch\.(float|double|half|bfloat|u?int|long|short|bool|float32|strided)\d*")
_PLAIN_DTYPE = re.compile(r"[<>=|]?[fiub][1248]")
_QUANTISED = "torch._utils._rebuild_qtensor"
_KEYS = (str, int, float, bool, type(None), bytes)


@dataclass(frozen=True)
class Name:
    """A global that a pickle names; it is never imported."""

    text: str


@dataclass(frozen=True)
class TensorStorage:
    """The bytes of tensors: a member of the archive, and how many values it is said to have."""

    kind: str
    key: str
    count: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * ITEM_BYTES[self.kind]


@dataclass
class Container:
    """A list, a dict or an object; its content does not matter here."""

    what: str = ""


@dataclass
class Contents:
    """All names and storages that a pickle refers to."""

    names: set[str] = field(default_factory=set)
    storages: dict[str, TensorStorage] = field(default_factory=dict)


class PickleError(ValueError):
    """A pickle that is not what torch writes."""


class CodeError(CheckpointError):
    """A pickle that asks for an object which only loads by running code."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Reader:
    """Follows one pickle; ``allows`` are further names that may be called."""

    def __init__(self, allows: re.Pattern[str] | None = None) -> None:
        self.contents = Contents()
        self._allows = allows
        self._left = MAX_INSTRUCTIONS

    def read(self, stream: BinaryIO) -> Any:
        """The value of the next pickle in ``stream``, as names; PickleError or CodeError."""
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._depths: dict[int, int] = {}
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                self._left -= 1
                if self._left < 0:
                    raise PickleError(f"more than {MAX_INSTRUCTIONS} instructions")
                if opcode.name == "STOP":
                    return self._stack.pop()
                self._step(opcode.name, argument)
        except (IndexError, KeyError, TypeError, UnicodeDecodeError, OverflowError) as error:
            raise PickleError(f"{type(error).__name__} in its instructions") from error
        raise PickleError("it has no end")

    # ------------------------------------------------------------ instructions

    def _step(self, name: str, argument: Any) -> None:
        step = getattr(self, f"_do_{name.lower()}", None)
        if step is not None:
            step(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            self._stack.append(_small(argument))
        elif name in _TUPLES:
            self._tuple(self._taken(_TUPLES[name]))
        elif name in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif name in ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"):
            self._stack.append(Container(name))
        elif name != "PROTO":
            raise PickleError(f"the instruction {name}")

    def _taken(self, count: int) -> list[Any]:
        if count > len(self._stack) - (self._marks[-1] if self._marks else 0):
            raise PickleError("an instruction that takes more values than there are")
        taken = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return taken

    def _since_mark(self) -> list[Any]:
        at = self._marks.pop()
        taken = self._stack[at:]
        del self._stack[at:]
        return taken

    def _tuple(self, items: list[Any]) -> None:
        made = tuple(items)
        depth = 1 + max((self._depths.get(id(i), 0) for i in items if type(i) is tuple), default=0)
        if depth > MAX_DEPTH:
            raise PickleError(f"tuples that are nested more than {MAX_DEPTH} deep")
        self._memo[-1 - len(self._depths)] = made  # kept alive, so that no other object gets its id
        self._depths[id(made)] = depth
        self._stack.append(made)

    def _do_mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _do_tuple(self, _: Any) -> None:
        self._tuple(self._since_mark())

    def _do_global(self, argument: str) -> None:
        name = argument.replace(" ", ".", 1)
        self._require_known(name)
        self.contents.names.add(name)
        self._stack.append(Name(name))

    def _do_append(self, _: Any) -> None:
        self._taken(1)
        _require_box(self._stack[-1])

    def _do_appends(self, _: Any) -> None:
        self._since_mark()
        _require_box(self._stack[-1])

    def _do_setitem(self, _: Any) -> None:
        self._set(self._taken(2))

    def _do_setitems(self, _: Any) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[Any]) -> None:
        _require_box(self._stack[-1])
        if len(items) % 2:
            raise PickleError("a key without a value")
        strange = next((key for key in items[::2] if not isinstance(key, _KEYS)), None)
        if strange is not None:
            raise PickleError(f"a key of type {type(strange).__name__.lower()}")

    def _do_build(self, _: Any) -> None:
        self._taken(1)

    def _do_newobj(self, _: Any) -> None:
        kind, arguments = self._taken(2)
        if not isinstance(kind, Name) or arguments != ():
            raise PickleError("an object with arguments")
        self._stack.append(Container(kind.text))

    def _do_binpersid(self, _: Any) -> None:
        self._stack.append(self._storage(self._taken(1)[0]))

    def _do_reduce(self, _: Any) -> None:
        function, arguments = self._taken(2)
        if not isinstance(function, Name) or type(arguments) is not tuple:
            raise PickleError("a call of no function")
        name = function.text
        if len(arguments) > (0 if name in _EMPTY_ONLY else MAX_ARGUMENTS):
            raise PickleError(f"{name} with {len(arguments)} arguments")
        if name in TENSOR:
            _require_tensor(arguments)
        elif name == "numpy.dtype" and not _PLAIN_DTYPE.fullmatch(str(arguments[0])):
            raise PickleError(f"the number type {str(arguments[0])[:20]}")
        self._stack.append(Container(name))

    # ------------------------------------------------------------ what is said

    def _require_known(self, name: str) -> None:
        if name == _QUANTISED or name.startswith("torch.Q"):
            raise PickleError("a quantised tensor, where weights in float are needed")
        known = (
            name in _CALLS
            or name in _EMPTY_ONLY
            or name.removeprefix("torch.") in ITEM_BYTES
            or _DTYPE.fullmatch(name)
            or (self._allows is not None and self._allows.fullmatch(name))
        )
        if not known:
            raise CodeError(name)

    def _storage(self, what: Any) -> TensorStorage:
        match what:
            case ("storage", Name(kind), str(key), str(), int(count), *_):
                found = TensorStorage(kind.removeprefix("torch."), key, count)
            case _:
                raise PickleError("a storage that torch never writes")
        if found.kind not in ITEM_BYTES or count < 0:
            raise PickleError(f"a storage of {found.kind}")
        before = self.contents.storages.setdefault(key, found)
        if before != found:
            raise PickleError(f"two sizes for the storage {key}")
        return found


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES"),
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _small(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > 8 * MAX_NUMBER:
        raise PickleError(f"a number of {value.bit_length()} bits")
    return value


def _require_box(target: Any) -> None:
    if not isinstance(target, Container):
        raise PickleError("something is put into an object that holds nothing")


def _require_tensor(arguments: tuple[Any, ...]) -> None:
    """Raise PickleError unless the tensor's values all lie in the storage, each one once."""
    match arguments:
        case (TensorStorage() as storage, int(offset), tuple(size), tuple(stride), *_):
            pass
        case _:
            raise PickleError("a tensor that torch never writes")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > MAX_RANK or not all(map(_is_count, numbers)):
        raise PickleError("a tensor with an impossible shape")
    values = math.prod(size)
    reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if values and (reach > storage.count or values > storage.count):
        raise PickleError(f"a tensor of {values} values in a storage of {storage.count}")
    if not values and max(numbers, default=0) > storage.count:
        raise PickleError("a tensor without values and with an impossible shape")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def read_pickle(data: bytes, allows: re.Pattern[str] | None = None) -> Contents:
    """What one pickle names; raises PickleError and CodeError."""
    reader = Reader(allows)
    try:
        reader.read(io.BytesIO(data))
    except ValueError as error:
        raise error if isinstance(error, PickleError) else PickleError(str(error)) from error
    return reader.contents


def read_legacy(stream: BinaryIO, size: int) -> Contents:
    """What the pickles of torch before 1.6 name: four in a row, then keys, then the bytes."""
    reader = Reader()
    try:
        for _ in range(5):
            reader.read(stream)
    except ValueError as error:
        raise error if isinstance(error, PickleError) else PickleError(str(error)) from error
    claimed = sum(storage.size for storage in reader.contents.storages.values())
    if claimed > size - stream.tell():
        raise PickleError(f"tensors of {claimed} bytes in a file of {size}")
    return reader.contents


def missing_bytes(contents: Contents, sizes: Mapping[str, int]) -> Iterator[str]:
    """One sentence for each storage that claims more bytes than its member has."""
    for key, storage in contents.storages.items():
        have = sizes.get(key)
        if have is None or storage.size > have:
            yield f"storage {key} claims {storage.size} bytes, {have or 0} are there"
