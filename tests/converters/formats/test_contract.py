"""What every format promises, tested on each one that is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from scrfdconv.cli.artifacts.verbs import making_verbs
from scrfdconv.converters.errors import (
    ArtifactError,
    CheckFailed,
    InputFileError,
    OutputError,
    ScrfdconvError,
)
from scrfdconv.converters.formats import Format, format_of, formats, open_artifact
from scrfdconv.converters.options import SizeOptions, option_fields
from scrfdconv.converters.precision import precisions
from scrfdconv.recipes.artifacts.conversion import convert
from scrfdconv.recipes.artifacts.target import target_of
from scrfdconv.recipes.build.plan import artifact_name
from scrfdconv.recipes.build.recipe import CheckpointEntry
from scrfdconv.recipes.build.template import recipe_text

HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "cv2", "openvino", "ncnn", "MNN", "tensorrt")
KERNEL_RANK = 4
SUBNORMAL = 2.0**-14  # float16 holds smaller numbers with fewer than 11 bits
MADE = [name for name, one in formats().items() if one.source is not None]


@pytest.fixture(params=MADE)
def made_format(request):
    """A format that is built from another one."""
    return formats()[request.param]


@pytest.fixture
def buildable(made_format):
    """The same, where this machine can build it."""
    if missing := made_format.why_not_built():
        pytest.skip(missing)
    return made_format


@pytest.fixture(params=[name for name in MADE if "fp16" in formats()[name].native_precisions])
def halving(request):
    """A format that halves weights by itself, where this machine can build it."""
    if missing := formats()[request.param].why_not_built():
        pytest.skip(missing)
    return formats()[request.param]


@pytest.fixture
def artifact(buildable, tiny, tmp_path):
    """An artifact of the format, of a fixed shape."""
    target = target_of(buildable.name, "fp32", {"shape": (64, 64)})
    return convert(tiny, target, tmp_path / f"a{buildable.suffix}", None).artifact


def test_one_format_is_the_reference():
    assert [one.name for one in formats().values() if one.source is None] == ["pytorch"]


def test_declarations_load_no_library():
    code = (
        "import sys\n"
        "from scrfdconv.cli.artifacts.verbs import making_verbs\n"
        "making_verbs()\n"
        f"sys.exit(str([m for m in {HEAVY!r} if m in sys.modules] or 0))"
    )

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ran.stderr.strip() in ("", "0")


def test_a_declaration_says_what_others_derive_from_it(made_format):
    assert made_format.title
    assert made_format.summary.strip().endswith(".")
    assert all(suffix.startswith(".") for suffix in made_format.suffixes)
    assert set(made_format.precisions) <= set(precisions())
    assert set(made_format.native_precisions) <= set(made_format.precisions)
    assert made_format.libraries
    assert isinstance(made_format.chain()[0].options(), SizeOptions)
    for kind in {one.options for one in made_format.chain()}:
        assert all(field.option.help for field in option_fields(kind))


def test_a_format_is_a_verb_a_key_of_recipes_and_a_part_of_new_ones(made_format):
    verbs = making_verbs()
    entry = CheckpointEntry("a", model="scrfd_500m")

    assert made_format in {verb.format for verb in verbs.values()}
    assert f'"{made_format.name}"' in recipe_text([], Path("r.toml"))
    for precision in made_format.precisions:
        name = artifact_name(entry, target_of(made_format.name, precision, {}))
        assert name.endswith(made_format.suffix)


@pytest.mark.sampled(2)
def test_an_artifact_may_have_any_name(buildable, tiny, tmp_path):
    path = tmp_path / "deployed.model"

    convert(tiny, target_of(buildable.name, "fp32", {"shape": (64, 64)}), path, None)

    assert format_of(path) is buildable
    assert sorted(tmp_path.iterdir()) == sorted({path, *buildable.companions(path)})


def test_all_files_are_there_and_the_artifact_runs(artifact, buildable):
    assert all(path.is_file() and path.stat().st_size for path in artifact.files)
    assert artifact.path.suffix == buildable.suffix
    assert format_of(artifact.path) is buildable
    assert buildable.artifact_at(artifact.path).digest == artifact.digest
    if not buildable.why_not_run():
        runner = open_artifact(artifact.path)
        outputs = runner.run(np.zeros((1, 3, 64, 64), np.float32))
        assert tuple(outputs) == runner.interface.outputs


def test_half_weights_are_the_nearest_ones(halving, small_onnx, tmp_path):
    """Converters cut bits off (MNN) or let small weights vanish (pnnx): errors with a side."""
    model = onnx.load(small_onnx)
    weights = next(t for t in model.graph.initializer if len(t.dims) == KERNEL_RANK)
    values = onnx.numpy_helper.to_array(weights) * np.float32(SUBNORMAL)
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    onnx.save(model, tmp_path / "m.onnx")
    source = formats()["onnx"].artifact_at(tmp_path / "m.onnx")
    whole, half = (
        [
            convolution.weight
            for convolution in halving.convolutions(
                halving.convert(
                    source, tmp_path / f"{precision}{halving.suffix}", halving.options(), None,
                    precision,
                ).path
            )
        ]
        for precision in ("fp32", "fp16")
    )  # fmt: skip

    assert any((np.abs(w) < SUBNORMAL).all() for w in whole)
    for a, b in zip(whole, half, strict=True):
        np.testing.assert_array_equal(b, a.astype(np.float16).astype(np.float32))


def test_any_changed_byte_changes_the_digest(artifact, buildable):
    for path in artifact.files:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

        assert buildable.artifact_at(artifact.path).digest != artifact.digest

        path.write_bytes(content)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_cut_file_is_an_error_of_ours_or_fails_to_open(artifact, buildable, keep):
    if buildable.why_not_run():
        pytest.skip(buildable.why_not_run())
    for path in artifact.files:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])

        with pytest.raises((ArtifactError, InputFileError)):
            open_artifact(artifact.path).run(np.zeros((1, 3, 64, 64), np.float32))

        path.write_bytes(content)


def test_a_failed_verification_leaves_nothing_and_what_was_there(buildable, tiny, tmp_path):
    def refuse(part: Path) -> None:
        raise CheckFailed("no")

    out = tmp_path / f"a{buildable.suffix}"
    old = (out, *buildable.companions(out))
    for path in old:
        path.write_bytes(b"old")
    source = tiny
    for one in buildable.chain()[:-1]:
        source = one.convert(source, tmp_path / f"b{one.suffix}", one.options(), None)
    options = buildable.settled_options(source, buildable.options())

    with pytest.raises(CheckFailed):
        buildable.convert(source, out, options, refuse)

    assert [path.read_bytes() for path in old] == [b"old"] * len(old)
    assert {path.name for path in tmp_path.iterdir()} <= {path.name for path in old} | {
        f"b{suffix}" for one in buildable.chain()[:-1] for suffix in one.suffixes
    }


def test_no_artifact_is_written_over_its_source(buildable, tiny, tmp_path):
    source = tiny
    for one in buildable.chain()[:-1]:
        source = one.convert(source, tmp_path / f"b{one.suffix}", one.options(), None)
    if source is tiny:
        pytest.skip("built from a checkpoint that has no file here")

    with pytest.raises(OutputError):
        buildable.convert(source, source.path, buildable.options(), None)


def test_the_same_input_gives_the_same_bytes(artifact, buildable, tiny, tmp_path):
    if not buildable.reproducible or buildable.fresh_process:
        pytest.skip("its bytes depend on the machine, or on what the process did before")
    target = target_of(buildable.name, "fp32", {"shape": (64, 64)})
    folder = tmp_path / "other"
    folder.mkdir()

    again = convert(tiny, target, folder / artifact.path.name, None).artifact

    assert again.digest == artifact.digest


def test_errors_of_missing_libraries_name_the_remedy(made_format, monkeypatch):
    monkeypatch.setattr(type(made_format), "modules", ("surely_not_installed_anywhere",))

    said = Format.why_not_built(made_format)

    assert "surely_not_installed_anywhere" in said
    assert "pip install" in said


def test_every_error_of_a_format_is_one_of_ours(made_format, tmp_path):
    path = tmp_path / f"a{made_format.suffix}"
    path.write_bytes(b"neither this nor that" * 10)

    with pytest.raises(ScrfdconvError):
        made_format.open(path)
