"""A planted fault changes what it is named for and nothing else, or tests of it prove nothing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from faults import FAULTS, OF_THE_INPUT, dead_cast, dead_dequantize, plant, weights_noisy

from scrfdconv.checks.stimuli import stimuli
from scrfdconv.converters.graph.onnx_runner import OnnxRunner

CUT_OFF = "cut off"  # does nothing where no score is that high


@pytest.fixture(scope="module")
def model(tiny_onnx):
    return onnx.load(tiny_onnx)


def outputs_of(model, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return OnnxRunner(path).run(stimuli(1, 64, 96, 0))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_changes_the_outputs_that_it_names(fault, model, tmp_path):
    right = outputs_of(model, tmp_path)

    wrong = outputs_of(plant(model, fault), tmp_path)

    changed = {name for name in right if not np.allclose(right[name], wrong[name], atol=1e-6)}
    assert {name: value.shape for name, value in wrong.items()} == {
        name: value.shape for name, value in right.items()
    }
    if CUT_OFF in fault.name:
        assert changed <= set(fault.touches)
    else:
        assert changed == set(fault.touches or right)


def test_every_fault_has_its_own_name():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) > 80
    assert len(OF_THE_INPUT) == 3


@pytest.mark.parametrize("fault", [dead_dequantize(), dead_cast()], ids=str)
def test_dead_nodes_change_no_output(fault, model, tmp_path):
    right = outputs_of(model, tmp_path)

    wrong = outputs_of(plant(model, fault), tmp_path)

    assert all(np.array_equal(right[name], wrong[name]) for name in right)


def test_noise_on_weights_changes_every_output(model, tmp_path):
    right = outputs_of(model, tmp_path)

    wrong = outputs_of(plant(model, weights_noisy(0.01)), tmp_path)

    assert not any(np.allclose(right[name], wrong[name], atol=1e-6) for name in right)
