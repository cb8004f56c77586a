"""Seeded weights: alive, and the same everywhere."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from scrfdconv.checks.stimuli import STIMULI, stimulus
from scrfdconv.converters.checkpoint.loading import seeded_checkpoint
from scrfdconv.converters.formats.pytorch.runner import EagerRunner
from scrfdconv.converters.network import seeded
from scrfdconv.converters.network.architecture import BUILTIN


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", BUILTIN)
def test_scores_and_boxes_look_like_a_trained_nets(name):
    runner = EagerRunner(seeded_checkpoint(BUILTIN[name]))
    outputs = [runner.run(stimulus(kind, 192, 256, 0)[None]) for kind in STIMULI]

    scores = np.concatenate([v.ravel() for o in outputs for k, v in o.items() if "score" in k])
    boxes = np.concatenate([v.ravel() for o in outputs for k, v in o.items() if "bbox" in k])

    assert 0.001 < (scores > 0.5).mean() < 0.4, "some faces, and not everywhere"
    assert scores.min() > 1e-9, "not saturated"
    assert scores.std() > 0.02, "not dead"
    assert 0.5 < boxes.mean() < 5
    assert 0.3 < boxes.std() < 5


@pytest.mark.parametrize("name", ["scrfd_500m_kps", "scrfd_1g", "scrfd_10g"])
def test_norms_and_scales_are_not_trivial(name):
    weights = seeded_checkpoint(BUILTIN[name]).weights
    norms = [v for k, v in weights.items() if v.ndim == 1 and ".conv.bias" not in k]
    scales = [float(v) for k, v in weights.items() if k.endswith(".scale")]

    assert all(v.std() > 0 for v in norms), "a constant norm would be folded away unseen"
    assert all(0.8 <= s <= 2 and s != 1 for s in scales)


def test_seeds_differ_and_repeat(tiny):
    again = seeded.seeded_weights.__wrapped__(tiny.architecture, 0)
    other = seeded_checkpoint(tiny.architecture, 1)

    assert all(torch.equal(again[name], tensor) for name, tensor in tiny.weights.items())
    assert other.digest != tiny.digest
    assert other.name == "tiny-seeded1"


def test_drawing_leaves_the_callers_random_state_alone(tiny):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)

    seeded.seeded_weights.__wrapped__(tiny.architecture, 0)

    assert torch.rand(1) == expected


@pytest.mark.sampled(4)
@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("instructions", ["avx2", "default"])
def test_the_digest_does_not_depend_on_threads_or_instructions(threads, instructions, tiny):
    """Other processors sum in other orders; the coarse grid must swallow that."""
    code = (
        "from scrfdconv.converters.network.architecture import BUILTIN\n"
        "from scrfdconv.converters.checkpoint.loading import seeded_checkpoint\n"
        "print(seeded_checkpoint(BUILTIN['scrfd_500m_kps']).digest)"
    )
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "ATEN_CPU_CAPABILITY": instructions,
        "ONEDNN_MAX_CPU_ISA": "AVX2" if instructions == "avx2" else "DEFAULT",
    }

    digest = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)

    assert digest.strip() == seeded_checkpoint(BUILTIN["scrfd_500m_kps"]).digest
