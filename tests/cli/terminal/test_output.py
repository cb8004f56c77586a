"""Whatever a file says, a terminal and a CI system are told a line of text."""

from __future__ import annotations

import json
import logging
import sys

import onnx
import pytest

from scrfdconv.cli.terminal import output

CONTROLS = [chr(code) for code in (*range(32), *range(127, 160), 0x2028, 0x2029, 0x202E, 0x2066)]
COMMANDS = ["::error::x", "  ::warning file=a::x", "##[error]x", "a ##[group]x",
            "##vso[task.set]x", "\n::error::x", "a\n::stop-commands::x", "\r##[x]"]  # fmt: skip


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_character_is_shown_escaped(control):
    shown = output.printable(f"a{control}b")

    assert shown.isprintable()
    assert shown == f"a{control.encode('unicode_escape').decode()}b"


@pytest.mark.parametrize("text", COMMANDS)
def test_a_workflow_command_is_disarmed(text):
    shown = output.printable(text)

    assert "\n" not in shown
    assert "##[" not in shown
    assert "##vso[" not in shown
    assert not shown.lstrip().startswith("::")


@pytest.mark.parametrize("text", ["plain", "ä 中 😀", "a::b", "score_8: ok", "[red]x[/red]", "# x"])
def test_ordinary_text_stays_as_it_is(text):
    assert output.printable(text) == text


def test_half_a_character_does_not_stop_a_print():
    assert output.printable("a\udcffb") == "a\\udcffb"


@pytest.mark.parametrize("text", COMMANDS)
def test_json_holds_no_command_and_reads_back(capsys, text):
    output.print_json({"name": text})

    said = capsys.readouterr().out
    assert json.loads(said) == {"name": text}
    assert "##[" not in said
    assert not any(line.lstrip().startswith("::") for line in said.splitlines())


def test_prints_of_others_do_not_disturb_the_json_object(capsys):
    with output.started(json=True):
        print("from a library\x1b[31m")
        output.print_json({"a": 1})
        print("::error::x")

    said = capsys.readouterr()
    assert json.loads(said.out) == {"a": 1}
    assert said.err == "from a library\\x1b[31m\n\\::error::x\n"
    assert sys.stdout is not None


def test_warnings_of_libraries_are_said_as_ours(capsys):
    with output.started(json=False):
        logging.getLogger("x").warning("a\n::error::%s", "\x1b[2J")

    assert capsys.readouterr().err == "a\\n::error::\\x1b[2J\n"


def test_our_own_annotations_are_commands_without_control_characters(capsys):
    output.annotate("::error title=a::\x1b[31mx")

    assert capsys.readouterr().err == "::error title=a::\\x1b[31mx\n"


HOSTILE = "\x1b[31m[bold]x[/bold]\n::error::owned\r##[group]owned"


@pytest.fixture(scope="module")
def hostile(tiny_onnx, tmp_path_factory):
    """An ONNX file whose metadata, names and producer are made to be printed."""
    model = onnx.load(tiny_onnx)
    model.producer_name = HOSTILE
    for entry in model.metadata_props:
        if entry.key.endswith(("recipe", "weights", "source_sha256")):
            entry.value = HOSTILE
    path = tmp_path_factory.mktemp("hostile") / "hostile.onnx"
    onnx.save(model, path)
    for node in model.graph.node:
        node.op_type = HOSTILE
    onnx.save(model, path.with_name("broken.onnx"))
    return path


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", ["hostile.onnx", "broken.onnx"])
@pytest.mark.parametrize(
    "arguments",
    [("inspect", "{}"), ("inspect", "{}", "--json"), ("simplify", "{}", "-o", "out.onnx"),
     ("verify", "{}", "--reference", "{}"), ("onnx", "{}", "-o", "out.onnx"),
     ("fp16", "{}", "-o", "out.onnx"), ("detect", "{}", "--image", "none.jpg")],
    ids=" ".join,
)  # fmt: skip
def test_no_verb_prints_what_a_file_says_raw(scrfdconv, hostile, arguments, name):
    path = hostile.with_name(name)

    ran = scrfdconv(*(argument.format(path) for argument in arguments))

    assert ran.code != 70, ran.err
    for stream in (ran.out, ran.err):
        assert "\x1b" not in stream
        assert "##[" not in stream
        assert not any(line.lstrip().startswith("::") for line in stream.splitlines())
    if "--json" in arguments:
        assert isinstance(ran.json, dict)
