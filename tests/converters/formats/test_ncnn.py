"""ncnn: a text and its weights that are the network, and nothing else passes."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from faults import caught

from scrfdconv.checks.stimuli import stimuli
from scrfdconv.checks.verification import verify
from scrfdconv.converters.artifact import digest_of
from scrfdconv.converters.checkpoint.loading import seeded_checkpoint
from scrfdconv.converters.errors import ArtifactError, InputFileError, MissingError, UsageError
from scrfdconv.converters.formats import format_of, formats, open_artifact
from scrfdconv.converters.formats.ncnn.reading import half_weights, read_network, weights_name
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.network.architecture import BUILTIN
from scrfdconv.converters.options import NoOptions, SizeOptions

pytest.importorskip("ncnn", reason="the ncnn extra is not installed")
pytest.importorskip("pnnx", reason="the ncnn extra is not installed")


def made(checkpoint, out, precision="fp32", **options):
    """The ncnn network of a checkpoint."""
    graph = formats()["onnx"].convert(
        checkpoint, out.with_suffix(".onnx"), OnnxOptions(**options), None
    )
    formats()["ncnn"].build(graph, NoOptions(), out, precision)
    return out


@pytest.fixture(scope="module")
def tiny_param(tiny, tmp_path_factory):
    return made(tiny, tmp_path_factory.mktemp("ncnn") / "tiny.param")


@pytest.fixture(scope="module")
def small_param(tiny, tmp_path_factory):
    """Of a fixed shape: what is verified at one small size shows a fault as well, and sooner."""
    return made(tiny, tmp_path_factory.mktemp("ncnn") / "small.param", shape=(64, 96))


def copied(param, folder):
    """``param`` and its weights under the same names in ``folder``."""
    for path in (param, param.with_suffix(".bin")):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / param.name


def edited(param, old, new):
    text = param.read_text("utf-8")
    changed = re.sub(old, new, text, count=1, flags=re.MULTILINE)
    assert changed != text
    param.write_text(changed, "utf-8")


def resigned(param):
    """Let the text name the weights that lie beside it now: the fault is all that is wrong."""
    name = weights_name(digest_of(param.with_suffix(".bin")))
    edited(param, weights_name("[0-9a-f]{64}"), name)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_network_is_its_checkpoint_at_five_sizes(precision, tiny, tmp_path):
    param = made(tiny, tmp_path / "tiny.param", precision)

    report = verify(tiny, param)

    assert report.passed, report.summary()
    assert open_artifact(param).precision == formats()["ncnn"].precision_of(param) == precision
    assert len(open_artifact(param).interface.measured_at) == 5
    assert any(r.check == "weights" and r.metric == "relative" for r in report.results)


@pytest.mark.parametrize("options", [{}, {"shape": (64, 96)}])
def test_group_norm_is_carried(options, tiny_gn, tmp_path):
    assert verify(tiny_gn, made(tiny_gn, tmp_path / "gn.param", **options)).passed


def test_a_norm_with_a_group_for_each_channel_is_carried(tiny_gn, tmp_path):
    """Simplifiers write the two means of such a norm as one."""
    architecture = replace(tiny_gn.architecture, head_groups=tiny_gn.architecture.head_channels[0])
    checkpoint = seeded_checkpoint(architecture)

    assert verify(checkpoint, made(checkpoint, tmp_path / "m.param", shape=(64, 96))).passed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scrfd_500m", "scrfd_2.5g_kps", "scrfd_10g"])
def test_known_networks_are_carried(name, tmp_path):
    checkpoint = seeded_checkpoint(BUILTIN[name])

    assert verify(checkpoint, made(checkpoint, tmp_path / "m.param")).passed


def test_apps_find_the_blobs_under_our_names(tiny, small_param):
    network = read_network(small_param)

    assert network.inputs[0].outputs == ("input.1",)
    assert set(network.output_names) == set(tiny.architecture.output_names)
    assert open_artifact(small_param).interface.outputs == tiny.architecture.output_names


def test_reshapes_of_dynamic_networks_are_read_by_old_libraries(tiny_param):
    reshapes = [layer for layer in read_network(tiny_param).layers if layer.kind == "Reshape"]

    assert [dict(layer.parameters)[1] for layer in reshapes] == ["-1"] * 9


def test_nothing_else_is_left_on_the_disk(tiny_param):
    names = sorted(path.name for path in tiny_param.parent.iterdir())

    assert names == ["tiny.bin", "tiny.onnx", "tiny.param"]


def test_a_fixed_size_stands_in_the_input_layer(small_param):
    runner = open_artifact(small_param)

    assert runner.interface.shape == (64, 96)
    assert not runner.interface.accepts(1, 96, 64)


def test_a_batch_is_refused_before_anything_is_exported():
    sizes = SizeOptions(shape=(64, 96), batch=2)

    with pytest.raises(UsageError, match="one picture at a time"):
        formats()["ncnn"].require_possible(None, NoOptions(), sizes)


def test_the_same_graph_gives_the_same_bytes(tiny, small_param, tmp_path):
    again = made(tiny, tmp_path / "small.param", shape=(64, 96))

    for suffix in (".param", ".bin"):
        assert (
            again.with_suffix(suffix).read_bytes() == small_param.with_suffix(suffix).read_bytes()
        )


def test_float32_stays_float32_and_half_is_half_as_large(tiny, small_param, tmp_path):
    half = made(tiny, tmp_path / "half.param", "fp16", shape=(64, 96))
    sizes = [path.with_suffix(".bin").stat().st_size for path in (small_param, half)]

    assert 1.8 < sizes[0] / sizes[1] < 2.1


def test_weights_beyond_float16_are_refused_in_half(small_param):
    network = read_network(small_param)
    name = next(layer.name for layer in network.layers if layer.kind == "Convolution")
    weight, *rest = network.weights[name]
    huge = {**network.weights, name: (weight * np.float32(1e6), *rest)}

    with pytest.raises(ArtifactError, match="beyond float16"):
        half_weights(replace(network, weights=huge))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda param, bin_: bin_.unlink(), "put small.bin beside it"),
        (lambda param, bin_: bin_.write_bytes(bin_.read_bytes()[:-4]), "another build"),
        (lambda param, bin_: bin_.write_bytes(bin_.read_bytes() + b"1234"), "another build"),
        (lambda param, bin_: param.write_bytes(param.read_bytes()[:900]), "is damaged"),
        (lambda param, bin_: edited(param, r"^\d+ \d+$", "-1 7"), "is damaged: line 2"),
        (lambda param, bin_: edited(param, r"^Sigmoid .*$", "Sigmoid s 1 1 a"), "describes no"),
        (lambda param, bin_: edited(param, r"^(Sigmoid +\S+ +1 1) \S+", r"\1 no"), "not connected"),
        (lambda param, bin_: edited(param, r" 6=\d+", " 6=-324"), "too short"),
        (lambda param, bin_: edited(param, r" 6=\d+", " 6=99999999999"), "parameter 6"),
        (lambda param, bin_: edited(param, "^Sigmoid ", "Mystery "), "cannot load"),
    ],
)
def test_damaged_files_are_one_sentence(damage, message, small_param, tmp_path):
    param = copied(small_param, tmp_path)
    damage(param, param.with_suffix(".bin"))

    with pytest.raises(InputFileError, match=message) as caught:
        open_artifact(param)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rest", [-4, 4])
def test_weights_of_another_length_are_told_without_a_signature(rest, small_param, tmp_path):
    param = copied(small_param, tmp_path)
    content = param.with_suffix(".bin").read_bytes()
    param.with_suffix(".bin").write_bytes(content[:rest] if rest < 0 else content + bytes(rest))
    edited(param, weights_name("[0-9a-f]{64}"), "input")

    with pytest.raises(ArtifactError, match=r"is too short|no layer of the \.param reads"):
        open_artifact(param)


def test_a_layer_that_makes_the_library_crash_is_told(small_param, tmp_path):
    param = copied(small_param, tmp_path)
    edited(param, r" 11=3 12=1 13=2", " 11=3 12=1 13=-7000")

    with pytest.raises(ArtifactError):
        open_artifact(param).run(stimuli(1, 64, 96, 0))


def test_without_the_library_the_pip_line_is_told(small_param, monkeypatch):
    monkeypatch.setitem(sys.modules, "ncnn", None)

    with pytest.raises(MissingError, match=r"pip install 'scrfdconv\[ncnn\]'"):
        open_artifact(small_param)


def test_weights_alone_name_their_text(small_param):
    with pytest.raises(InputFileError, match=r"belongs to small\.param"):
        format_of(small_param.with_suffix(".bin"))


# ---------------------------------------------------------------- planted faults


def test_the_network_without_a_fault_passes(tiny, small_param):
    assert not caught(tiny, small_param)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("place", range(0, 24, 2))
def test_one_weight_that_is_one_percent_off_is_caught(place, tiny, small_param, tmp_path):
    param = copied(small_param, tmp_path)
    network = read_network(param)
    arrays = [arrays[0] for arrays in network.weights.values() if arrays]
    content = bytearray(param.with_suffix(".bin").read_bytes())
    value = np.sort(np.abs(arrays[place % len(arrays)]))[arrays[place % len(arrays)].size // 2]
    at = max(content.find(np.float32(sign * value).tobytes()) for sign in (1, -1))
    content[at : at + 4] = np.float32(
        np.frombuffer(content[at : at + 4], np.float32)[0] * np.float32(1.01)
    ).tobytes()
    param.with_suffix(".bin").write_bytes(content)
    resigned(param)

    assert caught(tiny, param)


@pytest.mark.parametrize("kind", ["score", "bbox", "kps"])
def test_outputs_under_exchanged_names_are_caught(kind, tiny, small_param, tmp_path):
    param = copied(small_param, tmp_path)
    for old, new in ((f"{kind}_8", "other"), (f"{kind}_16", f"{kind}_8"), ("other", f"{kind}_16")):
        edited(param, rf" {old}( |$)", rf" {new}\1")

    assert caught(tiny, param)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("score_8", "score_4"),
        ("^Sigmoid ", "TanH "),
        ("^Sigmoid ", "ReLU "),
        (r"^(Pooling .*) 0=0 ", r"\1 0=1 "),
        (r"^(Interp .*) 0=1 ", r"\1 0=2 "),
        (r"^(BinaryOp .*) 0=0", r"\1 0=2"),
        (r"^(Convolution .*) 9=1", r"\1"),
        (r"^(Convolution .*) 4=1 ", r"\1 4=0 "),
        (r"^(Convolution .*) 3=2 ", r"\1 3=1 "),
        (r"^(Permute .*) 0=3", r"\1 0=5"),
    ],
)
def test_a_text_that_was_edited_is_caught(old, new, tiny, small_param, tmp_path):
    param = copied(small_param, tmp_path)
    edited(param, old, new)

    assert caught(tiny, param)
