"""The code uses no name of TensorRT that one of the versions lacks, and the fake is strict."""

from __future__ import annotations

import ast
import inspect
import sys

import pytest

from scrfdconv.converters.errors import MissingError
from scrfdconv.converters.formats.tensorrt import api as tensorrt_api
from scrfdconv.converters.formats.tensorrt import build as tensorrt_build
from scrfdconv.converters.formats.tensorrt import cancellation as tensorrt_cancellation
from scrfdconv.converters.formats.tensorrt import inspect as tensorrt_inspect
from scrfdconv.converters.formats.tensorrt import parser as tensorrt_parser
from scrfdconv.converters.formats.tensorrt import runner as tensorrt_runner

MODULES = (
    tensorrt_api,
    tensorrt_build,
    tensorrt_inspect,
    tensorrt_parser,
    tensorrt_cancellation,
    tensorrt_runner,
)
# What variables and attributes of these modules hold. Every attribute of theirs is looked up.
HOLD = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "parser_error": "ParserError",
    "shapes": "IOptimizationProfile",
    "cache": "ITimingCache",
    "measured": "ITimingCache",
    "others": "ITimingCache",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "context": "IExecutionContext",
    "_context": "IExecutionContext",
    "_runtime": "Runtime",
    "inspector": "EngineInspector",
    "typed_layer": "ILayer",
}
VERSIONS = ("10.3.0", "10.16.1.11", "11.4.0.106")
NOT_LISTED = ("__version__",)  # dunders are not in the lists; every version has it


def uses(module):
    """("class or module", name) for every use of TensorRT in the source of a module."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if not isinstance(node, ast.Attribute) or node.attr in NOT_LISTED:
            continue
        owner = node.value
        if isinstance(owner, ast.Name) and owner.id in ("trt", "dtypes"):
            yield ("tensorrt" if owner.id == "trt" else "DataType", node.attr)
        elif isinstance(owner, ast.Attribute) and owner.attr == "_trt":
            yield "tensorrt", node.attr
        elif isinstance(owner, ast.Attribute) and is_trt(owner.value):
            yield owner.attr, node.attr
        elif isinstance(owner, ast.Name) and owner.id in HOLD:
            yield HOLD[owner.id], node.attr
        elif isinstance(owner, ast.Attribute) and owner.attr in HOLD:
            yield HOLD[owner.attr], node.attr


def is_trt(node):
    return (isinstance(node, ast.Name) and node.id == "trt") or (
        isinstance(node, ast.Attribute) and node.attr == "_trt"
    )


@pytest.fixture(scope="module", params=VERSIONS)
def listed(request):
    strict = sys.modules["tensorrt_fake"].strict
    return strict.facts(request.param)


def test_every_name_is_in_the_lists_of_all_versions(listed):
    used = {use for module in MODULES for use in uses(module)}

    missing = [
        f"{owner}.{name}"
        for owner, name in sorted(used)
        if f"{owner}.{name}" not in tensorrt_api.RTX_ONLY
        and name not in (listed["names"] if owner == "tensorrt" else listed["classes"][owner])
    ]

    assert len(used) > 60
    assert missing == []


def test_guarded_names_are_in_the_newer_lists_and_not_in_the_oldest():
    facts = sys.modules["tensorrt_fake"].strict.facts
    for name in tensorrt_api.GUARDED:
        owner, _, member = name.partition(".")
        have = [member in facts(version)["classes"][owner] for version in VERSIONS]
        assert have == [False, True, True]


@pytest.mark.parametrize("name", ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"])
def test_no_precision_flag_is_used(name):
    used = {use for module in MODULES for use in uses(module)}

    assert ("BuilderFlag", name) not in used


def test_the_fake_raises_for_what_a_version_has_removed(machine):
    trt = machine.trt
    config = trt.Builder(tensorrt_api.log()).create_builder_config()

    if machine.major >= 11:
        with pytest.raises(AttributeError):
            _ = trt.BuilderFlag.FP16
        with pytest.raises(AttributeError):
            config.int8_calibrator = None
        with pytest.raises(AttributeError):
            _ = trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH
    else:
        assert trt.BuilderFlag.FP16.value == 0


def test_the_fake_raises_for_wrong_arguments(machine):
    trt = machine.trt
    builder = trt.Builder(tensorrt_api.log())
    config = builder.create_builder_config()

    for wrong in (
        lambda: builder.create_network(1, 2),
        lambda: builder.create_network(flag=1),
        lambda: config.set_flag(6),
        lambda: config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE),
        lambda: trt.Builder("a log"),
        trt.IBuilderConfig,
    ):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(AttributeError):
        config.max_workspace_size = 1
    with pytest.raises(AttributeError):
        _ = trt.Foo


def test_a_weakly_typed_network_would_be_fp32_and_the_fake_shows_it(machine, tiny_onnx):
    trt = machine.trt
    builder = trt.Builder(tensorrt_api.log())
    network = builder.create_network(
        1 << 1
    )  # a literal: strongly typed on 10, something else on 11

    assert network is not None
    assert (1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED.value == 1 << 1) == (
        machine.major == 10
    )


@pytest.mark.parametrize("version", ["8.6.1", "10.0.1", "10.2.0", "12.0.0"])
def test_versions_outside_of_10_3_to_11_are_refused(newest_machine, version):
    newest_machine.trt.__dict__["__version__"] = version

    with pytest.raises(MissingError, match=f"TensorRT {version} is installed; supported are 10.3"):
        tensorrt_api.tensorrt()


def test_one_log_serves_the_whole_process(machine):
    assert tensorrt_api.log() is tensorrt_api.log()
    machine.trt.Builder(tensorrt_api.log())
    machine.trt.Runtime(tensorrt_api.log())

    assert tensorrt_api.take_errors() == []


def test_the_driver_is_read_from_the_kernel_where_nvidia_smi_is_not(monkeypatch, tmp_path):
    kernel = tmp_path / "version"
    kernel.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22\n")
    monkeypatch.setattr(tensorrt_api.shutil, "which", lambda program: None)
    monkeypatch.setattr(tensorrt_api, "DRIVER_FILE", tmp_path / "absent")
    absent = tensorrt_api.driver_version()
    monkeypatch.setattr(tensorrt_api, "DRIVER_FILE", kernel)

    assert (absent, tensorrt_api.driver_version()) == (None, "550.54.14")
