"""The verb fp16: sources, names, exit codes and what it says."""

from __future__ import annotations

import json

import pytest

from scrfdconv.cli import app

SOURCE = ["scrfd_500m_kps", "--shape", "64", "96"]


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            app([*map(str, arguments)])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


def test_a_built_in_name_becomes_a_verified_file_of_the_default_name(call, tmp_path):
    code, out, err = call("fp16", *SOURCE, "--json")

    made = json.loads(out)
    assert code == 0
    assert made["path"] == "scrfd_500m_kps-seeded_shape64x96_fp16.onnx"
    assert (tmp_path / made["path"]).is_file()
    assert (made["precision"], made["verified"]) == ("fp16", True)
    assert made["report"]["passed"]
    assert {"parity", "precision"} <= {r["check"] for r in made["report"]["results"]}
    assert made["audit"]["shares"]["fp16"] > 0.95
    assert "first depthwise convolution" in made["kept_float"]
    assert "CPU" in err


def test_an_onnx_source_is_converted_and_not_twice(call, tmp_path):
    call("onnx", *SOURCE, "-o", "float.onnx", "--no-verify")

    assert call("fp16", "float.onnx", "--io", "float16")[0] == 0
    assert (tmp_path / "float_fp16.onnx").is_file()
    code, _, err = call("fp16", "float_fp16.onnx")
    assert code == 3
    assert "float_fp16.onnx: is fp16 already" in err
    assert not (tmp_path / "float_fp16_fp16.onnx").exists()


def test_an_unknown_node_is_a_usage_error_with_close_names(call, tmp_path):
    code, _, err = call("fp16", *SOURCE, "--keep-float", "Sigmod", "--no-verify")

    assert code == 2
    assert "Sigmoid" in err
    assert not list(tmp_path.glob("*.onnx"))


def test_nothing_in_fp16_is_a_failed_check(call, tmp_path):
    code, _, err = call("fp16", *SOURCE, "--keep-float", "Conv")

    assert code == 1
    assert "fp16" in err
    assert not list(tmp_path.glob("*.onnx"))


def test_a_text_file_is_a_bad_input(call, tmp_path):
    (tmp_path / "notes.onnx").write_text("no model")

    assert call("fp16", "notes.onnx")[0] == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scrfd_500m", "scrfd_2.5g_bnkps"])
def test_real_checkpoints_keep_their_faces(name, call, data):
    code, out, _ = call(
        "fp16", data / "checkpoints" / f"{name}.pth", "--shape", "640", "640",
        "--images", data / "images" / "test", "--json",
    )  # fmt: skip

    faces = {
        r["metric"]: r["measured"] for r in json.loads(out)["report"]["results"]
        if r["check"] == "faces"
    }  # fmt: skip
    assert code == 0
    assert faces["recall"] == faces["precision"] == 1
