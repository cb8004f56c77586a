"""TorchScript: traced, frozen, and loadable by torch alone."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from environments import environment_with

from scrfdconv.checks.parity import compare, samples_for
from scrfdconv.checks.stimuli import stimuli
from scrfdconv.checks.verification import verify
from scrfdconv.converters.checkpoint.loading import seeded_checkpoint
from scrfdconv.converters.errors import ArtifactError, UsageError
from scrfdconv.converters.formats.pytorch.runner import EagerRunner
from scrfdconv.converters.formats.torchscript import TorchScript
from scrfdconv.converters.formats.torchscript.runner import TorchScriptRunner, without_deprecation
from scrfdconv.converters.network.architecture import BUILTIN
from scrfdconv.converters.options import SizeOptions


def made(checkpoint, tmp_path, **options):
    path = tmp_path / "model.pt"
    TorchScript().build(checkpoint, SizeOptions(**options), path, "fp32")
    return path


def failures(checkpoint, path):
    reference, artifact = EagerRunner(checkpoint), TorchScriptRunner(path)
    samples = samples_for(reference.interface, artifact.interface)
    return [r for r in compare(reference, artifact, samples) if not r.passed]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["scrfd_500m_kps", "scrfd_1g", "scrfd_2.5g"])
def test_a_traced_network_is_the_network_at_any_size_and_batch(name, tmp_path):
    checkpoint = seeded_checkpoint(BUILTIN[name])

    assert failures(checkpoint, made(checkpoint, tmp_path)) == []


def test_a_fixed_shape_refuses_every_other(tiny, tmp_path):
    path = made(tiny, tmp_path, shape=(64, 96), batch=2)
    runner = TorchScriptRunner(path)

    assert failures(tiny, path) == []
    assert (runner.interface.batch, runner.interface.shape) == (2, (64, 96))
    for shape in ((1, 64, 96), (2, 96, 64)):
        with pytest.raises(ArtifactError, match=r"must have the shape \[2, 3, 64, 96\]"):
            runner.run(stimuli(*shape, 0))


def test_a_fixed_shape_with_a_free_batch_refuses_other_sizes(tiny, tmp_path):
    runner = TorchScriptRunner(made(tiny, tmp_path, shape=(64, 96), batch=None))

    assert len(runner.run(stimuli(3, 64, 96, 0))["score_8"]) == 3
    with pytest.raises(ArtifactError, match=r"must have the shape \[any, 3, 64, 96\]"):
        runner.run(stimuli(1, 64, 64, 0))


CORE_ML = """
import sys
import coremltools
import torch

model = coremltools.convert(
    torch.jit.load(sys.argv[1]),
    inputs=[coremltools.TensorType(name="input_1", shape=(1, 3, 64, 96))],
    convert_to="mlprogram",
)
for output in model.get_spec().description.output:
    print(*output.type.multiArrayType.shape)
"""


@pytest.mark.slow
def test_core_mls_converter_reads_fixed_and_dynamic_files(tiny, tmp_path):
    """Only macOS runs the result: what is compared are the outputs that the converter infers."""
    # Without dependencies: torch stays as it is. The others are what coremltools 9 lacks here.
    packages = ("coremltools", "cattrs", "attrs", "pyaml", "pyyaml", "typing_extensions")
    python = environment_with(tmp_path / "environment", "--no-deps", *packages)
    expected = [
        list(value.shape) for value in EagerRunner(tiny).run(stimuli(1, 64, 96, 0)).values()
    ]

    for options in ({"shape": (64, 96)}, {}):
        path = made(tiny, tmp_path, **options)
        done = subprocess.run(
            [python, "-c", CORE_ML, path], capture_output=True, text=True, check=False
        )

        assert done.returncode == 0, done.stderr
        assert [
            [int(size) for size in line.split()] for line in done.stdout.splitlines()
        ] == expected


def test_a_fixed_model_of_any_size_costs_no_memory_to_make(tiny, tmp_path):
    """The image alone would have 49 GB."""
    path = made(tiny, tmp_path, shape=(64_000, 64_000))

    assert TorchScriptRunner(path).interface.shape == (64_000, 64_000)


def test_a_shape_off_the_grid_is_refused(tiny, tmp_path):
    with pytest.raises(UsageError):
        TorchScript().build(tiny, SizeOptions(shape=(650, 490)), tmp_path / "t.pt", "fp32")


def test_it_loads_where_only_torch_is(tiny, tmp_path):
    path = made(tiny, tmp_path)
    code = (
        "import sys, torch\n"
        "sys.modules.update(dict.fromkeys(['scrfdconv', 'onnx', 'numpy.linalg.no'], None))\n"
        f"files = {{'scrfdconv.json': ''}}\n"
        f"model = torch.jit.load({str(path)!r}, _extra_files=files)\n"
        "print(len(model(torch.zeros(1, 3, 64, 96))), files['scrfdconv.json'].decode())\n"
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    count, _, text = said.stdout.partition(" ")
    assert int(count) == 9
    assert json.loads(text)["outputs"] == " ".join(tiny.architecture.output_names)


def test_the_metadata_gives_the_outputs_their_names(tiny, tmp_path):
    runner = TorchScriptRunner(made(tiny, tmp_path))

    assert runner.interface.outputs == tiny.architecture.output_names
    assert runner.metadata["source_sha256"] == tiny.digest


def test_a_foreign_module_is_matched_by_position(tiny, tmp_path):
    path = tmp_path / "foreign.pt"
    with without_deprecation():
        torch.jit.save(torch.jit.trace(tiny.model(), torch.zeros(2, 3, 64, 96)), path)

    assert failures(tiny, path) == []


def test_a_foreign_module_that_is_no_scrfd_is_refused(tmp_path):
    path = tmp_path / "relu.pt"
    with without_deprecation():
        torch.jit.save(torch.jit.script(torch.nn.ReLU()), path)

    with pytest.raises(ArtifactError):
        TorchScriptRunner(path)


def test_users_see_no_deprecation_warning(tiny, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TorchScriptRunner(made(tiny, tmp_path)).run(np.zeros((1, 3, 64, 64)))


@pytest.mark.slow
def test_the_bytes_repeat_in_a_fresh_process(tmp_path):
    code = (
        "import hashlib\n"
        "from scrfdconv.converters.checkpoint.loading import load_source\n"
        "from scrfdconv.converters.formats.torchscript.tracing import *\n"
        "made = torchscript_from_checkpoint(load_source('scrfd_500m_kps'), SizeOptions())\n"
        "print(hashlib.sha256(made).hexdigest())"
    )
    first, second = (subprocess.check_output([sys.executable, "-c", code]) for _ in range(2))

    assert first == second


def test_one_weight_changed_by_one_percent_fails(tiny, tmp_path):
    """A small one, which no output shows: weights are compared at rest, as those of ONNX are."""
    name = "backbone.layer4.0.conv1.weight"
    changed = {key: tensor.clone() for key, tensor in tiny.weights.items()}
    flat = changed[name].view(-1)
    flat[flat.abs().argmin()] *= 1.01
    path = made(replace(tiny, weights=changed), tmp_path)

    assert {result.check for result in verify(tiny, path).failures} == {"weights"}


def test_a_traced_module_that_was_not_frozen_is_compared_too(tiny, tmp_path):
    path = tmp_path / "foreign.pt"
    with without_deprecation():
        torch.jit.save(torch.jit.trace(tiny.model(), torch.zeros(2, 3, 64, 96)), path)

    report = verify(tiny, path)

    assert report.passed, report.summary()
    assert "weights" in {result.check for result in report.results}


def test_nothing_of_this_machine_is_in_the_file(tiny, tmp_path):
    """torch writes the source path of every operator beside the code."""
    here = str(Path(torch.__file__).parent).encode()

    with zipfile.ZipFile(made(tiny, tmp_path)) as archive:
        assert not [name for name in archive.namelist() if here in archive.read(name)]
