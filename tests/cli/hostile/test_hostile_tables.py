"""The same cause gives the same exit code and one sentence, whichever verb meets the cause."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import hostile
import onnx
import pytest

from scrfdconv.cli import app
from scrfdconv.converters.artifact import digest_of
from scrfdconv.converters.precision.int8.conversion import Int8Settings
from scrfdconv.converters.structured import to_json
from scrfdconv.recipes.int8.plan import Int8Plan

SIZE = "--shape 64 64"
RECIPE = """
[checkpoints.tiny]
path = "tiny.pth"
[[targets]]
format = "onnx"
shape = [64, 64]
"""


def slow_but(table, *fast):
    """The table's names as parameters; all but ``fast`` ones are for the slow run."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in table]


@pytest.fixture(scope="module")
def material(tmp_path_factory, tiny_pth, tiny_onnx, widerface, small_result):
    """Good files of every kind, and places that cannot be written or read."""
    folder = tmp_path_factory.mktemp("material")
    shutil.copy(tiny_pth, folder / "tiny.pth")
    shutil.copy(tiny_onnx, folder / "tiny.onnx")
    photographs = folder / "photographs"
    photographs.mkdir()
    shutil.copy(widerface / "WIDER_val/images/0--Parade/0_a.jpg", photographs / "a.jpg")
    (folder / "folder.onnx").mkdir()
    (folder / "folder.png").mkdir()
    (folder / "file").write_text("a file")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("\x1b[31m::error::")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "report.json").write_text(to_json(small_result))
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture
def command(in_process, tmp_path, material, monkeypatch):
    """Run the command line in a copy of the material: exit code and what was said."""
    folder = tmp_path / "here"
    shutil.copytree(material, folder, symlinks=True, copy_function=_linked)
    monkeypatch.chdir(folder)

    def run(words):
        with hostile.in_time():
            ran = in_process(*(words.split() if isinstance(words, str) else words))
        assert not hostile.raw(ran.out + ran.err)
        assert "bug in scrfdconv" not in ran.err
        return ran.code, ran.err.strip()

    return run


def _linked(source, target):
    """A hard link, which costs nothing; a new pipe for a pipe."""
    if Path(source).is_fifo():
        os.mkfifo(target)
    else:
        os.link(source, target)


# ---------------------------------------------------------------- photographs

PICTURES = {
    "broken": "broken.jpg",
    "empty": "empty.jpg",
    "text": "text.jpg",
    "a pipe": "pipe.jpg",
    "a loop of links": "loop.jpg",
    "missing": "none.jpg",
    "a folder without pictures": "folder.png",
    "memory of a process": "/proc/self/mem",
    "a device": "/dev/zero",
}
READERS_OF_PICTURES = {
    "detect": "detect tiny.onnx {} --size 64 64",
    "verify": "verify tiny.onnx --reference tiny.pth --images {}",
    "onnx": f"onnx tiny.pth {SIZE} --images {{}} -o out.onnx",
    "fp16": f"fp16 tiny.pth {SIZE} --images {{}} -o out.onnx",
    "int8": f"int8 tiny.pth {SIZE} --images {{}} -o out.onnx",
    "eval": "eval tiny.onnx --images {} --reference tiny.onnx",
}


@pytest.mark.parametrize("verb", slow_but(READERS_OF_PICTURES, "detect", "eval"))
@pytest.mark.parametrize("picture", PICTURES)
def test_a_photograph_that_cannot_be_read(picture, verb, command):
    code, said = command(READERS_OF_PICTURES[verb].format(PICTURES[picture]))

    assert code == 3, said
    assert PICTURES[picture] in said
    assert not Path("out.onnx").exists()


# ---------------------------------------------------------------- outputs

OUTPUTS = {
    "a folder": "folder.onnx",
    "in no folder": "none/out.onnx",
    "below a file": "file/out.onnx",
    "of the kernel": "/proc/out.onnx",
    "of the kernel's devices": "/sys/out.onnx",
    "a device": "/dev/null",
    "too long": "x" * 300 + ".onnx",
}
WRITERS = {
    "onnx": f"onnx tiny.pth {SIZE} -o {{}}",
    "torchscript": f"torchscript tiny.pth {SIZE} -o {{}}",
    "fp16": f"fp16 tiny.pth {SIZE} -o {{}}",
    "int8": f"int8 tiny.pth {SIZE} --images photographs -o {{}}",
    "simplify": f"simplify tiny.onnx {SIZE} -o {{}}",
    "lift": "lift tiny.onnx -o {}",
    "openvino": f"openvino tiny.pth {SIZE} -o {{}}",
    "ncnn": f"ncnn tiny.pth {SIZE} -o {{}}",
    "mnn": f"mnn tiny.pth {SIZE} -o {{}}",
    "build --init": "build --init tiny.pth -o {}",
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("verb", WRITERS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_that_cannot_be_written(output, verb, command):
    code, said = command(WRITERS[verb].format(OUTPUTS[output]))

    assert code == 2, said


FOLDERS = {"a file": "file", "below a file": "file/out", "of the kernel": "/proc/out"}
WRITERS_OF_FOLDERS = {
    "detect": "detect tiny.onnx photographs --size 64 64 --draw {}",
    "build": "build recipe.toml -o {}",
    "report": "report merge report.json -o {}",
}


@pytest.mark.parametrize("verb", WRITERS_OF_FOLDERS)
@pytest.mark.parametrize("output", FOLDERS)
def test_a_folder_that_cannot_be_made(output, verb, command):
    code, said = command(WRITERS_OF_FOLDERS[verb].format(FOLDERS[output]))

    assert code == 2, said


@pytest.fixture(scope="module")
def built(material):
    """The recipe, built once."""
    before = Path.cwd()
    os.chdir(material)
    try:
        with pytest.raises(SystemExit) as ended:
            app(["build", "recipe.toml", "-o", "built", "--jobs", "1"])
    finally:
        os.chdir(before)
    assert ended.value.code == 0
    return material / "built"


STATE = ".scrfdconv"
# What stands in the way of a build that has everything already -> its exit code.
IN_THE_WAY = {
    "report.json": 2,
    "report.html": 2,
    "junit.xml": 2,
    "manifest.json": 2,
    f"{STATE}/lock": 2,
    f"{STATE}/records": 2,
    f"{STATE}/times": 0,
    f"{STATE}/scratch": 0,
    f"{STATE}/records/tiny/tiny_shape64x64.onnx.json": 2,
    f"{STATE}/times/tiny/tiny_shape64x64.onnx.json": 0,
}


@pytest.mark.slow
@pytest.mark.parametrize("place", slow_but(IN_THE_WAY, "report.html", f"{STATE}/lock"))
def test_a_cached_build_whose_files_cannot_be_written(place, built, command):
    there = Path("built") / place
    if there.is_dir():
        shutil.rmtree(there)
        there.write_text("in the way")
    else:
        there.unlink(missing_ok=True)
        there.mkdir(parents=True)
        (there / "in the way").touch()

    code, said = command("build recipe.toml -o built --jobs 1")

    assert code == IN_THE_WAY[place], said


# ---------------------------------------------------------------- ONNX


def _edit(kind, size=0, name="", share=0.0):
    def edit(model):
        hostile._ONNX_EDITS[kind](model, share, size, name)

    return edit


MODELS = {
    "sizes of 2^40": _edit("size of a weight", 1 << 40),
    "negative sizes": _edit("size of a weight", -1),
    "sizes of 2^63": _edit("size of a weight", (1 << 63) - 1),
    "type 29": _edit("type of a weight", 29),
    "score_0": _edit("name of an output", name="score_0"),
    "stride of 2^40": _edit("name of an output", name=f"score_{1 << 40}"),
    "stride of 400 digits": _edit("name of an output", name=f"score_{'9' * 400}"),
    "all outputs of stride 0": lambda model: [
        _edit("name of an output", name=f"{kind}_0{'0' * i}", share=(3 * k + i + 0.1) / 9)(model)
        for k, kind in enumerate(("score", "bbox", "kps"))
        for i in range(3)
    ],
    "outputs of one name": _edit("name of an output", name="score_16"),
    "nameless output": _edit("name of an output", name=""),
    "commands in a name": _edit("name of an output", name="\x1b[31m\n::error::x"),
    "unknown operator": _edit("operator", name="\x1b[31m\n::error::x"),
    "input from nowhere": _edit("input of a node", name="nowhere"),
    "opset of 2^40": _edit("opset", 1 << 40),
    "opset 0": _edit("opset", 0),
    "external data elsewhere": _edit("external data", 8, "/etc/passwd"),
    "external data above": _edit("external data", 8, "../x"),
    "external data of a long name": _edit("external data", 8, "x" * 3000),
    "external data of 2^40 bytes": _edit("external data", 1 << 40, "tiny.pth"),
    "a huge input": lambda model: [
        setattr(model.graph.input[0].type.tensor_type.shape.dim[i], "dim_value", 1 << 40)
        for i in (2, 3)
    ],
    "no nodes": lambda model: model.graph.ClearField("node"),
    "no outputs": lambda model: model.graph.ClearField("output"),
    "no opset": lambda model: model.ClearField("opset_import"),
}  # fmt: skip
READERS_OF_MODELS = {
    "inspect": "inspect odd.onnx",
    "simplify": f"simplify odd.onnx {SIZE} -o out.onnx",
    "verify": "verify odd.onnx --reference tiny.onnx",
    "as a reference": "verify tiny.onnx --reference odd.onnx",
    "detect": "detect odd.onnx photographs --size 64 64",
    "fp16": f"fp16 odd.onnx {SIZE} -o out.onnx",
    "lift": "lift odd.onnx -o out.pth",
}
DOCUMENTED = (1, 2, 3)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("verb", slow_but(READERS_OF_MODELS, "inspect", "simplify"))
@pytest.mark.parametrize("model", MODELS)
def test_an_odd_model(model, verb, command):
    odd = onnx.load("tiny.onnx")
    MODELS[model](odd)
    Path("odd.onnx").write_bytes(odd.SerializeToString())

    code, said = command(READERS_OF_MODELS[verb])

    assert code in hostile.OURS, said
    assert not code or said.rpartition("\n")[2].startswith("scrfdconv: "), said


@pytest.mark.parametrize("byte", [b"\xff", b"\xc3", b"\x80"])
@pytest.mark.parametrize("verb", slow_but(READERS_OF_MODELS, "inspect", "simplify"))
def test_a_name_that_is_no_text(verb, byte, command):
    whole = Path("tiny.onnx").read_bytes()
    Path("odd.onnx").write_bytes(whole.replace(b"score_8", b"score" + byte + b"8"))

    code, said = command(READERS_OF_MODELS[verb])

    assert code == 3, said
    assert "is no text" in said or "cannot load" in said


# ---------------------------------------------------------------- reports


def _histogram(**changes):
    def change(report):
        for outcome in report["outcomes"]:
            for one in outcome["histograms"]:
                one.update(changes)

    return change


def _outcomes(**changes):
    return lambda report: [outcome.update(changes) for outcome in report["outcomes"]]


BOX = {"x1": "nan", "y1": "-inf", "x2": 1e308, "y2": -1e308, "score": "inf"}
FACES = [{"picture": "none", "reference": [BOX], "artifact": [BOX, BOX]}]
RESULT = {
    "check": "parity", "subject": "x", "metric": "max_abs", "measured": "nan", "limit": "inf",
    "passed": False, "relation": "<=", "detail": "",
}  # fmt: skip
REPORTS = {
    "edges of 1e308": _histogram(edges=[1e-308, 1e308], counts=[3]),
    "edges of a denormal": _histogram(edges=[5e-324, 1.0], counts=[3]),
    "edges of 1e308 alone": _histogram(edges=[1e308, 1.7e308], counts=[9], limit=1e308),
    "NaN edges": _histogram(edges=["nan", "nan"], counts=[1]),
    "infinite edges": _histogram(edges=["-inf", "inf"], counts=[1], limit="inf"),
    "edges backwards": _histogram(edges=[1.0, 0.1, -1.0], counts=[1, 2]),
    "no edges": _histogram(edges=[0.5], counts=[]),
    "counts of 2^62": _histogram(edges=[0.1, 1.0], counts=[1 << 62], below=1 << 62),
    "limit of a denormal": _histogram(limit=5e-324),
    "limit NaN": _histogram(limit="nan"),
    "boxes": _outcomes(faces=FACES),
    "size of 2^62": _outcomes(size=1 << 62),
    "negative size": _outcomes(size=-1),
    "seconds of 1e308": _outcomes(seconds=1e308),
    "seconds NaN": _outcomes(seconds="nan"),
    "ratio of 1e308": _outcomes(
        latency={"float_ms": 5e-324, "artifact_ms": 1e308, "ratio": 1e308, "shape": [1, 64, 64]}
    ),
    "ratio NaN": _outcomes(
        latency={"float_ms": "nan", "artifact_ms": "inf", "ratio": "nan", "shape": [1, 64, 64]}
    ),
    "batch of 2^62": _outcomes(batch=1 << 62),
    "exit code": _outcomes(exit_code=1 << 40),
    "results": _outcomes(report={"passed": False, "results": [RESULT], "notes": []}),
    "results of 1e308": _outcomes(
        report={
            "passed": False, "results": [{**RESULT, "measured": 1e308, "limit": 5e-324}],
            "notes": [],
        }
    ),
    "markup": _outcomes(checkpoint="<script>\x1b[31m\n::error::", why="]]>\x00\ufffe"),
    "pictures of no size": lambda report: [
        picture.update(width=0, height=-5) for picture in report["pictures"]
    ],
}  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", REPORTS)
def test_odd_values_in_a_report(case, command):
    content = json.loads(Path("report.json").read_text())
    REPORTS[case](content)
    Path("odd.json").write_text(json.dumps(content))

    code, said = command("report merge odd.json -o merged")

    assert code in (1, 3), said  # the build of the report had failures
    assert code == 3 or Path("merged/report.html").is_file()


# ---------------------------------------------------------------- plans and tables


@pytest.fixture(scope="module")
def measured(material):
    """A plan and a calibration table of the tiny network."""
    before = Path.cwd()
    os.chdir(material)
    words = (
        f"int8 tiny.onnx {SIZE} --images photographs --no-verify --max-face-loss 1 "
        "--plan good.plan.json --save-calibration good.table.json -o planned.onnx"
    )
    try:
        with pytest.raises(SystemExit) as ended:
            app(words.split())
    finally:
        os.chdir(before)
    assert ended.value.code == 0
    return material


def _without(*names):
    return lambda table: replace(
        table, ranges={k: v for i, (k, v) in enumerate(table.ranges.items()) if i not in names}
    )


def _each_range(low, high):
    return lambda table: replace(table, ranges=dict.fromkeys(table.ranges, (low, high)))


TABLES = {
    "no ranges": lambda table: replace(table, ranges={}),
    "without the first range": _without(0),
    "without a range in the middle": _without(7, 8),
    "half of the ranges": _without(*range(0, 1000, 2)),
    "a stranger": lambda table: replace(table, ranges={**table.ranges, "stranger": (0.0, 1.0)}),
    "no means": lambda table: replace(table, means={}),
    "means of a stranger": lambda table: replace(table, means={"stranger": [0.0]}),
    "half of the means": lambda table: replace(
        table, means=dict(list(table.means.items())[::2])
    ),
    "means of one channel": lambda table: replace(
        table, means={name: [0.5] for name in table.means}
    ),
    "ranges of nothing": _each_range(0.0, 0.0),
    "the widest ranges": _each_range(-3.4e38, 3.4e38),
    "the narrowest ranges": _each_range(0.0, 1e-45),
    "another size": lambda table: replace(table, shape=(96, 96)),
    "another source": lambda table: replace(table, source_sha256="0" * 64),
}  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize("way", slow_but(("plan", "table"), "plan"))
@pytest.mark.parametrize("case", TABLES)
def test_measurements_that_were_made_up(case, way, measured, command):
    table = json.loads(Path("good.table.json").read_text())
    assert table["source_sha256"] == digest_of(Path("tiny.onnx"))
    from scrfdconv.converters.precision.int8.calibration import load_table
    from scrfdconv.recipes.int8.plan import load_plan

    odd = TABLES[case](load_table(Path("good.table.json")))
    odd.save(Path("odd.table.json"))
    plan = load_plan(Path("good.plan.json"))
    settings: Int8Settings = replace(plan.options, table=odd)
    Int8Plan(settings, plan.budget).save(Path("odd.plan.json"))
    words = {
        "plan": "--plan odd.plan.json",
        "table": "--calibration-table odd.table.json --images photographs",
    }

    code, said = command(f"int8 tiny.onnx {SIZE} {words[way]} -o odd.onnx")

    assert code in DOCUMENTED, said
    assert not Path("odd.onnx").exists()
