"""Every reader on odd files: our own errors or success, within 20 s and 2 GiB, and nothing raw."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import hostile
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from mmdet_config import CONFIG

from scrfdconv.checks.results import CheckResult
from scrfdconv.cli import app
from scrfdconv.converters.artifact import digest_of
from scrfdconv.converters.network.architecture import Architecture, toml_from_architecture
from scrfdconv.converters.precision.int8.calibration import CalibrationTable
from scrfdconv.converters.precision.int8.conversion import Int8Settings
from scrfdconv.converters.structured import to_json
from scrfdconv.recipes.build.manifest import save_entries
from scrfdconv.recipes.int8.plan import Int8Plan

FEW, MANY = 12, 80  # files for each reader: in every run, and in the slow ones
# Readers with a process or a conversion of their own for each file: 0.1 to 1 s.
SLOW_READERS = {"ground truth": 2, "ONNX to simplify": 4, "MNN": 4, "OpenVINO": 6, "ncnn": 6}
MOST_KEPT, LONGEST = 8, 600  # wrong files of a reader, and characters of what came out of each
RECIPE = """
[checkpoints.tiny]
path = "tiny.pth"
[images]
test = ["pictures"]
[[targets]]
format = "onnx"
precision = ["fp32", "fp16"]
shape = [[64, 64], "dynamic"]
[targets.tolerance]
loosen = 2.0
reason = "a test"
"""
SIDECAR = {
    "tensorrt": "10.3.0", "gpu": "Tesla T4", "compute_capability": "7.5", "driver": "550.54",
    "precision": "fp16", "input": "input.1", "outputs": {"score_8": "score_8"},
    "profiles": [{"min": [1, 64, 64], "opt": [1, 64, 64], "max": [1, 64, 64]}],
    "shape": [1, 64, None], "convolutions": {"fp16": 3}, "plan_sha256": "0" * 64,
    "onnx_sha256": "0" * 64, "options": {"version_compatible": True}, "metadata": {"a": "b"},
    "scrfdconv": "0.2.0", "schema": 1,
}  # fmt: skip
NCNN = """7767517
2 2
Input            in0   0 1 in0 0=64 1=64 2=3
Convolution      c     1 1 in0 score_8 0=1 1=3 5=1 6=27
"""
RESULT = b"0_a\n2\n1 2 30 40 0.9\n5 6 10 12 0.25\n"
# Good files that do not give 0: a build with failures, a network of others, no SCRFD.
VERDICTS = {"report": 1, "mmdet config": 3, "ncnn": 3, "ncnn weights": 3}
STRATEGIES = {
    "checkpoint": hostile.odd_archive,
    "TorchScript": hostile.odd_archive,
    "ONNX": hostile.odd_onnx,
    "ONNX to simplify": hostile.odd_onnx,
    "mmdet config": hostile.odd_text,
    "network": hostile.odd_text,
    "recipe": hostile.odd_text,
    "result file": hostile.odd_text,
    "OpenVINO": hostile.odd_text,
    "ncnn": hostile.odd_text,
    "INT8 plan": hostile.odd_json,
    "calibration table": hostile.odd_json,
    "sidecar": hostile.odd_json,
    "manifest": hostile.odd_json,
    "report": hostile.odd_json,
}  # of the others, bytes


def run(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        app(list(map(str, arguments)))
    assert ended.value.code == 0, arguments


@pytest.fixture(scope="module")
def good(tmp_path_factory, tiny, tiny_pth, tiny_onnx, widerface, small_result):
    """A folder of good files, those that every reader starts from."""
    folder = tmp_path_factory.mktemp("good")
    shutil.copy(tiny_pth, folder / "tiny.pth")
    shutil.copy(tiny_pth, folder / "model.pth")
    shutil.copy(tiny_onnx, folder / "tiny.onnx")
    shutil.copy(tiny_onnx, folder / "model.onnx")
    event = widerface / "WIDER_val/images/0--Parade"
    shutil.copy(event / "0_a.jpg", folder / "photo.jpg")
    (folder / "pictures").mkdir()
    shutil.copy(event / "0_a.jpg", folder / "pictures/a.jpg")
    shutil.copy(widerface / "ground_truth/wider_hard_val.mat", folder / "truth.mat")
    (folder / "results/0--Parade").mkdir(parents=True)
    (folder / "results/0--Parade/0_a.txt").write_bytes(RESULT)
    (folder / "config.py").write_text(CONFIG)
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "model.engine").write_bytes(b"ftrt" + bytes(100))
    (folder / "model.engine.json").write_text(json.dumps(SIDECAR))
    (folder / "report.json").write_text(to_json(small_result))
    table = CalibrationTable("a", "b", 3, (64, 96), "minmax", {"x": (-0.1, 0.5)}, {"x": [0.7]})
    table.save(folder / "table.json")
    Int8Plan(Int8Settings(table, keep_float=("x",)), {"held": True}).save(folder / "plan.json")
    _make(folder, tiny.architecture)
    return folder


def _make(folder: Path, architecture: Architecture) -> None:
    """The files that only our own verbs and classes write."""
    size = ("--shape", 64, 64, "--no-verify")
    run("torchscript", folder / "tiny.pth", *size, "-o", folder / "model.pt")
    for verb, name, library in (("openvino", "model.xml", "openvino"), ("mnn", "model.mnn", "MNN")):
        if importlib.util.find_spec(library):
            run(verb, folder / "tiny.onnx", *size, "-o", folder / name)
    (folder / "small.param").write_text(NCNN)
    (folder / "small.bin").write_bytes(bytes(4 + 4 * 27 + 4))
    save_entries(folder / "manifest.json", "r", [_entry(folder / "tiny.onnx", architecture)])
    (folder / "net.toml").write_text(toml_from_architecture(architecture))


def _entry(path: Path, architecture: Architecture) -> dict[str, Any]:
    digest, size = digest_of(path), path.stat().st_size
    checkpoint = {
        "name": "tiny", "model": None, "seed": None, "sha256": "0" * 64,
        "weights_sha256": "0" * 64, "architecture": architecture,
    }  # fmt: skip
    check = CheckResult("parity", "score_8", "max_abs", 1e-6, 5e-5)
    return {
        "path": path.name, "files": [{"path": path.name, "sha256": digest, "size": size}],
        "sha256": digest, "size": size, "format": "onnx", "precision": "fp32",
        "checkpoint": checkpoint, "options": {"tolerance": {"loosen": 1.0}},
        "checks": [check.to_dict()],
    }  # fmt: skip


@pytest.fixture(scope="module")
def sandbox(good, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sandbox") / "files"
    shutil.copytree(good, folder)
    with hostile.Sandbox(folder) as one:
        yield one


@pytest.fixture
def restored(good, sandbox):
    """The files in the sandbox are the good ones again afterwards."""
    yield
    for reader in hostile.READERS.values():
        if (good / reader.file).exists():
            shutil.copy(good / reader.file, sandbox.folder / reader.file)


def seed_of(name: str, good: Path) -> bytes:
    path = good / hostile.READERS[name].file
    if not path.exists():
        pytest.skip(f"{path.name} cannot be made here")
    return path.read_bytes()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", hostile.READERS)
def test_the_good_file_is_read(name, good, sandbox):
    seed_of(name, good)

    outcome = sandbox.read(name)

    assert outcome.code == VERDICTS.get(name, 0), outcome
    assert outcome.ours, outcome


def read_odd_files(name: str, count: int, good: Path, sandbox: hostile.Sandbox) -> None:
    seed = seed_of(name, good)
    path = sandbox.folder / hostile.READERS[name].file
    wrong: dict[str, str] = {}  # kept file -> what came out

    @given(STRATEGIES.get(name, hostile.odd_bytes)(seed))
    @settings(
        max_examples=count, deadline=None, derandomize=True, database=None,
        phases=(Phase.generate,), suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def check(content: bytes) -> None:
        path.write_bytes(content)
        outcome = sandbox.read(name)
        if not outcome.ours and len(wrong) < MOST_KEPT:  # the search goes on: there may be more
            kept = path.with_name(f"wrong-{len(wrong)}-{path.name}")
            kept.write_bytes(content)
            wrong[str(kept)] = f"{outcome}"[:LONGEST]

    check()

    assert not wrong


@pytest.mark.sampled(3)
@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("name", hostile.READERS)
def test_an_odd_file_is_one_of_our_errors(name, good, sandbox):
    read_odd_files(name, SLOW_READERS.get(name, FEW), good, sandbox)


@pytest.mark.slow
@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("name", hostile.READERS)
def test_many_odd_files_are_our_errors(name, good, sandbox):
    share = SLOW_READERS.get(name, FEW) / FEW
    read_odd_files(name, int(MANY * share), good, sandbox)
