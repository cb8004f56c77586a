"""The verb doctor: what is here, what is missing, and why."""

from __future__ import annotations

import json

import pytest

from scrfdconv.cli import app
from scrfdconv.converters.formats import formats
from scrfdconv.recipes import doctor


@pytest.fixture
def examined(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            app(["doctor", *arguments])
        return ended.value.code, capsys.readouterr().out

    return run


def states(facts, name):
    return {r["precision"]: r["state"] for r in facts["formats"] if r["format"] == name}


def test_without_gpu_and_tensorrt_engines_are_blocked_with_the_reason(examined, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)

    code, out = examined("--json")

    facts = json.loads(out)
    assert code == 0
    assert set(states(facts, "tensorrt").values()) == {"blocked"}
    assert states(facts, "onnx")["fp32"] == "available"
    assert facts["gpu"]["tensorrt"] is None
    assert any("tensorrt is not installed" in reason for reason in facts["gpu"]["missing"])


def test_driver_gpu_and_version_are_named_where_they_are(machine, examined):
    _, out = examined("--json")

    gpu = json.loads(out)["gpu"]
    assert gpu["name"] == "Fake RTX"
    assert gpu["compute_capability"] == "8.6"
    assert gpu["tensorrt"] == machine.version
    assert gpu["missing"] == []
    assert states(json.loads(out), "tensorrt")["fp32"] == "available"


def test_people_get_lines(examined):
    code, out = examined()

    assert code == 0
    for word in ("system", "processor", "threads", "memory", "driver", "TensorRT", "available"):
        assert word in out


def test_processor_flags_are_read(monkeypatch, tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("model name\t: Some CPU\nflags\t\t: avx2 avx512f avx512_vnni\n")
    monkeypatch.setattr("scrfdconv.converters.system.machine.CPU_INFO", info)

    cpu = doctor._cpu()

    assert cpu["model"] == "Some CPU"
    assert cpu["features"]["VNNI"] is True
    assert cpu["features"]["BF16"] is False


def test_run_verifies_for_real_and_a_failure_is_exit_code_1(examined, monkeypatch, tiny):
    monkeypatch.setattr("scrfdconv.converters.checkpoint.loading.load_source", lambda source: tiny)
    few = {name: formats()[name] for name in ("torchscript", "pytorch")}
    monkeypatch.setattr(doctor, "formats", lambda: few)
    good, out = examined("--run", "--json")
    failed = doctor.Capability("torchscript", "fp32", "failed", "x")
    monkeypatch.setattr(doctor, "_tried", lambda one, precision: failed)
    bad, _ = examined("--run", "--json")

    assert (good, bad) == (0, 1)
    assert {row["state"] for row in json.loads(out)["formats"]} == {"verified"}
