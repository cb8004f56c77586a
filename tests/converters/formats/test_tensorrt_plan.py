"""Profiles, plans and the trtexec command line: all that needs neither GPU nor TensorRT."""

from __future__ import annotations

import json
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats import formats
from scrfdconv.converters.formats.tensorrt import TensorRTOptions
from scrfdconv.converters.formats.tensorrt.engine_file import engine_plan
from scrfdconv.converters.formats.tensorrt.plan import (
    build_script,
    facts_of,
    plan_for,
    trtexec_arguments,
)
from scrfdconv.converters.formats.tensorrt.profile import Profile, profiles_for
from scrfdconv.converters.graph.model_file import load_onnx

FREE = (None, None, None)
SMALL = TensorRTOptions(min=("1x64x64",), opt=("1x64x96",), max=("3x96x128",))


def test_the_default_profile_reaches_from_320_to_four_hd_frames():
    (profile,) = profiles_for(FREE, 32, (), (), ())

    assert profile == Profile((1, 320, 320), (1, 640, 640), (4, 1280, 1280))


@pytest.mark.parametrize(
    ("memory", "largest"),
    [(10**9, (4, 1280, 1280)), (5 * 10**6, (2, 1280, 1280)), (1, (1, 640, 640))],
)
def test_the_default_profile_keeps_to_the_memory(memory, largest):
    (profile,) = profiles_for(FREE, 32, (), (), (), bytes_per_pixel=1.0, memory=memory)

    assert profile.max == largest


def test_the_default_profile_keeps_to_axes_that_are_fixed_and_to_coarse_strides():
    (fixed,) = profiles_for((None, 480, 640), 32, (), (), ())
    (coarse,) = profiles_for(FREE, 128, (), (), ())

    assert fixed == Profile((1, 480, 640), (1, 480, 640), (4, 480, 640))
    assert coarse.min == (1, 384, 384)


def test_a_fixed_model_has_no_profile_and_takes_none():
    assert profiles_for((1, 640, 640), 32, (), (), ()) == ()
    with pytest.raises(UsageError, match="takes 1x640x640 alone"):
        profiles_for((1, 640, 640), 32, ("1x64x64",), ("1x64x64",), ("1x64x64",))


@pytest.mark.parametrize(
    ("low", "best", "high", "said"),
    [
        ("1x64", "1x64x64", "1x64x64", "NxHxW"),
        ("-1x64x64", "1x64x64", "1x64x64", "NxHxW"),
        ("0x64x64", "1x64x64", "1x64x64", "at least one image"),
        ("1x64x64", "1x80x64", "1x96x64", "80 is not a multiple of 32; the nearest are 64 and 96"),
        ("1x64x64", "1x128x64", "1x96x64", "height must not shrink"),
        ("2x64x64", "1x64x64", "1x64x64", "batch must not shrink"),
        ("1x64x64", "1x64x64", "2x64x96", "batch is fixed to 1"),
    ],
)
def test_profiles_that_cannot_be_are_refused(low, best, high, said):
    model = (1, None, None) if "fixed" in said else FREE

    with pytest.raises(UsageError, match=said):
        profiles_for(model, 32, (low,), (best,), (high,))


def test_a_profile_is_one_of_each():
    with pytest.raises(UsageError, match="given are 2, 1 and 2"):
        profiles_for(FREE, 32, ("1x64x64",) * 2, ("1x64x64",), ("1x64x64",) * 2)


@pytest.mark.parametrize("wrong", [{"hardware": "all"}, {"level": 6}, {"level": -1}])
def test_options_that_do_not_exist_are_refused(wrong):
    with pytest.raises(UsageError):
        TensorRTOptions(**wrong)


@pytest.fixture
def plan(tiny_onnx):
    return lambda options: engine_plan(formats()["onnx"].artifact_at(tiny_onnx), options)


def test_a_plan_says_what_would_be_built(plan, tiny_onnx):
    made = plan(SMALL)

    content = json.loads(json.dumps(made.to_dict()))

    assert content["onnx_sha256"] == formats()["onnx"].artifact_at(tiny_onnx).digest
    assert content["profiles"] == [{"min": [1, 64, 64], "opt": [1, 64, 96], "max": [3, 96, 128]}]
    assert content["precision"] == "fp32"


def test_trtexec_gets_the_same_profiles_and_flags(plan):
    options = replace(
        SMALL, workspace=2048, timing_cache=Path("a.cache"), level=5, version_compatible=True,
        hardware="same-compute-capability", refit=True, strip_plan=True,
    )  # fmt: skip

    arguments = trtexec_arguments(plan(options), "m.onnx", "m.engine")

    assert arguments == [
        "--onnx=m.onnx", "--saveEngine=m.engine", "--skipInference",
        "--minShapes=input.1:1x3x64x64", "--optShapes=input.1:1x3x64x96",
        "--maxShapes=input.1:3x3x96x128", "--profilingVerbosity=detailed", "--noTF32",
        "--memPoolSize=workspace:2048", "--timingCacheFile=a.cache",
        "--builderOptimizationLevel=5", "--versionCompatible",
        "--hardwareCompatibilityLevel=sameComputeCapability", "--refit",
        "--stripWeights",
    ]  # fmt: skip


def test_trtexec_keeps_tf32_only_if_asked_for(plan):
    assert "--noTF32" not in trtexec_arguments(plan(replace(SMALL, tf32=True)), "m", "e")


def test_several_profiles_are_numbered_for_trtexec(plan):
    options = TensorRTOptions(
        min=("1x64x64", "4x64x64"), opt=("1x64x64", "4x64x64"), max=("1x96x96", "8x64x64")
    )

    arguments = trtexec_arguments(plan(options), "m.onnx", "m.engine")

    assert arguments[3:9:4] == ["--profile=0", "--profile=1"]
    assert arguments[8] == "--minShapes=input.1:4x3x64x64"


@pytest.mark.parametrize("knows", [True, False])
def test_the_script_runs_trtexec_strongly_typed_where_it_must_be_said(
    plan, tiny_onnx, tmp_path, knows
):
    (tmp_path / "it's m.onnx").write_bytes(tiny_onnx.read_bytes())
    script, trtexec = tmp_path / "build_engine.sh", tmp_path / "trtexec"
    script.write_text(build_script(plan(SMALL), "it's m.onnx", "it's m.engine"))
    option = "--stronglyTyped" if knows else "--nothing"
    trtexec.write_text(
        f'#!/bin/sh\nif [ "$1" = --help ]; then echo "  {option}  ..."; exit 0; fi\n'
        'for a in "$@"; do echo "$a"; done\n'
    )
    trtexec.chmod(trtexec.stat().st_mode | stat.S_IXUSR)

    done = subprocess.run(
        ["sh", str(script)], capture_output=True, text=True, cwd="/",
        env={"TRTEXEC": str(trtexec), "PATH": "/usr/bin:/bin"}, check=False,
    )  # fmt: skip

    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0] == "it's m.onnx: OK"
    assert ("--stronglyTyped" in lines) == knows
    assert "--saveEngine=it's m.engine" in lines
    assert "--minShapes=input.1:1x3x64x64" in lines


def test_the_script_refuses_another_onnx(plan, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"another")
    script = tmp_path / "build_engine.sh"
    script.write_text(build_script(plan(SMALL), "m.onnx", "m.engine"))

    done = subprocess.run(["sh", str(script)], capture_output=True, text=True, check=False)

    assert done.returncode != 0
    assert "trtexec" not in done.stdout


def test_an_onnx_that_only_stores_halves_is_refused(tiny_onnx):
    facts = facts_of(load_onnx(tiny_onnx), tiny_onnx)
    stored = replace(facts, precision="fp16")

    with pytest.raises(UsageError, match="none of its convolutions computes in it"):
        plan_for(stored, "0" * 64, TensorRTOptions())
