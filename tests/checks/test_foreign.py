"""No right model is refused: what other tools make of several networks, under other names.

With the rearrangements of one network in test_judged.py, these are more right models than there are
planted faults.
"""

from __future__ import annotations

import functools

import onnx
import pytest
import rearranged
from faults import FAULTS
from networks import NETWORKS
from onnxconverter_common.float16 import convert_float_to_float16

from scrfdconv.checks import parity
from scrfdconv.checks.verification import Demand, verify
from scrfdconv.converters.checkpoint.loading import seeded_checkpoint
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint

HALVES = {
    f"FP16, {what} inputs and outputs": functools.partial(
        convert_float_to_float16, keep_io_types=kept, disable_shape_infer=True
    )
    for what, kept in (("float32", True), ("FP16", False))
}
EDITS = {
    **rearranged.SAME_WEIGHTS,
    **rearranged.OTHER_WEIGHTS,
    **rearranged.EITHER,
    **HALVES,
}
SOURCES = ("basic", "bottleneck", "many blocks", "classes and anchors")
CASES = [(network, edit) for network in SOURCES for edit in EDITS]


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    """The sizes of a fast comparison."""
    monkeypatch.setattr(parity, "DYNAMIC_SHAPES", ((1, 128, 160), (2, 96, 64)))


@functools.cache
def exported(network):
    """A network and its own export."""
    source = seeded_checkpoint(NETWORKS[network])
    return source, onnx_from_checkpoint(source, OnnxOptions()).SerializeToString()


def test_there_are_more_right_models_than_planted_faults():
    assert len(CASES) > len(FAULTS)
    assert len(CASES) >= 80


@pytest.mark.sampled(12)
@pytest.mark.parametrize("case", CASES, ids=", ".join)
def test_a_right_model_of_foreign_make_passes(case, tmp_path):
    network, edit = case
    source, content = exported(network)
    edited = EDITS[edit](onnx.load_from_string(content))
    foreign = rearranged.renamed(rearranged.bare(edited))
    onnx.save(foreign, tmp_path / "foreign.onnx")

    report = verify(source, tmp_path / "foreign.onnx", Demand())

    assert report.passed, report.summary()
