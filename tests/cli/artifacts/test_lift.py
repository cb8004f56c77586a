"""From the ONNX file that people have back to a checkpoint, as they type it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from scrfdconv.converters.checkpoint.loading import load_checkpoint, seeded_checkpoint
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.graph.model_file import serialised
from scrfdconv.converters.network.architecture import BUILTIN

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "lift.md"


@pytest.fixture(scope="module")
def grouped_onnx(tiny_gn, tmp_path_factory) -> Path:
    """A GroupNorm head whose number of groups weights alone leave open."""
    path = tmp_path_factory.mktemp("grouped") / "grouped.onnx"
    path.write_bytes(serialised(onnx_from_checkpoint(tiny_gn, OnnxOptions(shape=(64, 96)))))
    return path


@pytest.mark.slow
def test_a_lifted_checkpoint_is_verified_and_loads_like_any_other(scrfdconv, tiny_onnx, tmp_path):
    ran = scrfdconv("lift", tiny_onnx)

    assert ran.code == 0, ran.err
    assert [p.name for p in tmp_path.iterdir()] == ["tiny_lifted.pth"]
    assert "weights convolutions relative: 0," in ran.out
    assert "checks passed" in ran.out
    assert "17 folded BatchNorms" in ran.err
    again = scrfdconv("onnx", "tiny_lifted.pth", "--json")
    assert again.code == 0, again.err
    assert scrfdconv("verify", "tiny_lifted.onnx", "--reference", tiny_onnx).code == 0


@pytest.mark.slow
def test_what_weights_leave_open_survives(scrfdconv, grouped_onnx, tiny_gn, tmp_path):
    ran = scrfdconv("lift", grouped_onnx, "--json", "-o", "out.pth")

    assert ran.code == 0, ran.err
    assert ran.json["architecture"]["head_groups"] == tiny_gn.architecture.head_groups
    assert ran.json["report"]["passed"] is True
    loaded = load_checkpoint(tmp_path / "out.pth")
    assert loaded.architecture.head_groups == tiny_gn.architecture.head_groups
    assert loaded.architecture.head_shared
    assert loaded.weights_digest == ran.json["weights_sha256"]


def test_the_same_file_gives_the_same_bytes_under_any_name(scrfdconv, grouped_onnx, tmp_path):
    assert scrfdconv("lift", grouped_onnx, "--no-verify", "-o", "a.pth").code == 0
    assert scrfdconv("lift", grouped_onnx, "--no-verify", "-o", "another.pth").code == 0

    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "another.pth").read_bytes()


def test_outputs_in_another_order_are_lifted_and_the_report_says_so(
    scrfdconv, grouped_onnx, tmp_path
):
    model = onnx.load(grouped_onnx)
    outputs = list(model.graph.output)[::-1]
    reordered = onnx.GraphProto(output=outputs)
    del model.graph.output[:]
    model.graph.output.extend(reordered.output)
    onnx.save(model, tmp_path / "reordered.onnx")

    ran = scrfdconv("lift", "reordered.onnx")

    assert ran.code == 0, ran.err
    assert "told by what makes them" in ran.out


def test_maps_as_outputs_are_lifted_and_compared_in_rows(scrfdconv, tiny_onnx, tmp_path):
    """As NPUs want them: what the last convolutions make, scores after their sigmoid."""
    model = onnx.load(tiny_onnx)
    makers = {node.output[0]: node for node in model.graph.node}
    gone = [node for node in model.graph.node if node.op_type in ("Transpose", "Reshape")]
    for node in model.graph.node:
        while (maker := makers.get(node.input[0])) in gone:
            node.input[0] = maker.input[0]
    names = []
    for value in model.graph.output:
        while makers[value.name] in gone:
            value.name = makers[value.name].input[0]
        names.append(value.name)
        value.type.tensor_type.ClearField("shape")
    for node in gone:
        model.graph.node.remove(node)
    onnx.save(model, tmp_path / "maps.onnx")

    ran = scrfdconv("lift", "maps.onnx")

    assert ran.code == 0, ran.err
    assert " ".join(names) in ran.out


def test_no_verify_says_so(scrfdconv, tiny_onnx):
    ran = scrfdconv("lift", tiny_onnx, "--no-verify")

    assert ran.code == 0
    assert "not verified" in ran.err


CASES = {
    "checkpoint": (["lift", "good.pth"], 3, "is of kind pytorch, expected onnx"),
    "missing": (["lift", "none.onnx"], 3, "no such file"),
    "no SCRFD": (["lift", "cut.onnx"], 3, "cannot be lifted: Conv '/backbone/stem/stem.0/Conv'"),
    "into itself": (["lift", "good.onnx", "-o", "good.onnx"], 2, "is the model itself"),
    "into no folder": (["lift", "good.onnx", "-o", "no/out.pth"], 2, "does not exist"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    case, scrfdconv, tiny_onnx, tiny_pth, tmp_path
):
    arguments, code, said = CASES[case]
    (tmp_path / "good.onnx").write_bytes(tiny_onnx.read_bytes())
    (tmp_path / "good.pth").write_bytes(tiny_pth.read_bytes())
    model = onnx.load(tiny_onnx)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(first.output[0], 1, None))
    onnx.save(model, tmp_path / "cut.onnx")
    before = sorted(p.name for p in tmp_path.iterdir())

    ran = scrfdconv(*arguments)

    assert ran.code == code, ran.err
    assert said in ran.sentence
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_lift_that_is_not_its_file_is_not_written(tiny_onnx, tmp_path, monkeypatch):
    from dataclasses import replace

    from scrfdconv.checks.verification import Demand
    from scrfdconv.converters.errors import CheckFailed
    from scrfdconv.recipes.artifacts import lift as recipe

    def wrong(path: Path, *said: object) -> recipe.Lifted:
        found = recipe_lifted_from(path, *said)
        weights = dict(found.checkpoint.weights)
        name = "neck.fpn_convs.1.conv.weight"
        weights[name] = weights[name] * 1.01
        return replace(found, checkpoint=replace(found.checkpoint, weights=weights))

    recipe_lifted_from = recipe.lifted_from
    monkeypatch.setattr(recipe, "lifted_from", wrong)
    out = tmp_path / "out.pth"
    out.write_bytes(b"older")

    with pytest.raises(CheckFailed, match="was not written"):
        recipe.lift(tiny_onnx, out, Demand())

    assert out.read_bytes() == b"older"
    assert [p.name for p in tmp_path.iterdir()] == ["out.pth"]


def test_an_architecture_in_meta_that_is_damaged_is_refused(scrfdconv, tiny, tmp_path):
    import torch

    meta = {"scrfdconv.architecture": "{}"}
    torch.save({"meta": meta, "state_dict": dict(tiny.weights)}, tmp_path / "bad.pth")

    ran = scrfdconv("inspect", "bad.pth")

    assert ran.code == 3, ran.err
    assert "bad.pth" in ran.sentence


@pytest.mark.slow
def test_norm_groups_overrule_the_architecture_in_meta(scrfdconv, grouped_onnx):
    assert scrfdconv("lift", grouped_onnx, "--no-verify").code == 0

    ran = scrfdconv("inspect", "grouped_lifted.pth", "--norm-groups", 2, "--json")

    assert ran.json["architecture"]["head_groups"] == 2


@pytest.mark.slow
def test_the_commands_of_the_document_are_true(tmp_path):
    """On a seeded network under the name of the released file."""
    checkpoint = seeded_checkpoint(BUILTIN["scrfd_500m_kps"])
    model = onnx_from_checkpoint(checkpoint, OnnxOptions(opset=11))
    (tmp_path / "det_10g.onnx").write_bytes(serialised(model))
    blocks = re.findall(r"```bash\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    variables = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    for command in commands:
        ran = subprocess.run(
            ["bash", "-ec", command], cwd=tmp_path, env=variables, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert ran.returncode == 0, (command, ran.stderr)
    assert len(commands) == 7


@pytest.mark.slow
def test_released_files_are_lifted_and_verified(scrfdconv, data):
    for path in sorted(data.glob("onnx/*.onnx")):
        ran = scrfdconv("lift", path, "--json")

        assert ran.code == 0, (path, ran.err)
        results = {(r["subject"], r["metric"]): r for r in ran.json["report"]["results"]}
        assert results["convolutions", "relative"]["measured"] == 0
        assert results["score_8", "max_abs"]["measured"] < 5e-6
