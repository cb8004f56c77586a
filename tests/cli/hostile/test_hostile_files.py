"""Files that somebody made to do harm: exit 3, one sentence, soon, and nothing is run."""

from __future__ import annotations

import importlib.util
import io
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hostile import in_time

_spec = importlib.util.spec_from_file_location(
    "torchscript_fake", Path(__file__).parents[2] / "fakes" / "torchscript.py"
)
_fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fake)


@pytest.fixture
def command(in_process):
    """Run the command line in this process: its exit code and what it said on stderr."""

    def run(*arguments):
        with in_time():
            ran = in_process(*arguments)
        return ran.code, ran.err.strip()

    return run


# ---------------------------------------------------------------- checkpoints

KEY = "neck.fpn_convs.0.conv.weight"


class Touch:
    """Unpickling this makes a file."""

    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def state(key, value):
    return lambda weights: {**weights, key: value}


def changed(change):
    return lambda weights: {**weights, KEY: change(weights[KEY])}


STATES = {
    "stride of zero": changed(lambda t: torch.zeros(1).expand(t.shape)),
    "stride of zero, huge": state(KEY, torch.zeros(1).expand(1 << 20, 1 << 16)),
    "empty and huge": state(KEY, torch.zeros(0, 8, 3, 3).expand(0, 8, 3, 3)),
    "huge without values": state(KEY, torch.empty(0, 1 << 40)),
    "complex": changed(lambda t: t.to(torch.complex64)),
    "sparse": changed(lambda t: t.to_sparse()),
    "meta": changed(lambda t: t.to("meta")),
    "quantised": changed(lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)),
    "bytes as a key": state(b"neck.x.weight", torch.zeros(1)),
    "tuple as a key": state(("neck", "x"), torch.zeros(1)),
    "tuple of tuples as a key": state(((("a",),),), torch.zeros(1)),
    "number as a key": state(7, torch.zeros(1)),
    "none as a key": state(None, torch.zeros(1)),
    "text as a tensor": state(KEY, "text"),
    "list as a tensor": state(KEY, [1.0]),
    "NaN": changed(lambda t: t * float("nan")),
    "number of no dimensions": state(KEY, torch.tensor(1.0)),
    "nine dimensions": state(KEY, torch.zeros(1, 1, 1, 1, 1, 1, 1, 1, 1)),
    "object": state("meta", Touch()),
    "many entries": lambda weights: {f"neck.{i}.weight": 0 for i in range(30_000)},
    "huge stage": lambda weights: {
        **weights,
        **{f"backbone.layer1.{i}.conv1.weight": torch.zeros(1) for i in range(3000)},
    },
    "stride of 2^40": lambda weights: {
        k.replace("(8, 8)", f"({1 << 40}, {1 << 40})"): v for k, v in weights.items()
    },
    "stride of 400 digits": lambda weights: {
        k.replace("(8, 8)", f"({'9' * 400}, {'9' * 400})"): v for k, v in weights.items()
    },
}


@pytest.mark.sampled(3)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("case", STATES)
def test_a_state_dict_that_no_trainer_saves(case, legacy, tiny, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": STATES[case](dict(tiny.weights))}
    torch.save(content, "model.pth", _use_new_zipfile_serialization=not legacy)

    code, said = command("inspect", "model.pth")

    assert code == 3, said
    assert said.count("\n") == 0
    assert not Path("ran").exists()


# ---------------------------------------------------------------- configs

HEAD = "model = dict(type='SCRFD', backbone=dict(type='MobileNetV1', block_cfg=dict("
CONFIGS = {
    "lists that multiply": "a = [0] * 1\n"
    + "x0 = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    + "".join(f"x{i} = [{', '.join([f'x{i - 1}'] * 10)}]\n" for i in range(1, 12)),
    "dicts that multiply": "d0 = dict(a=1)\n"
    + "".join(f"d{i} = dict(a=d{i - 1}, b=d{i - 1})\n" for i in range(1, 60)),
    "deep names": "x0 = [1]\n" + "".join(f"x{i} = [x{i - 1}]\n" for i in range(1, 3000)),
    "deep brackets": "model = " + "[" * 5000 + "]" * 5000,
    "minus signs": "model = " + "-" * 50_000 + "1",
    "400 digits": "model = dict(a=" + "9" * 400 + ")",
    "5000 digits": "model = dict(a=" + "9" * 5000 + ")",
    "1e999": "model = dict(a=1e999)",
    "long text": "model = '" + "a" * 100_000 + "'",
    "many names": "\n".join(f"a{i} = {i}" for i in range(60_000)),
    "too long": "#" * (1 << 19),
    "zeros": "\0" * 100,
    "a billion blocks": HEAD + "stage_blocks=(1000000000, 1, 1, 1), stage_planes=(8,) ))",
    "no text": b"\xff\xfe\x00",
    "bases of bases": "_base_ = ['config.py', 'config.py']",
    "a device as base": "_base_ = '/dev/zero'",
    "a folder as base": "_base_ = '.'",
    "zero in a base's name": "_base_ = 'a\\0b'",
    "empty": "",
    "code": "import os\nos.system('touch ran')\nmodel = dict()",
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_no_trainer_writes(case, tiny_pth, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    content = CONFIGS[case]
    Path("config.py").write_bytes(content if isinstance(content, bytes) else content.encode())

    code, said = command("inspect", tiny_pth, "--config", "config.py")

    assert code == 3, said
    assert said.count("\n") == 0
    assert len(said) < 2000
    assert not Path("ran").exists()


@pytest.mark.parametrize("case", [name for name in CONFIGS if isinstance(CONFIGS[name], str)])
def test_the_same_config_in_a_checkpoint(case, tiny, tmp_path, monkeypatch, command):
    if not CONFIGS[case]:
        pytest.skip("a checkpoint with an empty config has none")
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": dict(tiny.weights), "meta": {"config": CONFIGS[case]}}, "model.pth")

    code, said = command("inspect", "model.pth")

    assert code == 3, said


# ---------------------------------------------------------------- archives and pickles


def zipped(*members, method=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


EMPTY = b"\x80\x02}."
FLOATS = b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"


def tensor(count, size, stride, offset=b"K\x00"):
    """A pickle of {"neck.a": tensor}, as torch writes one."""

    def number(value):
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    return (
        b"\x80\x02}X\x06\x00\x00\x00neck.actorch._utils\n_rebuild_tensor_v2\n(("
        + FLOATS + number(count) + b"tQ" + offset + numbers(size) + numbers(stride)
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )  # fmt: skip


def with_data(data, *more):
    return zipped(("a/data.pkl", data), ("a/version", b"3\n"), ("a/data/0", b"\0" * 16), *more)


def cut_directory(content):
    return content[:-10]


FILES = {
    "a bomb of zeros": zipped(("a/data.pkl", EMPTY), ("a/data/0", b"\0" * (64 << 20)), method=8),
    "LZMA": zipped(("a/data.pkl", EMPTY), method=zipfile.ZIP_LZMA),
    "bzip2": zipped(("a/data.pkl", EMPTY), method=zipfile.ZIP_BZIP2),
    "two folders": zipped(("a/data.pkl", EMPTY), ("b/data.pkl", EMPTY)),
    "a way up": zipped(("a/data.pkl", EMPTY), ("a/../../x", b"")),
    "control characters": zipped(("a/data.pkl", EMPTY), ("a/\x1b[31m", b"")),
    "broken name": zipped(("a/data.pkl", EMPTY), ("a/ä", b"")).replace("ä".encode(), b"\xff\xff"),
    "no folder": zipped(("data.pkl", EMPTY)),
    "no end": cut_directory(zipped(("a/data.pkl", EMPTY))),
    "end alone": b"PK\5\6" + b"\0" * 18,
    "empty dictionary": with_data(EMPTY),
    "storage beyond its member": with_data(tensor(1 << 40, (4,), (1,))),
    "tensor beyond its storage": with_data(tensor(4, (1 << 40,), (1,))),
    "stride of zero": with_data(tensor(4, (1 << 40,), (0,))),
    "negative size": with_data(tensor(4, (-4,), (1,))),
    "negative stride": with_data(tensor(4, (4,), (-1,))),
    "offset": with_data(tensor(4, (4,), (1,), b"K\x01")),
    "no storage": with_data(tensor(4, (4,), (1,)).replace(b"X\x01\0\0\x000", b"X\x01\0\0\x009")),
    "system": with_data(b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R."),
    "eval": with_data(b"\x80\x02cbuiltins\neval\nX\x01\0\0\x001\x85R."),
    "bytearray": with_data(b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x7f\x85R."),
    "nested tuples": with_data(b"\x80\x02)" + b"\x85" * 100_000 + b"."),
    "tuple as a key": with_data(b"\x80\x02})N\x86Ns."),
    "memo far away": with_data(b"\x80\x02}r\xff\xff\xff\x7f."),
    "unknown memo": with_data(b"\x80\x02h\x05."),
    "no stack": with_data(b"\x80\x02a."),
    "marks": with_data(b"\x80\x02" + b"(" * 10_000 + b"."),
    "no stop": with_data(b"\x80\x02}"),
    "huge text": with_data(b"\x80\x02X\xff\xff\xff\x7fa."),
    "huge bytes": with_data(b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fa."),
    "huge number": with_data(b"\x80\x02\x8b\xff\xff\xff\x7fa."),
    "protocol 0 number": with_data(b"I" + b"9" * 5000 + b"\n."),
    "persistent list": with_data(b"\x80\x02]Q."),
    "legacy system": b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.",
    "legacy nothing": b"\x80\x02N." * 5,
    "legacy cut": pickle.dumps(0x1950A86A20F9469CFC6C, 2),
    "safetensors: long header": struct.pack("<Q", 1 << 40) + b"{}",
    "safetensors: no JSON": struct.pack("<Q", 8) + b"{abcdefg",
    "safetensors: deep": struct.pack("<Q", 20_000) + b'{"a":' + b"[" * 19_995,
    "safetensors: empty": struct.pack("<Q", 2) + b"{}",
    "safetensors: odd offsets": struct.pack("<Q", 73)
    + b'{"neck.a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}   }',
    "zeros": b"\0" * 1000,
    "PK": b"PK\3\4" + b"\0" * 100,
}  # fmt: skip


@pytest.mark.parametrize("verb", ["inspect", "onnx"])
@pytest.mark.parametrize("case", FILES)
def test_a_file_that_torch_never_writes(case, verb, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Path("model.pth").write_bytes(FILES[case])

    code, said = command(verb, "model.pth")

    assert code == 3, said
    assert said.count("\n") == 0
    assert len(said) < 2000


# ---------------------------------------------------------------- TorchScript


@pytest.mark.parametrize("verb", ["inspect", "detect"])
@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("ops.aten.save(x, 'ran')", "aten::save"),
        ("print('::error::')", "prim::Print"),
        ("y = torch.from_file('/etc/passwd', False, 8)", "aten::from_file"),
        ("y = torch.zeros([131072, 131072])", "aten::zeros"),
    ],
)
def test_a_program_in_torchscript_is_refused(line, named, verb, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    _fake.torchscript(Path("model.pt"), line, "return x")

    code, said = command(verb, "model.pt", *(["."] if verb == "detect" else []))

    assert code == 3, said
    assert named in said
    assert not Path("ran").exists()


# ---------------------------------------------------------------- ground truth


@pytest.mark.sampled(4)
@pytest.mark.parametrize("place", range(0, 2000, 97))
def test_damaged_ground_truth_is_named(place, widerface, tmp_path, command):
    for file in (widerface / "ground_truth").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    bad = tmp_path / "wider_face_val.mat"
    content = bytearray(bad.read_bytes())
    content[128 + place : 136 + place] = b"\xff" * 8
    bad.write_bytes(content)
    (tmp_path / "results").mkdir()

    code, said = command("eval", "--results", tmp_path / "results", "--ground-truth", tmp_path)

    assert code == 3, said


# ---------------------------------------------------------------- memory


@pytest.mark.slow
@pytest.mark.parametrize("case", ["a bomb of zeros", "nested tuples", "huge bytes", "bytearray"])
def test_memory_stays_below_two_gibibytes(case, tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(FILES[case])

    command = [sys.executable, "-m", "scrfdconv.cli", "inspect", str(path)]
    ran = subprocess.run(command, capture_output=True, check=False, timeout=120)

    assert ran.returncode == 3, ran.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 << 20  # KiB
