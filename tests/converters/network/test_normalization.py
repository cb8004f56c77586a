"""How pictures become a network's input."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from scrfdconv.checks.faces.images import letterbox, network_input, normalise
from scrfdconv.converters.errors import ArtifactError, UsageError
from scrfdconv.converters.metadata import architecture_from_metadata
from scrfdconv.converters.network.architecture import (
    BUILTIN,
    architecture_from_toml,
    toml_from_architecture,
)
from scrfdconv.converters.network.preprocessing import metadata_of_pictures, stated_in
from scrfdconv.converters.normalization import (
    STANDARD,
    Normalization,
    NormalizationOptions,
)

IMAGENET = Normalization((103.53, 116.28, 123.675), (57.375, 57.12, 58.395), "bgr")
PICTURE = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)


@pytest.mark.parametrize("normalization", [STANDARD, IMAGENET, Normalization(std=(1, 1, 1))])
def test_every_value_is_that_of_the_formula(normalization):
    pixels = PICTURE.astype(np.float64)
    ordered = pixels if normalization.color == "bgr" else pixels[..., ::-1]
    wanted = (ordered - normalization.mean) / normalization.std

    (planes,) = normalise(PICTURE, normalization)

    np.testing.assert_allclose(planes, wanted.transpose(2, 0, 1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("normalization", [STANDARD, IMAGENET])
def test_padding_is_black_before_the_normalisation(normalization):
    planes, _ = network_input([PICTURE], (64, 96), normalization)

    assert np.array_equal(planes, normalise(letterbox(PICTURE, (64, 96))[0], normalization))
    assert set(planes[0, :, -1, -1]) == set(normalization.table[:, 0])


def test_seeded_pictures_are_fed_as_the_network_wants_them():
    unit = np.array([-127.5, 0, 127.5]).reshape(1, 3, 1, 1) / 128  # R, G, B: black, grey, white

    fed = IMAGENET.of_unit(unit).ravel()

    mean, std = np.array(IMAGENET.mean), np.array(IMAGENET.std)
    np.testing.assert_allclose(fed, ([255, 127.5, 0] - mean) / std)
    assert STANDARD.of_unit(unit) is unit
    assert STANDARD.range == (-1, 1)
    assert Normalization(std=(1, 1, 1)).range == (-128, 128)


def test_metadata_and_tables_read_back():
    architecture = replace(BUILTIN["scrfd_500m"], normalization=IMAGENET)
    said = {
        "architecture": json.dumps(architecture.to_dict()),
        **metadata_of_pictures(IMAGENET),
    }

    assert stated_in(said) == IMAGENET
    assert stated_in({}) is None
    assert architecture_from_metadata(said) == architecture


def test_a_toml_file_of_an_architecture_has_its_normalisation(tmp_path):
    architecture = replace(BUILTIN["scrfd_500m"], normalization=IMAGENET)
    path = tmp_path / "scrfd_500m.toml"
    path.write_text(toml_from_architecture(architecture))

    assert architecture_from_toml(path) == architecture


def test_metadata_that_contradict_each_other_are_an_error():
    said = {
        "architecture": json.dumps(BUILTIN["scrfd_500m"].to_dict()),
        **metadata_of_pictures(IMAGENET),
    }

    with pytest.raises(ArtifactError, match=r"contradict each other.*BGR.*RGB"):
        architecture_from_metadata(said)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"color": "RGB", "mean": 1, "std": 0}',
             '{"color": "grey", "mean": 1, "std": 1}',
             '{"color": "RGB", "mean": [1, 2], "std": 1}'],
)  # fmt: skip
def test_damaged_metadata_are_an_error(text):
    with pytest.raises(ArtifactError, match="preprocessing are damaged"):
        stated_in({"preprocessing": text})


# ---------------------------------------------------------------- options


def test_options_count_where_nothing_is_stated():
    said = NormalizationOptions.read("103.53,116.28,123.675", "1", "bgr")

    assert said.over(None, "here") == Normalization(IMAGENET.mean, (1, 1, 1), "bgr")
    assert NormalizationOptions.read(None, "1", None).over(None, "") == Normalization(std=(1, 1, 1))
    assert NormalizationOptions().over(None, "here") is None
    assert NormalizationOptions.read("127.5", "128", "rgb").over(STANDARD, "here") == STANDARD


def test_a_contradiction_names_both():
    with pytest.raises(UsageError, match=r"--std 1 contradicts x\.pth, which says std 128"):
        NormalizationOptions.read(None, "1", None).over(STANDARD, "x.pth")


@pytest.mark.parametrize(
    "texts", [("a", None, None), ("1,2", None, None), (None, "0", None), (None, "-1,1,1", None),
              (None, "nan", None), ("1e9", None, None), (None, None, "grey")],
)  # fmt: skip
def test_impossible_options_are_refused(texts):
    with pytest.raises(UsageError, match=r"--(mean|std|color)"):
        NormalizationOptions.read(*texts)
