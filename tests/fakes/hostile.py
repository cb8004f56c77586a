"""Readers of files from strangers, run where they can do no harm, and odd files to run them on.

`Sandbox` is a process that gives every file to our own command line or reader and tells what came
out: an exit code, what was said, how long it took, and the memory it took. The process has a limit
of memory above what the libraries need; one that takes too long is ended. The strategies change a
good file as strangers do: by bytes, by values of its structure, by texts of its language.

As a program, this file is the inside of the sandbox.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_SECONDS = 20.0
MOST_MEMORY = 2 << 30  # bytes, above what the process has once all libraries are loaded
START_SECONDS = 120.0  # of a process that loads every library, on a busy machine
OURS = frozenset((0, 1, 2, 3, 4))  # exit codes of the command line
LIMIT, DIED = 124, 128  # exit codes of a reader that took too long, or ended its process
BUG = 70  # what the command line returns for an error that is not ours


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """Fail a block that takes more processor time than a bad file may, subprocesses included.

    Processor time: another program must not fail a test. What only waits ends by pytest's timeout.
    """
    before = _processor_seconds()
    yield
    assert _processor_seconds() - before < MOST_SECONDS


def _processor_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


@dataclass(frozen=True)
class Reader:
    """One way into the package: the file's name, and the command line that reads the file.

    A command line that begins with ":" calls a function, ``:module:function``, with the file.
    """

    file: str
    command: tuple[str, ...]


READERS = {
    "ONNX": Reader("model.onnx", ("inspect", "model.onnx")),
    "ONNX to simplify": Reader("model.onnx", ("simplify", "model.onnx", "-o", "out.onnx")),
    "checkpoint": Reader("model.pth", ("inspect", "model.pth")),
    "TorchScript": Reader("model.pt", ("inspect", "model.pt")),
    "mmdet config": Reader("config.py", ("inspect", "tiny.pth", "--config", "config.py")),
    "network": Reader("net.toml", ("inspect", "tiny.pth", "--architecture", "net.toml")),
    "INT8 plan": Reader("plan.json", (":scrfdconv.recipes.int8.plan:load_plan",)),
    "calibration table": Reader(
        "table.json", (":scrfdconv.converters.precision.int8.calibration:load_table",)
    ),
    "sidecar": Reader(
        "model.engine.json", (":scrfdconv.converters.formats.tensorrt.sidecar:read_sidecar",)
    ),
    "manifest": Reader("manifest.json", ("verify", "manifest.json")),
    "recipe": Reader("recipe.toml", ("build", "recipe.toml", "--dry-run", "-o", "built")),
    "report": Reader("report.json", ("report", "merge", "report.json", "-o", "merged")),
    "ground truth": Reader("truth.mat", (":scrfdconv.checks.widerface.mat_file:read_mat",)),
    "result file": Reader(
        "results/0--Parade/0_a.txt", (":scrfdconv.checks.widerface.result_files:load_results",)
    ),
    "OpenVINO": Reader("model.xml", ("inspect", "model.xml")),
    "ncnn": Reader("small.param", ("inspect", "small.param")),
    "ncnn weights": Reader("small.bin", ("inspect", "small.param")),
    "MNN": Reader("model.mnn", ("inspect", "model.mnn")),
    "photograph": Reader(
        "photo.jpg", ("detect", "tiny.onnx", "photo.jpg", "--size", "64", "64")
    ),
}  # fmt: skip
# What a function is given, where that is not the file itself.
ARGUMENTS = {"sidecar": "model.engine", "result file": "results"}


@dataclass(frozen=True)
class Outcome:
    """What a reader did with a file."""

    code: int
    said: str  # on stdout and stderr
    seconds: float
    memory: int  # bytes, at most, above what the process had before

    @property
    def ours(self) -> bool:
        """True if nothing happened that is not documented."""
        kept = self.seconds <= MOST_SECONDS and self.memory <= MOST_MEMORY
        return self.code in OURS and kept and not raw(self.said)


def raw(said: str) -> bool:
    """True for texts that control a terminal or a CI system."""
    return any(not (c.isprintable() or c == "\n") for c in said) or bool(
        re.search(r"^\s*::|##\w*\[", said, re.MULTILINE)
    )


class Sandbox:
    """The process that reads; use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def read(self, name: str) -> Outcome:
        """Let the reader called ``name`` read its file in the folder."""
        process = self._process or self._start()
        assert process.stdin is not None
        before = time.monotonic()
        process.stdin.write(f"{name}\n")
        process.stdin.flush()
        line = self._answer(process, MOST_SECONDS)
        seconds = time.monotonic() - before
        if line:
            return Outcome(**json.loads(line), seconds=seconds)
        code = LIMIT if process.poll() is None and seconds >= MOST_SECONDS else DIED
        said = f"ended: {process.poll()}\n{self._said()}"
        self._end()
        return Outcome(code, said, seconds, 0)

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, __file__, str(self.folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
        assert self._answer(self._process, START_SECONDS).strip() == "ready"
        return self._process

    @staticmethod
    def _answer(process: subprocess.Popen[str], seconds: float) -> str:
        """One line; empty where the process ended or took too long."""
        assert process.stdout is not None
        found: list[str] = []
        reading = threading.Thread(
            target=lambda: found.append(process.stdout.readline()), daemon=True
        )
        reading.start()
        reading.join(seconds)
        return found[0] if found else ""

    def _said(self) -> str:
        with contextlib.suppress(OSError):
            return (self.folder / "said").read_text("utf-8", "backslashreplace")
        return ""

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


# ---------------------------------------------------------------- inside the sandbox


def _main(folder: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.chdir(folder)
    _load_libraries()
    _limit_memory()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_read(line.strip())), file=answers, flush=True)


def _load_libraries() -> None:
    import cv2  # noqa: F401
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import onnxsim  # noqa: F401
    import torch

    torch.set_num_threads(1)
    for name in ("openvino", "ncnn"):
        with contextlib.suppress(ImportError):
            __import__(name)
    import scrfdconv.cli  # noqa: F401


def _limit_memory() -> None:
    has = _status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (has + 2 * MOST_MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) << 10 if found else 0


def _read(name: str) -> dict[str, Any]:
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of memory
    before = _status("VmRSS")
    with Path("said").open("wb") as file, _output_to(file.fileno()):
        code = _code(name)
    said = Path("said").read_text("utf-8", "backslashreplace")
    return {"code": code, "said": said, "memory": max(0, _status("VmHWM") - before)}


@contextlib.contextmanager
def _output_to(file: int) -> Iterator[None]:
    kept = [os.dup(1), os.dup(2)]
    for number in (1, 2):
        os.dup2(file, number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, one in enumerate(kept, 1):
            os.dup2(one, number)
            os.close(one)


def _code(name: str) -> int:
    reader = READERS[name]
    first, *_ = reader.command
    if first.startswith(":"):
        return _code_of_function(first, ARGUMENTS.get(name, reader.file))
    from scrfdconv.cli import app

    try:
        app(list(reader.command))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def _code_of_function(place: str, file: str) -> int:
    import importlib
    import traceback

    from scrfdconv.cli.terminal.output import say
    from scrfdconv.converters.errors import ScrfdconvError

    _, module, function = place.split(":")
    try:
        getattr(importlib.import_module(module), function)(Path(file))
    except ScrfdconvError as error:
        say(str(error))
        return error.exit_code
    except Exception:
        traceback.print_exc()
        return BUG
    return 0


# ---------------------------------------------------------------- odd files


def odd_bytes(seed: bytes) -> Any:
    """Strategy: ``seed`` with one to four places changed, cut, doubled or removed."""
    from hypothesis import strategies as st

    values = st.one_of(
        st.sampled_from((
            b"\0", b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\x80", b"\0" * 64,
            b"\x1b[31m", b"\n::error::x\n", b"\xff\xfe", b"\xc3\x28", b"-1", b"1e999", b"NaN",
        )),
        st.binary(min_size=1, max_size=9),
    )  # fmt: skip
    edit = st.tuples(
        st.sampled_from(("set", "set", "set", "insert", "remove", "double", "cut")),
        st.floats(0, 1, exclude_max=True),
        values,
        st.integers(1, 200),
    )
    return st.lists(edit, min_size=1, max_size=4).map(lambda edits: _edited(seed, edits))


def _edited(content: bytes, edits: list[tuple[str, float, bytes, int]]) -> bytes:
    for kind, share, value, size in edits:
        at = int(share * len(content))
        before, after = content[:at], content[at:]
        content = {
            "set": before + value + after[len(value) :],
            "insert": before + value + after,
            "remove": before + after[size:],
            "double": before + after[:size] + after,
            "cut": before,
        }[kind]
    return content


# Texts that stand for a value in JSON, some of them no JSON.
ODD_JSON = (
    "null", "true", "-1", "0", "1", "1.5", "2147483648", "1099511627776", "9223372036854775808",
    "1e308", "-1e308", "1e-320", "1e999", "NaN", "Infinity", '"nan"', '"inf"', '"-inf"',
    "9" * 400, '""', '"x"', f'"{"x" * 3000}"', '"\\u001b[31m\\n::error::x"', '"\\ud800"',
    '"../../x"', '"/etc/passwd"', '"\\u0000"', '"<script>"', "[]", "{}", "[[]]", "[null]",
    "[1, 2]", '{"a": 1}', "[" * 70 + "]" * 70, "[" * 5000 + "]" * 5000, "\xff",
)  # fmt: skip
_MARK = "@odd@"


def odd_json(seed: bytes) -> Any:
    """Strategy: a JSON text with values replaced, keys removed or added; or damaged bytes."""
    from hypothesis import strategies as st

    edit = st.tuples(
        st.sampled_from(("replace", "replace", "replace", "remove", "add")),
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(ODD_JSON),
    )
    structured = st.lists(edit, min_size=1, max_size=3).map(lambda edits: _odd_json(seed, edits))
    return st.one_of(structured, structured, odd_bytes(seed))


def _odd_json(seed: bytes, edits: list[tuple[str, float, str]]) -> bytes:
    content: Any = [json.loads(seed)]
    values = []
    for kind, share, value in edits:
        places = list(_places(content))
        holder, key = places[int(share * len(places))]
        mark = f"{_MARK}{len(values)}"
        values.append(value)
        if kind == "remove" and isinstance(holder, dict):
            del holder[key]
        elif kind == "add" and isinstance(holder, dict):
            holder[mark] = mark
        else:
            holder[key] = mark
    text = json.dumps(content[0])
    for number, value in enumerate(values):
        text = text.replace(f'"{_MARK}{number}": ', '"more": ')
        text = text.replace(f'"{_MARK}{number}"', value)
    return text.encode("latin-1", "replace")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(pairs):
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)


ODD_TEXT = (
    "", "0", "-1", "1e999", "nan", "inf", "9" * 400, "1099511627776", "10 ** 9", "1 << 99",
    "[]", "{}", "[[", "None", "True", "''", '"""', "'\x1b[31m'", "__import__('os')",
    "[0] * 10 ** 9", "lambda: 0", "dict()", "'../../x'", "\x00", "\\", "::error::", "é",
)  # fmt: skip
_TOKEN = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"|[A-Za-z_]+|[\d.]+|[^\s\w]")


def odd_text(seed: bytes) -> Any:
    """Strategy: a text of a language with words, numbers and strings replaced; or bytes."""
    from hypothesis import strategies as st

    places = [found.span() for found in _TOKEN.finditer(seed.decode())]
    edit = st.tuples(st.integers(0, len(places) - 1), st.sampled_from(ODD_TEXT))

    def edited(edits: list[tuple[int, str]]) -> bytes:
        text = seed.decode()
        for place, value in sorted(dict(edits).items(), reverse=True):
            start, end = places[place]
            text = text[:start] + value + text[end:]
        return text.encode()

    structured = st.lists(edit, min_size=1, max_size=3).map(edited)
    return st.one_of(structured, structured, odd_bytes(seed))


def odd_archive(seed: bytes) -> Any:
    """Strategy: a zip archive whose first small members are odd; or damaged bytes."""
    from hypothesis import strategies as st

    with zipfile.ZipFile(io.BytesIO(seed)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    told = [name for name in members if "/data/" not in name and "/constants/" not in name]

    def with_member(name: str) -> Any:
        return odd_bytes(members[name]).map(lambda content: zipped({**members, name: content}))

    return st.one_of(*map(with_member, told), odd_bytes(seed))


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip archive that is not compressed, as torch writes them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


ODD_SIZES = (0, -1, 1, 3, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63))
ODD_NAMES = ("", "score_0", "score_8", "bbox_16", "kps_1099511627776", "x", "\x1b[31m", "::error::")


def odd_onnx(seed: bytes) -> Any:
    """Strategy: an ONNX model with odd names, sizes, attributes and metadata; or bytes."""
    from hypothesis import strategies as st

    share = st.floats(0, 1, exclude_max=True)
    edit = st.tuples(
        st.sampled_from(sorted(_ONNX_EDITS)), share, st.sampled_from(ODD_SIZES),
        st.sampled_from((*ODD_NAMES, *ODD_JSON)),
    )  # fmt: skip
    structured = st.lists(edit, min_size=1, max_size=3).map(lambda edits: _odd_onnx(seed, edits))
    names = st.tuples(share, st.sampled_from((b"\xff", b"\xc3", b"\x80"))).map(
        lambda found: _broken_name(seed, *found)
    )
    return st.one_of(structured, structured, names, odd_bytes(seed))


def _odd_onnx(seed: bytes, edits: list[tuple[str, float, int, str]]) -> bytes:
    import onnx

    model = onnx.load_from_string(seed)
    for kind, share, size, name in edits:
        with contextlib.suppress(IndexError):  # an earlier edit removed the last one
            _ONNX_EDITS[kind](model, share, size, name)
    return bytes(model.SerializeToString())


def _one(items: Any, share: float) -> Any:
    return items[int(share * len(items))]


def _set_dim(model: Any, share: float, size: int, _: str) -> None:
    tensor = _one(model.graph.initializer, share)
    if tensor.dims:
        tensor.dims[0] = size
    else:
        tensor.dims.append(size)


def _set_output_dim(model: Any, share: float, size: int, _: str) -> None:
    values = [*model.graph.output, *model.graph.input]
    _one(_one(values, share).type.tensor_type.shape.dim, share).dim_value = size


def _set_type(model: Any, share: float, size: int, _: str) -> None:
    _one(model.graph.initializer, share).data_type = abs(size) % 30


def _rename_output(model: Any, share: float, _: int, name: str) -> None:
    value = _one(model.graph.output, share)
    for node in model.graph.node:
        for place, own in enumerate(node.output):
            if own == value.name:
                node.output[place] = name
    value.name = name


def _rename_initializer(model: Any, share: float, _: int, name: str) -> None:
    _one(model.graph.initializer, share).name = name


def _rename_input(model: Any, share: float, _: int, name: str) -> None:
    _one(model.graph.node, share).input[0] = name


def _set_operator(model: Any, share: float, _: int, name: str) -> None:
    _one(model.graph.node, share).op_type = name


def _set_attribute(model: Any, share: float, size: int, _: str) -> None:
    attributes = [a for node in model.graph.node for a in node.attribute]
    one = _one(attributes, share)
    if one.ints:
        one.ints[0] = size
    else:
        one.i = size


def _remove_node(model: Any, share: float, *_: Any) -> None:
    del model.graph.node[int(share * len(model.graph.node))]


def _remove_output(model: Any, share: float, *_: Any) -> None:
    del model.graph.output[int(share * len(model.graph.output))]


def _set_metadata(model: Any, share: float, _: int, name: str) -> None:
    _one(model.metadata_props, share).value = name


def _set_opset(model: Any, share: float, size: int, _: str) -> None:
    _one(model.opset_import, share).version = size


def _make_external(model: Any, share: float, size: int, name: str) -> None:
    tensor = _one(model.graph.initializer, share)
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    for key, value in (("location", name or "/etc/passwd"), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)


_ONNX_EDITS: dict[str, Callable[..., None]] = {
    "size of a weight": _set_dim,
    "size of an output": _set_output_dim,
    "type of a weight": _set_type,
    "name of an output": _rename_output,
    "name of a weight": _rename_initializer,
    "input of a node": _rename_input,
    "operator": _set_operator,
    "attribute": _set_attribute,
    "no node": _remove_node,
    "no output": _remove_output,
    "metadata": _set_metadata,
    "opset": _set_opset,
    "external data": _make_external,
}


def _broken_name(seed: bytes, share: float, value: bytes) -> bytes:
    """A name of the model with a byte that is no UTF-8; sizes stay."""
    places = [found.start() for found in re.finditer(rb"[a-z_.]{6,}", seed)]
    at = _one(places, share) + 1
    return seed[:at] + value + seed[at + 1 :]


if __name__ == "__main__":
    _main(sys.argv[1])
