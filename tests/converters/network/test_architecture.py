"""The table of networks, and recipe files."""

from __future__ import annotations

from pathlib import Path

import pytest

from scrfdconv.converters.checkpoint.recognise import parameter_shapes
from scrfdconv.converters.errors import InputFileError, UsageError
from scrfdconv.converters.network.architecture import (
    BUILTIN,
    PUBLISHED,
    named_architecture,
    require_shape,
    toml_from_architecture,
)
from scrfdconv.converters.network.complexity import complexity, counted

# Counted on upstream's own networks: parameters, state_dict entries, FLOPs by the published rule.
COUNTS = {
    "scrfd_500m": (572_741, 214, 0.5087),
    "scrfd_1g": (635_565, 190, 0.9823),
    "scrfd_2.5g": (671_761, 226, 2.5306),
    "scrfd_10g": (3_860_225, 217, 9.9821),
    "scrfd_34g": (9_802_737, 850, 34.1369),
    "scrfd_500m_kps": (631_410, 285, 0.5841),
    "scrfd_2.5g_kps": (819_809, 270, 2.6049),
    "scrfd_10g_kps": (4_229_905, 276, 10.0760),
    "scrfd_1gbn": (679_313, 258, 0.9863),
    "scrfd_1.3g": (435_253, 226, 1.2884),
}


def test_the_ten_networks_are_the_known_ones():
    assert list(BUILTIN) == list(COUNTS)
    assert len(PUBLISHED) == 8


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_keys_and_flops_are_those_of_upstream(name):
    parameters, keys, gflops = COUNTS[name]
    cost = counted(BUILTIN[name])
    counters = sum(key.endswith("running_mean") for key in parameter_shapes(BUILTIN[name]))
    integral = 1

    assert cost == complexity(BUILTIN[name])  # the table's
    assert cost.parameters == parameters
    assert len(parameter_shapes(BUILTIN[name])) + counters + integral == keys
    assert round(cost.flops / 1e9, 4) == gflops


@pytest.mark.parametrize("name", [n for n in PUBLISHED if n != "scrfd_500m_kps"])
def test_published_parameters_are_the_computed_ones_rounded(name):
    assert round(COUNTS[name][0] / 1e6, 2) == PUBLISHED[name].params


def test_the_one_wrong_published_row_says_so():
    assert [name for name, row in PUBLISHED.items() if row.note] == ["scrfd_500m_kps"]
    assert round(COUNTS["scrfd_500m_kps"][0] / 1e6, 2) != PUBLISHED["scrfd_500m_kps"].params


@pytest.mark.parametrize("name", BUILTIN)
def test_a_printed_recipe_reads_back_as_the_same_network(name, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(toml_from_architecture(BUILTIN[name]))

    assert named_architecture(str(path)) == BUILTIN[name]


def test_a_recipe_states_only_what_differs_from_its_base(tmp_path):
    path = tmp_path / "gnkps.toml"
    path.write_text('[architecture]\nbase = "SCRFD_10G_BNKPS"\nhead_groups = 16\n')

    made = named_architecture(str(path))

    assert (made.name, made.head_groups, made.keypoints) == ("gnkps", 16, 5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[architecture", "is not TOML"),
        ("[model]\n", "has no [architecture] table"),
        ('[architecture]\nbase = "scrfd_11g"\n', "base 'scrfd_11g'"),
        ('[architecture]\nbase = "scrfd_10g"\nnecks = 3\n', "unknown key 'necks'; known are base"),
        (
            '[architecture]\nbase = "scrfd_10g"\nanchors = true\n',
            "$.anchors: expected int, got bool",
        ),
        ('[architecture]\nbase = "scrfd_10g"\nhead_groups = 7\n', "head_groups must divide"),
        ('[architecture]\nbase = "scrfd_10g"\nstrides = [8, 24]\n', "strides must start"),
        ('[architecture]\nblock = "basic"\n', "missing key stem_channels"),
        (
            '[architecture]\nbase = "scrfd_10g"\nblock = "conv"\n',
            "$.block: not one of the known values: 'conv'",
        ),
    ],
)
def test_a_bad_recipe_is_refused_by_place_and_reason(text, said, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(text)

    with pytest.raises(InputFileError) as error:
        named_architecture(str(path))

    assert str(path) in str(error.value)
    assert said in str(error.value)


def test_an_unknown_recipe_lists_the_known_models():
    with pytest.raises(UsageError, match="known: scrfd_500m, scrfd_1g"):
        named_architecture("scrfd_3g")


@pytest.mark.parametrize(
    ("shape", "multiple", "said"),
    [
        ((650, 490), 32, "height 650 (nearest: 640 or 672) and width 490 (nearest: 480 or 512)"),
        ((0, 640), 32, "height 0 (nearest: 32)"),
        ((640, -32), 32, "width -32 (nearest: 32)"),
        ((640, 640 + 32), 128, "width 672 (nearest: 640 or 768)"),
    ],
)
def test_a_shape_off_the_grid_is_refused_with_the_two_nearest(shape, multiple, said):
    with pytest.raises(UsageError) as error:
        require_shape(shape, multiple)

    assert said in str(error.value)


def test_outputs_come_as_scores_boxes_keypoints_from_fine_to_coarse():
    assert BUILTIN["scrfd_500m_kps"].output_names == (
        "score_8", "score_16", "score_32", "bbox_8", "bbox_16", "bbox_32", "kps_8", "kps_16",
        "kps_32",
    )  # fmt: skip
    assert BUILTIN["scrfd_500m"].rows(640, 640) | {} == {
        "score_8": 12800, "score_16": 3200, "score_32": 800,
        "bbox_8": 12800, "bbox_16": 3200, "bbox_32": 800,
    }  # fmt: skip


def test_a_missing_recipe_file_is_an_input_error(tmp_path):
    with pytest.raises(InputFileError, match="no such file"):
        named_architecture(str(Path(tmp_path, "none.toml")))
