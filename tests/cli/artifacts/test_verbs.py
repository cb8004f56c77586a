"""What a user types and what comes back."""

from __future__ import annotations

import json

import onnx
import pytest

from scrfdconv.checks.tolerances import LIMITS, Limits
from scrfdconv.cli import app
from scrfdconv.converters.network.architecture import BUILTIN


def test_the_first_command_works_and_says_that_the_weights_are_untrained(scrfdconv, tmp_path):
    ran = scrfdconv("onnx", "--shape", 640, 640)

    assert ran.code == 0, ran.err
    assert "seeded, not trained" in ran.err
    assert "checks passed" in ran.out
    assert [p.name for p in tmp_path.iterdir()] == ["scrfd_500m_kps-seeded_shape640x640.onnx"]


def test_onnx_as_json_has_digest_report_and_parents(scrfdconv, tiny_pth, tmp_path):
    ran = scrfdconv("onnx", tiny_pth, "--json", "-o", "out.onnx")

    assert ran.code == 0, ran.err
    made = ran.json
    assert made["path"] == "out.onnx"
    assert made["verified"] is True
    assert made["report"]["passed"] is True
    assert len(made["sha256"]) == len(made["parents"][0]) == 64
    assert {r["subject"] for r in made["report"]["results"]} >= {"score_8", "bbox_16", "kps_32"}
    assert (tmp_path / "out.onnx").stat().st_size == made["size"]


@pytest.mark.slow
def test_files_are_named_after_source_and_shape(scrfdconv, tiny_pth, tmp_path):
    for arguments in (["onnx"], ["onnx", "--shape", 64, 96], ["torchscript"],
                      ["torchscript", "--shape", 64, 96, "--batch", 2]):  # fmt: skip
        verb, *options = arguments
        assert scrfdconv(verb, tiny_pth, *options).code == 0

    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"tiny.onnx", "tiny_shape64x96.onnx", "tiny.pt", "tiny_shape64x96.pt"}


def test_no_verify_says_so(scrfdconv, tiny_pth):
    ran = scrfdconv("onnx", tiny_pth, "--no-verify")

    assert ran.code == 0
    assert "not verified" in ran.err


def test_a_finished_model_is_fixed_without_its_checkpoint(scrfdconv, tiny_onnx):
    ran = scrfdconv("onnx", tiny_onnx, "--shape", 96, 64, "-o", "fixed.onnx")

    assert ran.code == 0, ran.err


def test_simplify_tells_node_counts_and_verifies(scrfdconv, tiny_onnx, tmp_path):
    model = onnx.load(tiny_onnx)
    superfluous = onnx.helper.make_node("Identity", ["input.1"], ["same"], "superfluous")
    for node in model.graph.node:
        node.input[:] = ["same" if name == "input.1" else name for name in node.input]
    model.graph.node.insert(0, superfluous)
    onnx.save(model, tmp_path / "tiny.onnx")

    ran = scrfdconv("simplify", "tiny.onnx", "--shape", 64, 96, "--json")

    assert ran.code == 0, ran.err
    nodes = ran.json["nodes"]
    assert nodes["after"] < nodes["before"]
    assert nodes["after"] == len(onnx.load(tmp_path / "tiny_shape64x96.onnx").graph.node)
    assert ran.json["report"]["passed"]


@pytest.mark.slow
@pytest.mark.parametrize("fixed", [False, True])
def test_released_models_simplify(fixed, scrfdconv, data):
    for path in sorted(data.glob("onnx/*.onnx"))[fixed::2]:
        size = (320, 320) if "320" in path.name else (640, 640)
        shape = ["--shape", *size] if fixed else []

        ran = scrfdconv("simplify", path, *shape, "-o", "out.onnx", "--json")

        assert ran.code == 0, (path, ran.err)
        assert ran.json["nodes"]["after"] <= ran.json["nodes"]["before"]
        assert ran.json["report"]["passed"]


def test_simplify_takes_models_that_are_no_detectors(scrfdconv, tmp_path):
    from onnx import helper

    x = helper.make_tensor_value_info("x", 1, ["n", 1, "h", "w"])
    y = helper.make_tensor_value_info("y", 1, ["n", 1, "h", "w"])
    nodes = [helper.make_node("Identity", ["x"], ["i"]), helper.make_node("Sin", ["i"], ["y"])]
    graph = helper.make_graph(nodes, "sine", [x], [y])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "sine.onnx",
    )

    ran = scrfdconv("simplify", "sine.onnx", "--json")

    assert ran.code == 0, ran.err
    assert ran.json["nodes"] == {"before": 2, "after": 1}
    assert ran.json["path"] == "sine_simplified.onnx"


def test_verify_passes_on_the_models_own_artifact(scrfdconv, tiny_onnx, tiny_pth):
    ran = scrfdconv("verify", tiny_onnx, "--reference", tiny_pth, "--json")

    assert ran.code == 0, ran.err
    assert ran.json["passed"] is True
    assert ran.json["kind"] == "onnx"


def test_verify_fails_on_another_training_with_exit_code_one(scrfdconv, tiny_onnx):
    ran = scrfdconv("verify", tiny_onnx, "--reference", "scrfd_500m_kps")

    assert ran.code == 1
    assert "FAILED" in ran.out
    assert "is not scrfd_500m_kps-seeded" in ran.sentence


def test_a_failed_verification_leaves_the_old_artifact(tiny_pth, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(LIMITS, ("fp32", "kps"), Limits(0, 0, 0, 1, 200, "impossible"))
    out = tmp_path / "tiny.onnx"
    out.write_bytes(b"old")

    with pytest.raises(SystemExit) as exit_:
        app(["onnx", str(tiny_pth), "-o", str(out), "--json"])

    said = capsys.readouterr()
    content = json.loads(said.out)
    assert exit_.value.code == content["exit_code"] == 1
    assert content["report"]["passed"] is False
    assert "was not written" in said.err
    assert out.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.onnx"]


def test_inspect_says_what_a_checkpoint_is(scrfdconv, tiny_pth):
    facts = scrfdconv("inspect", tiny_pth, "--json").json

    assert facts["kind"] == "pytorch"
    assert facts["recognised_by"] == "names and shapes of the weights"
    assert facts["architecture"]["keypoints"] == 5
    assert facts["parameters"] > 1000


def test_inspect_says_what_an_artifact_is(scrfdconv, tiny_onnx):
    facts = scrfdconv("inspect", tiny_onnx, "--json").json

    assert (facts["kind"], facts["opset"], facts["precision"]) == ("onnx", 17, "fp32")
    assert facts["inputs"] == {"input.1": "float32 [batch, 3, height, width]"}
    assert facts["declared_outputs"]["bbox_16"] == "float32 [batch, anchors_16, 4]"
    assert facts["takes"] == ["any", 3, "any", "any"]
    assert facts["metadata"]["recipe"] == "tiny"
    assert "model: tiny" in scrfdconv("inspect", tiny_onnx).out


@pytest.mark.slow
def test_inspect_reads_released_files(scrfdconv, data):
    for path in (*data.glob("checkpoints/*.pth"), *data.glob("onnx/*.onnx")):
        ran = scrfdconv("inspect", path, "--json")
        assert ran.code == 0, ran.err
        assert ran.json["sha256"]


def test_models_prints_published_beside_computed_and_the_wrong_row(scrfdconv):
    ran = scrfdconv("models")

    assert ran.code == 0
    for text in ("0.5087", "2.5306", "9.9821", "34.1369", "90.57", "85.29", "0.57*"):
        assert text in ran.out
    assert "SCRFD_500M_KPS: published FLOPs" in ran.out
    rows = scrfdconv("models", "--json").json["models"]
    assert [row["name"] for row in rows] == list(BUILTIN)


@pytest.mark.slow
def test_a_printed_model_is_a_recipe(scrfdconv, tmp_path):
    (tmp_path / "mine.toml").write_text(scrfdconv("models", "SCRFD_10G", "--toml").out)

    ran = scrfdconv("onnx", "--recipe", "mine.toml", "--shape", 64, 64, "--json")

    assert ran.code == 0, ran.err


def test_version_and_completion(scrfdconv):
    told = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # a CI has no shell above it
    assert scrfdconv("--version").out.startswith("scrfdconv 0.")
    assert "complete" in scrfdconv("--show-completion", "bash", **told).out.lower()


def test_help_lists_every_verb_and_the_exit_codes(scrfdconv):
    for arguments in ([], ["--help"]):
        ran = scrfdconv(*arguments)
        assert ran.code == 0
        for verb in ("onnx", "torchscript", "simplify", "verify", "inspect", "models"):
            assert verb in ran.out
        assert "Exit codes" in ran.out


def test_a_system_that_is_not_supported_is_said_at_start(monkeypatch, capsys):
    monkeypatch.setattr("scrfdconv.cli.main.SYSTEM", "nt")

    with pytest.raises(SystemExit) as ended:
        app(["models"])

    assert ended.value.code == 4
    assert "Windows is not supported" in capsys.readouterr().err
