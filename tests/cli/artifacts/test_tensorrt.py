"""The verb tensorrt: engines on a fake GPU, plans without one, exit codes and JSON."""

from __future__ import annotations

import json

import pytest

from scrfdconv.checks.tolerances import LIMITS, Limits
from scrfdconv.cli import app
from scrfdconv.converters.formats import open_artifact

PROFILE = ("--min", "1x64x64", "--opt", "1x64x96", "--max", "2x64x96")


@pytest.fixture
def scrfdconv(capsys, tmp_path, monkeypatch):
    """scrfdconv(arguments) -> (exit code, stdout, stderr), run in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            app([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run


def test_without_gpu_and_tensorrt_the_exit_code_is_4_with_the_reason_and_the_way_out(
    scrfdconv, tmp_path, monkeypatch
):
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)

    code, out, err = scrfdconv("tensorrt", "--shape", 64, 64)

    assert code == 4
    assert "--plan-only" in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_with_a_gpu_but_without_tensorrt_only_that_is_missing(
    newest_machine, scrfdconv, monkeypatch
):
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)

    code, _, err = scrfdconv("tensorrt", "--shape", 64, 64)

    assert code == 4
    assert "The package tensorrt is not installed" in err
    assert "GPU." not in err.replace("NVIDIA GPU", "")


def test_a_plan_is_written_where_nothing_can_be_built(scrfdconv, tiny_pth, tmp_path):
    code, out, _ = scrfdconv("tensorrt", tiny_pth, "--plan-only", *PROFILE)

    assert code == 0, out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["build_engine.sh", "tiny.onnx"]
    assert "nothing was built" in out
    assert "1x64x64 .. 1x64x96 .. 2x64x96" in out
    assert "--stronglyTyped --onnx=tiny.onnx --saveEngine=tiny.engine" in out
    assert (tmp_path / "build_engine.sh").stat().st_mode & 0o100
    assert open_artifact(tmp_path / "tiny.onnx").precision == "fp32"


def test_the_json_of_a_plan_does_not_claim_an_engine(scrfdconv, tiny_pth, tmp_path):
    code, out, _ = scrfdconv("tensorrt", tiny_pth, "--plan-only", "--shape", 64, 96, "--json")

    content = json.loads(out)
    assert code == 0
    assert content["built"] is False
    assert content["plan"]["profiles"] == []
    assert content["command"][0] == "trtexec"
    assert content["lint"]["passed"]
    assert content["verified"] and content["report"]["passed"]
    assert not (tmp_path / content["engine"]).exists()


def test_a_plan_whose_onnx_is_not_its_source_is_not_written(
    scrfdconv, tiny_pth, tmp_path, monkeypatch
):
    monkeypatch.setitem(LIMITS, ("fp32", "kps"), Limits(0, 0, 0, 1, 200, "impossible"))
    plan = ("tensorrt", tiny_pth, "--plan-only", "--shape", 64, 96, "--json")

    code, out, _ = scrfdconv(*plan)

    assert code == 1
    assert "was not written" in json.loads(out)["error"]
    assert list(tmp_path.iterdir()) == []
    assert json.loads(scrfdconv(*plan, "--no-verify")[1])["verified"] is False


def test_a_plan_in_fp16_comes_with_an_fp16_onnx(scrfdconv, tiny_pth, tmp_path):
    code, out, _ = scrfdconv(
        "tensorrt", tiny_pth, "--plan-only", "--precision", "fp16", "--shape", 64, 64, "--json"
    )

    content = json.loads(out)
    assert code == 0, content
    assert content["onnx"] == "tiny_shape64x64_fp16.onnx"
    assert content["plan"]["precision"] == "fp16"
    assert content["plan"]["convolutions"]["fp16"] > 0


def test_a_plan_leaves_the_onnx_that_it_comes_from_alone(scrfdconv, tiny_onnx, tmp_path):
    source = tmp_path / "tiny.onnx"
    source.write_bytes(tiny_onnx.read_bytes())
    before = source.stat()

    code, _, err = scrfdconv("tensorrt", source, "--plan-only", *PROFILE)

    assert code == 0, err
    assert source.stat().st_mtime_ns == before.st_mtime_ns


def test_an_engine_is_built_verified_and_reported(machine, scrfdconv, tiny_pth, tmp_path):
    code, out, _ = scrfdconv("tensorrt", tiny_pth, "--json", *PROFILE)

    content = json.loads(out)
    assert code == 0, content
    assert (content["path"], content["precision"]) == ("tiny.engine", "fp32")
    assert content["report"]["passed"]
    assert {r["check"] for r in content["report"]["results"]} == {"parity", "batch", "engine"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.engine", "tiny.engine.json"]


def test_an_fp16_engine_is_made_from_an_fp16_onnx_and_audited(newest_machine, scrfdconv, tiny_onnx):
    code, out, _ = scrfdconv("tensorrt", tiny_onnx, "--precision", "fp16", "--json", *PROFILE)

    content = json.loads(out)
    assert code == 0, content
    assert (content["path"], content["precision"]) == ("tiny_fp16.engine", "fp16")
    shares = [r for r in content["report"]["results"] if r["metric"] == "fp16 share"]
    assert shares[0]["measured"] >= shares[0]["limit"] > 0.5


@pytest.fixture
def photographs(tmp_path_factory):
    import cv2
    import numpy as np

    folder = tmp_path_factory.mktemp("photographs")
    draw = np.random.Generator(np.random.PCG64(0))
    for number in range(4):
        picture = draw.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    return folder


def test_an_int8_engine_is_made_from_symmetric_int8_and_audited(
    newest_machine, scrfdconv, tiny_pth, photographs, tmp_path
):
    code, out, _ = scrfdconv(
        "tensorrt", tiny_pth, "--precision", "int8", "--images", photographs, "--shape", 64, 64,
        "--no-verify", "--json",
    )  # fmt: skip

    content = json.loads(out)
    assert code == 0, content
    assert (content["path"], content["precision"]) == ("tiny_shape64x64_int8.engine", "int8")
    assert content["lint"]["passed"]
    sidecar = json.loads((tmp_path / content["sidecar"]).read_text())
    assert sidecar["convolutions"]["int8"] > sidecar["convolutions"]["fp32"]


def test_an_engine_that_is_not_its_source_gets_no_name(
    newest_machine, scrfdconv, tiny_onnx, tmp_path
):
    newest_machine.bad_slot = 1

    code, _, err = scrfdconv("tensorrt", tiny_onnx, *PROFILE)

    assert code == 1
    assert "was not written" in err
    assert "slot 1" in err
    assert list(tmp_path.iterdir()) == []


def test_opset_11_needs_no_cure_as_scales_are_never_empty(scrfdconv, tiny_pth):
    code, out, _ = scrfdconv("tensorrt", tiny_pth, "--opset", 11, "--plan-only", *PROFILE)

    assert code == 0
    assert "--opset 13" not in out
    assert "66 checks passed" in out


def test_an_onnx_that_tensorrt_will_not_take_is_refused_before_the_build(
    newest_machine, scrfdconv, tiny_onnx, tmp_path
):
    import onnx

    model = onnx.load(str(tiny_onnx))
    (resize, *_) = (node for node in model.graph.node if node.op_type == "Resize")
    resize.input[:] = [resize.input[0], "", "", resize.input[0]]
    onnx.save(model, str(tmp_path / "odd.onnx"))

    code, _, err = scrfdconv("tensorrt", "odd.onnx", *PROFILE)

    assert code == 1
    assert "computed from values" in err
    assert newest_machine.built == []


def test_a_stripped_plan_wants_no_verify(newest_machine, scrfdconv, tiny_onnx, tmp_path):
    refused, _, err = scrfdconv("tensorrt", tiny_onnx, "--strip-plan", *PROFILE)
    code, _, _ = scrfdconv("tensorrt", tiny_onnx, "--strip-plan", "--no-verify", *PROFILE)

    assert refused == 2
    assert "--no-verify" in err
    assert code == 0
    assert (tmp_path / "tiny.engine.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--min", "1x64x64"), 2, "A profile is one --min, one --opt and one --max"),
        (("--shape", 64, 64, *PROFILE), 2, "for dynamic models"),
        (("--precision", "int8"), 2, "--images"),
        (("--precision", "fp8"), 2, "fp8"),
        (("--level", 9), 2, "level"),
        (("--batch", 2), 2, "--shape"),
        (("-o", "nowhere/x.engine"), 2, "does not exist"),
    ],
)
def test_wrong_usage_is_one_sentence(scrfdconv, tiny_pth, arguments, code, said):
    got, _, err = scrfdconv("tensorrt", tiny_pth, "--plan-only", *arguments)

    assert got == code
    assert said in err
    assert "Traceback" not in err


def test_an_engine_is_no_source(newest_machine, scrfdconv, tiny_onnx, tmp_path):
    scrfdconv("tensorrt", tiny_onnx, "--no-verify", *PROFILE)

    code, _, err = scrfdconv("tensorrt", "tiny.engine")

    assert code == 2
    assert "is built from a checkpoint or ONNX" in err


def test_verify_and_inspect_take_engines(newest_machine, scrfdconv, tiny_onnx):
    scrfdconv("tensorrt", tiny_onnx, "--no-verify", *PROFILE)

    verified, out, _ = scrfdconv("verify", "tiny.engine", "--reference", tiny_onnx, "--json")
    inspected, facts, _ = scrfdconv("inspect", "tiny.engine", "--json")

    assert verified == 0, out
    assert json.loads(out)["kind"] == "tensorrt"
    assert inspected == 0
    assert json.loads(facts)["gpu"] == "Fake RTX"


def test_on_a_terminal_the_phases_of_the_build_are_shown(
    newest_machine, scrfdconv, tiny_onnx, monkeypatch
):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")

    code, _, err = scrfdconv("tensorrt", tiny_onnx, "--no-verify", *PROFILE)

    assert code == 0
    assert "building tiny.engine" in err
