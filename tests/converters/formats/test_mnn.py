"""MNN: one file that is the network, and nothing else passes."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from faults import OF_ANY_MODEL, caught, plant

from scrfdconv.checks.stimuli import stimuli
from scrfdconv.checks.verification import verify
from scrfdconv.converters.checkpoint.loading import seeded_checkpoint
from scrfdconv.converters.errors import ArtifactError, InputFileError, MissingError
from scrfdconv.converters.formats import format_of, formats, open_artifact
from scrfdconv.converters.formats.mnn.reading import read_network, with_own_uuid
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.network.architecture import BUILTIN
from scrfdconv.converters.options import NoOptions
from scrfdconv.converters.system.machine import usable_cores

pytest.importorskip("_mnncengine", reason="the mnn extra is not installed")


def made(graph, out, precision="fp32"):
    """The MNN model of the ONNX file ``graph``."""
    formats()["mnn"].build(formats()["onnx"].artifact_at(graph), NoOptions(), out, precision)
    return out


@pytest.fixture(scope="module")
def small_mnn(small_onnx, tmp_path_factory):
    return made(small_onnx, tmp_path_factory.mktemp("mnn") / "small.mnn")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_model_is_its_checkpoint_at_any_size_and_batch(precision, tiny, tiny_onnx, tmp_path):
    path = made(tiny_onnx, tmp_path / "tiny.mnn", precision)

    report = verify(tiny, path)

    assert report.passed, report.summary()
    assert open_artifact(path).precision == formats()["mnn"].precision_of(path) == precision
    compared = any(r.check == "weights" and r.metric == "relative" for r in report.results)
    assert compared == (precision != "int8")


def test_group_norm_is_carried(tiny_gn, tmp_path):
    options = OnnxOptions(shape=(64, 96))
    graph = formats()["onnx"].convert(tiny_gn, tmp_path / "gn.onnx", options, None).path

    assert verify(tiny_gn, made(graph, tmp_path / "gn.mnn")).passed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scrfd_500m", "scrfd_2.5g_kps", "scrfd_10g"])
def test_known_networks_are_carried(name, tmp_path):
    checkpoint = seeded_checkpoint(BUILTIN[name])
    graph = formats()["onnx"].convert(checkpoint, tmp_path / "m.onnx", OnnxOptions(), None).path

    assert verify(checkpoint, made(graph, tmp_path / "m.mnn")).passed


def test_names_and_metadata_are_those_of_the_graph(tiny, small_mnn):
    runner = open_artifact(small_mnn)

    assert runner.interface.outputs == tiny.architecture.output_names
    assert runner.metadata["weights_sha256"] == tiny.weights_digest
    assert runner.interface.shape == (64, 96)
    assert runner.interface.batch == 1


@pytest.mark.parametrize(("asked", "used"), [(None, usable_cores()), (1, 1)])
def test_a_model_uses_all_cores_unless_asked_for_fewer(asked, used, small_mnn, monkeypatch):
    import MNN

    create, seen = MNN.nn.create_runtime_manager, []

    def watched(settings):
        seen.extend(one["numThread"] for one in settings)
        return create(settings)

    monkeypatch.setattr(MNN.nn, "create_runtime_manager", watched)
    open_artifact(small_mnn, asked)

    assert seen == [used]


def test_the_same_graph_gives_the_same_bytes(small_onnx, small_mnn, tmp_path):
    again = made(small_onnx, tmp_path / "again.mnn")

    assert again.read_bytes() == small_mnn.read_bytes()


def test_reduced_weights_are_smaller(small_onnx, small_mnn, tmp_path):
    sizes = [made(small_onnx, tmp_path / f"{p}.mnn", p).stat().st_size for p in ("fp16", "int8")]

    assert small_mnn.stat().st_size > sizes[0] > sizes[1]


def test_the_library_prints_nothing_to_stdout(small_mnn):
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from scrfdconv.converters.formats import open_artifact\n"
        "runner = open_artifact(Path(sys.argv[1]))\n"
        "runner.run(np.zeros((1, 3, 64, 96), np.float32)); print('[1]')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, small_mnn], capture_output=True, text=True, check=True
    )

    assert json.loads(done.stdout) == [1]


@pytest.mark.parametrize("length", [0, 3, 64, 1000, 20_000, -4, -1])
def test_a_file_that_was_cut_off_is_one_sentence(length, small_mnn, tmp_path):
    path = tmp_path / "cut.mnn"
    path.write_bytes(small_mnn.read_bytes()[:length])

    with pytest.raises(InputFileError) as caught:
        open_artifact(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(6))
def test_a_file_with_a_changed_byte_is_told(seed, small_mnn, tmp_path):
    content = bytearray(small_mnn.read_bytes())
    content[np.random.default_rng(seed).integers(200, len(content))] ^= 0x55
    path = tmp_path / "changed.mnn"
    path.write_bytes(content)

    with pytest.raises(InputFileError):
        open_artifact(path)


def test_the_library_crashes_in_another_process(small_mnn, tmp_path, monkeypatch):
    """A file whose identity fits may lead the library astray all the same."""
    content = bytearray(small_mnn.read_bytes())
    place = content.find(b"Conv")
    content[place - 400 : place] = bytes(400)
    path = tmp_path / "hostile.mnn"
    path.write_bytes(content)

    with pytest.raises(ArtifactError):
        open_artifact(path).run(stimuli(1, 64, 96, 0))


def test_without_the_library_the_pip_line_is_told(small_mnn, monkeypatch):
    monkeypatch.setitem(sys.modules, "MNN", None)

    with pytest.raises(MissingError, match=r"pip install 'scrfdconv\[mnn\]'"):
        open_artifact(small_mnn)


@pytest.mark.parametrize("content", [b"\x10\0\0\0" + bytes(60), b"\xff" * 64, b"\x20" + bytes(100)])
def test_other_binary_files_are_not_mnn(content, tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(content)

    assert not formats()["mnn"].recognises(path, content[:64])
    with pytest.raises(InputFileError, match="is neither"):
        format_of(path)


# ---------------------------------------------------------------- planted faults


def test_the_model_without_a_fault_passes(tiny, small_mnn):
    assert not caught(tiny, small_mnn)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("fault", OF_ANY_MODEL, ids=str)
def test_a_fault_in_the_function_is_caught(fault, tiny, small_onnx, tmp_path):
    graph = tmp_path / "faulty.onnx"
    onnx.save(plant(onnx.load(small_onnx), fault), graph)

    try:
        path = made(graph, tmp_path / "faulty.mnn")
    except ArtifactError:  # the converter refuses it: no file, no fault
        return
    assert caught(tiny, path)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("place", range(0, 24, 2))
def test_one_weight_that_is_one_percent_off_is_caught(place, tiny, small_mnn, tmp_path):
    content = bytearray(small_mnn.read_bytes())
    convolutions = read_network(small_mnn).convolutions
    weights = convolutions[place % len(convolutions)].weight.reshape(-1)
    value = weights[np.argsort(np.abs(weights))[weights.size // 2]]
    at = content.find(value.tobytes())
    content[at : at + 4] = np.float32(value * np.float32(1.01)).tobytes()
    path = tmp_path / "faulty.mnn"
    path.write_bytes(with_own_uuid(bytes(content)))

    assert caught(tiny, path)


@pytest.mark.parametrize("kind", ["score", "bbox", "kps"])
def test_outputs_under_exchanged_names_are_caught(kind, tiny, small_mnn, tmp_path):
    content = small_mnn.read_bytes()
    first, second, other = (f"{kind}_{s}".encode() for s in ("16", "32", "xx"))
    for old, new in ((first, other), (second, first), (other, second)):
        content = content.replace(old, new)
    path = tmp_path / "faulty.mnn"
    path.write_bytes(with_own_uuid(content))

    assert caught(tiny, path)
