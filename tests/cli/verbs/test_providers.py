"""Execution providers of ONNX Runtime, asked for by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import onnxruntime
import pytest
from environments import environment_with

from scrfdconv.converters.formats import formats

# Part of every package of ONNX Runtime, and computes nothing of a detector.
IDLE = "AzureExecutionProvider"


@pytest.fixture(scope="session")
def tiny_pt(tiny, tmp_path_factory):
    made = formats()["torchscript"]
    path = tmp_path_factory.mktemp("pt") / "tiny.pt"
    made.build(tiny, made.options(), path, "fp32")
    return path


@pytest.mark.parametrize(
    ("verb", "model", "provider", "code", "says"),
    [
        ("detect", "ONNX", "cuda", 4, "and not CUDA; install the onnxruntime package"),
        ("detect", "ONNX", "CUDAExecutionProvider", 4, "and not CUDA"),
        ("detect", "ONNX", "cudda", 2, "no such execution provider; the installed ONNX Runtime"),
        ("detect", "PTH", "cpu", 2, "torch runs checkpoints; --provider is for ONNX"),
        ("detect", "PT", "cpu", 2, "is TorchScript, whose runtime has no --provider"),
        ("bench", "PTH", "cpu", 2, "none of the models is ONNX"),
        ("bench", "ONNX", "cuda", 4, "and not CUDA"),
    ],
)
def test_a_provider_that_is_not_there_gets_one_sentence(
    verb, model, provider, code, says, in_process, tiny_onnx, tiny_pth, tiny_pt, tmp_path
):
    file = {"ONNX": tiny_onnx, "PTH": tiny_pth, "PT": tiny_pt}[model]
    more = [tmp_path] if verb == "detect" else ["--shape", 64, 64]

    ran = in_process(verb, file, *more, "--provider", provider)

    assert ran.code == code, ran.err
    assert says in ran.sentence


@pytest.mark.skipif(
    IDLE not in onnxruntime.get_available_providers(), reason=f"no {IDLE} in this ONNX Runtime"
)
def test_a_provider_that_leaves_all_to_the_cpu_is_an_error(in_process, tiny_onnx, tmp_path):
    ran = in_process("detect", tiny_onnx, tmp_path, "--provider", "azure")

    assert ran.code == 4
    assert "Azure leaves the whole model to the CPU" in ran.sentence


def test_the_cpu_is_a_provider_too(in_process, tiny_onnx):
    ran = in_process("bench", tiny_onnx, "--provider", "cpu", "--shape", 64, 64, "--runs", 1,
                     "--json")  # fmt: skip

    assert ran.code == 0, ran.err
    assert [row["model"] for row in ran.json["models"]] == [
        str(tiny_onnx), f"{tiny_onnx} on cpu"
    ]  # fmt: skip


def test_scores_of_files_use_no_provider(in_process, tmp_path):
    ran = in_process("eval", "--results", tmp_path, "--ground-truth", tmp_path, "--provider", "cpu")

    assert ran.code == 2
    assert "--provider is for MODEL --widerface only" in ran.err


@pytest.fixture(scope="session")
def with_openvino(tmp_path_factory):
    """OpenVINO's build of ONNX Runtime in the place of ours: 84 MB, nothing else is fetched."""
    folder = tmp_path_factory.mktemp("onnxruntime-openvino")
    return environment_with(folder, "--no-deps", "onnxruntime-openvino")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PyPI has onnxruntime-openvino for Linux")
def test_openvino_runs_an_onnx_as_a_provider(with_openvino, data):
    model = data / "onnx" / "det_500m.onnx"
    command = [with_openvino, "-m", "scrfdconv.cli", "bench", model, "--provider", "openvino",
               "--images", data / "images" / "test", "--runs", "3", "--json"]  # fmt: skip

    ran = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env=os.environ
    )

    assert ran.returncode == 0, ran.stderr
    cpu, provider = json.loads(ran.stdout)["models"]
    assert provider["model"] == f"{model} on openvino"
    assert cpu["faces_lost"] == provider["faces_lost"] == provider["faces_extra"] == 0
    assert provider["reference_faces"] > 100
    assert provider["peak_memory_bytes"] > 1.2 * cpu["peak_memory_bytes"]  # OpenVINO is loaded
