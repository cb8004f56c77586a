"""TensorRT for RTX, which builds engines without a GPU, and its parser, which checks any ONNX.

The package has 230 MB and is no part of the development environment: these tests skip without it,
and a slow test runs them in an environment of their own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from environments import environment_with
from networks import NETWORKS

from scrfdconv.converters.checkpoint.loading import seeded_checkpoint
from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.formats import formats
from scrfdconv.converters.formats.tensorrt import api
from scrfdconv.converters.formats.tensorrt.parser import parser_lint, typed_network
from scrfdconv.converters.formats.tensorrt.sidecar import read_sidecar
from scrfdconv.converters.formats.tensorrt_rtx import TensorRTRtx, TensorRTRtxOptions
from scrfdconv.converters.network.architecture import BUILTIN
from scrfdconv.recipes.artifacts.conversion import convert
from scrfdconv.recipes.artifacts.target import target_of
from scrfdconv.recipes.faces.pictures import synthetic_pictures

ROOT = Path(__file__).resolve().parents[3]
with_rtx = pytest.mark.skipif(
    not api.RTX.is_installed, reason="TensorRT for RTX is not installed: pip install tensorrt-rtx"
)
without_gpu = pytest.mark.skipif(
    api.driver_version() is not None, reason="what is measured without a GPU"
)


@pytest.mark.slow
@pytest.mark.skipif(api.RTX.is_installed, reason="it is installed here")
def test_all_of_these_tests_in_an_environment_of_their_own(tmp_path):
    python = environment_with(tmp_path / "rtx", "tensorrt-rtx")

    ran = subprocess.run(
        [python, "-m", "pytest", "-n", "0", "-q", __file__], check=False, cwd=ROOT,
        capture_output=True, text=True,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stdout
    assert "passed" in ran.stdout
    assert "not installed" not in ran.stdout


@pytest.mark.skipif(api.RTX.is_installed, reason="the package is here")
def test_without_the_package_the_pip_line_is_given(in_process, tiny_pth):
    ran = in_process("tensorrt-rtx", tiny_pth)

    assert ran.code == 4
    assert "pip install 'scrfdconv[tensorrt-rtx]'" in ran.sentence


@pytest.mark.skipif(api.RTX.is_installed, reason="the parser is here")
def test_without_the_parser_a_plan_says_that_rules_alone_judged(in_process, tiny_pth, tmp_path):
    ran = in_process("tensorrt", tiny_pth, "--plan-only", "--shape", 64, 64, cwd=tmp_path)

    assert ran.code == 0, ran.err
    assert "judged by rules alone: NVIDIA's own parser" in ran.out


@with_rtx
@without_gpu
@pytest.mark.parametrize("shape", [(), ("--shape", 64, 96)], ids=["dynamic", "fixed"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_is_built_and_never_called_verified(
    shape, precision, in_process, tiny_pth, tmp_path
):
    out = tmp_path / "m.engine"

    ran = in_process("tensorrt-rtx", tiny_pth, *shape, "--precision", precision, "-o", out,
                     "--json")  # fmt: skip

    assert ran.code == 0, ran.err
    assert ran.json["verified"] is False
    assert "needs an NVIDIA GPU" in ran.json["not_run"]
    assert "WARNING: not run, no output was compared" in ran.err
    measured = {(r["check"], r["metric"]): r for r in ran.json["report"]["results"]}
    assert measured["parser", f"convolutions in {precision}"]["measured"] > 10
    assert measured["engine, not run", "size differs"]["measured"] == 0
    assert ("parity", "max_abs") in measured  # of the graph
    sidecar = read_sidecar(out)
    assert (sidecar.gpu, sidecar.precision) == ("any", precision)
    assert bool(sidecar.profiles) is not bool(shape)


@with_rtx
@without_gpu
def test_an_engine_that_cannot_run_here_is_described_and_not_opened(in_process, tiny_pth, tmp_path):
    out = tmp_path / "m.engine"
    made = in_process("tensorrt-rtx", tiny_pth, "--shape", 64, 64, "-o", out,
                      "--compute-capability", "7.5")  # fmt: skip
    assert made.code == 0, made.err

    said, detected = in_process("inspect", out), in_process("detect", out, tmp_path)

    assert "kind: tensorrt-rtx" in said.out
    assert "compute_capability: 7.5" in said.out
    assert detected.code == 4


@with_rtx
def test_other_compute_capabilities_are_refused(in_process, tiny_pth):
    ran = in_process("tensorrt-rtx", tiny_pth, "--compute-capability", "9.9")

    assert ran.code == 2
    assert "builds for 7.5, 8.0" in ran.sentence


@with_rtx
@pytest.mark.parametrize("fault", ["empty", "another"])
def test_an_empty_engine_and_one_of_another_size_fail(fault, tiny_onnx, tmp_path):
    source = formats()["onnx"].artifact_at(tiny_onnx)
    maker, options = TensorRTRtx(), TensorRTRtxOptions()
    engine = tmp_path / "m.engine"
    maker.build(source, options, engine, "fp32")
    sound = list(maker.findings_unrun(engine, source, options))
    assert all(finding.passed for finding in sound)

    content = b"vtrt" if fault == "empty" else engine.read_bytes() + b"\0"
    engine.write_bytes(content)

    failed = {f.metric for f in maker.findings_unrun(engine, source, options) if not f.passed}
    assert failed == ({"bytes", "size differs"} if fault == "empty" else {"size differs"})


@with_rtx
def test_what_the_parser_refuses_is_a_failed_check(tiny_onnx, tmp_path):
    model = onnx.load(tiny_onnx)
    activation = next(node for node in model.graph.node if node.op_type == "Relu")
    activation.op_type = "NoSuchOperator"
    path = tmp_path / "strange.onnx"
    onnx.save(model, path)

    (finding,) = parser_lint(path).findings

    assert not finding.passed
    assert "NoSuchOperator" in finding.detail
    with pytest.raises(ArtifactError, match="does not take this ONNX"):
        typed_network(path.read_bytes())


@pytest.mark.slow
@with_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", BUILTIN)
def test_every_known_network_is_taken_in_its_precision(name, precision, tmp_path):
    out = tmp_path / "m.onnx"
    convert(seeded_checkpoint(BUILTIN[name]), target_of("onnx", precision, {}), out, None)

    lint = parser_lint(out)

    assert all(finding.passed for finding in lint.findings)
    assert {f"convolutions in {precision}", "faults"} <= {f.metric for f in lint.findings}


OPSETS = (11, 13, 17, 20)
# Every kind of small network, each in one opset, and all opsets by turns.
TURNS = [(name, OPSETS[place % len(OPSETS)]) for place, name in enumerate(NETWORKS)]


@pytest.mark.slow
@with_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("case", TURNS, ids=lambda case: " ".join(map(str, case)))
def test_every_kind_of_network_is_taken_in_every_precision(case, precision, tmp_path):
    name, opset = case
    source = seeded_checkpoint(NETWORKS[name])
    pictures = tuple(synthetic_pictures(tmp_path / "pictures")) if precision == "int8" else ()
    side = 2 * source.architecture.size_multiple
    values = {"opset": opset}
    values |= {"target": "tensorrt", "calibration_size": (side, side)} if pictures else {}
    for at, shape in enumerate([(side, 2 * side), None]):
        out = tmp_path / f"{at}.onnx"
        if pictures and shape:
            values["calibration_size"] = shape
        target = target_of("onnx", precision, {**values, "shape": shape})
        convert(source, target, out, None, images=pictures)

        lint = parser_lint(out)

        assert all(f.passed for f in lint.findings), [f for f in lint.findings if not f.passed]
        assert f"convolutions in {precision}" in {f.metric for f in lint.findings}


@with_rtx
def test_a_plan_says_what_the_parser_measured(in_process, tiny_pth, tmp_path):
    ran = in_process("tensorrt", tiny_pth, "--plan-only", "--shape", 64, 64, cwd=tmp_path)

    assert ran.code == 0, ran.err
    assert "takes this file: " in ran.out
    assert "rules alone" not in ran.out


@with_rtx
def test_int8_for_tensorrt_is_measured_by_the_parser(in_process, tiny_pth, tmp_path):
    pictures = tmp_path / "pictures"
    synthetic_pictures(pictures)

    ran = in_process("int8", tiny_pth, "--shape", 64, 64, "--target", "tensorrt", "--images",
                     pictures, "--json", cwd=tmp_path)  # fmt: skip

    assert ran.code in (0, 1), ran.err  # a seeded network finds no faces to judge by
    report = ran.json.get("report") or ran.json["details"]
    measured = {r["metric"]: r for r in report["results"] if r["check"] == "parser"}
    assert measured["faults"]["measured"] == 0
    assert measured["convolutions in int8"]["measured"] > 0


def test_the_verb_has_no_options_that_its_builder_lacks(in_process):
    said = in_process("tensorrt-rtx", "--help").out

    assert "--compute-capability" in said
    for missing in ("--timing-cache", "--strip-plan", "--refit", "--plan-only"):
        assert missing not in said
    assert sys.modules.get("tensorrt_rtx") is None or api.RTX.is_installed
