"""Every kind of network goes through every format that runs here, and comes out as itself."""

from __future__ import annotations

import pytest
from networks import NETWORKS

from scrfdconv.checks.verification import Demand
from scrfdconv.converters.checkpoint.loading import seeded_checkpoint
from scrfdconv.converters.formats import formats
from scrfdconv.recipes.artifacts.conversion import convert
from scrfdconv.recipes.artifacts.target import target_of
from scrfdconv.recipes.faces.pictures import synthetic_pictures

# What formats may stumble over when they reduce precision; each network goes through all formats
# that convert an ONNX.
CHOSEN = ("shared GroupNorm", "classes and anchors", "two keypoints", "distributions")
CASES = [
    (name, network, precision)
    for name, one in formats().items()
    if one.source  # not the reference itself
    for network in NETWORKS
    for precision in one.precisions
    if network in CHOSEN or (precision == "fp32" and one.source == "onnx")
]


@pytest.mark.sampled(17)
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_network_goes_through_a_format_and_is_verified(case, tmp_path):
    name, network, precision = case
    maker, source = formats()[name], seeded_checkpoint(NETWORKS[network])
    if missing := maker.why_not_built() or maker.why_not_run():
        pytest.skip(missing)
    side = 2 * source.architecture.size_multiple
    target = target_of(name, precision, {"shape": (side, 2 * side)})
    pictures = synthetic_pictures(tmp_path / "pictures") if precision == "int8" else ()

    made = convert(source, target, tmp_path / f"m{maker.suffix}", Demand(), images=tuple(pictures))

    assert made.report.passed
    compared = {r.subject for r in made.report.results if r.metric == "max_abs"}
    assert compared == set(source.architecture.output_names)
