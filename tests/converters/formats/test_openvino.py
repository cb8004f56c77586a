"""OpenVINO: a graph and its weights that are the network, and nothing else passes."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from faults import OF_ANY_MODEL, caught, plant

from scrfdconv.checks.stimuli import stimuli
from scrfdconv.checks.verification import Demand, verify
from scrfdconv.converters.artifact import digest_of
from scrfdconv.converters.checkpoint.loading import seeded_checkpoint
from scrfdconv.converters.errors import ArtifactError, InputFileError, MissingError
from scrfdconv.converters.formats import format_of, formats, open_artifact
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.network.architecture import BUILTIN
from scrfdconv.converters.options import NoOptions
from scrfdconv.recipes.artifacts.conversion import convert
from scrfdconv.recipes.artifacts.target import target_of
from scrfdconv.recipes.faces.pictures import synthetic_pictures

pytest.importorskip("openvino", reason="the openvino extra is not installed")


def made(graph, out, precision="fp32"):
    """The OpenVINO model of the ONNX file ``graph``."""
    one = formats()["openvino"]
    one.build(formats()["onnx"].artifact_at(graph), NoOptions(), out, precision)
    return out


@pytest.fixture(scope="module")
def small_xml(small_onnx, tmp_path_factory):
    return made(small_onnx, tmp_path_factory.mktemp("openvino") / "small.xml")


@pytest.fixture(scope="module")
def tiny_xml(tiny_onnx, tmp_path_factory):
    return made(tiny_onnx, tmp_path_factory.mktemp("openvino") / "tiny.xml")


def copied(xml, folder):
    """``xml`` and its weights under the same names in ``folder``."""
    for path in (xml, xml.with_suffix(".bin")):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / xml.name


def resigned(xml):
    """Let the text name the weights that lie beside it now: the fault is all that is wrong."""
    text = xml.read_text("utf-8")
    digest = digest_of(xml.with_suffix(".bin"))
    xml.write_text(re.sub(r'(bin_sha256 value=")[0-9a-f]+', rf"\g<1>{digest}", text), "utf-8")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_model_is_its_checkpoint_at_any_size_and_batch(precision, tiny, tiny_onnx, tmp_path):
    xml = made(tiny_onnx, tmp_path / "tiny.xml", precision)

    report = verify(tiny, xml)

    assert report.passed, report.summary()
    assert open_artifact(xml).precision == formats()["openvino"].precision_of(xml) == precision
    assert any(r.check == "weights" and r.metric == "relative" for r in report.results)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scrfd_500m", "scrfd_2.5g_kps", "scrfd_10g"])
def test_known_networks_are_carried(name, tmp_path):
    checkpoint = seeded_checkpoint(BUILTIN[name])
    graph = formats()["onnx"].convert(checkpoint, tmp_path / "m.onnx", OnnxOptions(), None).path

    assert verify(checkpoint, made(graph, tmp_path / "m.xml")).passed


def test_a_quantized_model_passes_against_its_checkpoint(tiny, tmp_path):
    """Not only while it is made: `verify` compares weights, too, where there are float ones."""
    xml, shape = tmp_path / "int8.xml", {"shape": (96, 128)}
    pictures = tuple(synthetic_pictures(tmp_path / "pictures"))
    convert(tiny, target_of("openvino", "int8", shape), xml, None, images=pictures)

    report = verify(tiny, xml)

    assert open_artifact(xml).precision == "int8"
    assert report.passed, report.summary()


def test_names_and_metadata_are_those_of_the_graph(tiny, tiny_xml):
    runner = open_artifact(tiny_xml)

    assert runner.interface.outputs == tiny.architecture.output_names
    assert runner.metadata["weights_sha256"] == tiny.weights_digest
    assert (runner.interface.batch, runner.interface.shape) == (None, None)


def test_float32_stays_float32_and_half_is_half_as_large(tiny_onnx, tmp_path):
    sizes = {
        p: made(tiny_onnx, tmp_path / f"{p}.xml", p).with_suffix(".bin").stat().st_size
        for p in ("fp32", "fp16")
    }

    assert 1.9 < sizes["fp32"] / sizes["fp16"] < 2.1


def test_a_fixed_shape_refuses_every_other(tiny, tmp_path):
    options = OnnxOptions(shape=(64, 96), batch=2)
    graph = formats()["onnx"].convert(tiny, tmp_path / "m.onnx", options, None).path
    runner = open_artifact(made(graph, tmp_path / "m.xml"))

    assert (runner.interface.batch, runner.interface.shape) == (2, (64, 96))
    with pytest.raises(ArtifactError, match="fails on images of shape"):
        runner.run(stimuli(1, 96, 64, 0))


def test_two_processes_write_the_same_bytes_without_paths(tiny_onnx, tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from scrfdconv.converters.formats.openvino.building import write_model\n"
        "for at in range(int(sys.argv[3])): write_model(*map(Path, sys.argv[1:3]), 'fp32')"
    )
    for name, times in (("a", "1"), ("b", "3")):
        (tmp_path / name).mkdir()
        out = tmp_path / name / "m.xml"
        subprocess.run([sys.executable, "-c", code, tiny_onnx, out, times], check=True)

    first, second = (
        [(tmp_path / name / f"m{suffix}").read_bytes() for suffix in (".xml", ".bin")]
        for name in "ab"
    )
    assert first == second
    assert str(tmp_path).encode() not in first[0] + first[1]


def test_weights_are_told_apart_from_those_of_another_build(tiny_onnx, tiny_xml, tmp_path):
    xml = copied(tiny_xml, tmp_path)
    half = made(tiny_onnx, tmp_path / "half.xml", "fp16")
    xml.with_suffix(".bin").write_bytes(half.with_suffix(".bin").read_bytes())

    with pytest.raises(ArtifactError, match=r"tiny\.xml"):
        open_artifact(xml)


def test_one_changed_weight_of_a_build_is_told(tiny_xml, tmp_path):
    xml = copied(tiny_xml, tmp_path)
    weights = bytearray(xml.with_suffix(".bin").read_bytes())
    weights[100] ^= 1
    xml.with_suffix(".bin").write_bytes(weights)

    with pytest.raises(ArtifactError, match=r"tiny\.bin belongs to another build"):
        open_artifact(xml)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda xml, bin_: bin_.unlink(), "put tiny.bin beside it"),
        (
            lambda xml, bin_: bin_.write_bytes(bin_.read_bytes()[:-4]),
            "cannot read it with tiny.bin",
        ),
        (lambda xml, bin_: bin_.write_bytes(b""), "is empty|cannot read it"),
        (lambda xml, bin_: xml.write_bytes(xml.read_bytes()[:5000]), "cannot read it"),
        (
            lambda xml, bin_: xml.write_bytes(xml.read_bytes().replace(b"offset=", b'offset="9')),
            "cannot read it",
        ),
    ],
)
def test_damaged_files_are_one_sentence(damage, message, tiny_xml, tmp_path):
    xml = copied(tiny_xml, tmp_path)
    damage(xml, xml.with_suffix(".bin"))

    with pytest.raises(InputFileError, match=message) as caught:
        open_artifact(xml)
    assert "\n" not in str(caught.value)


def test_xml_of_another_kind_is_not_openvino(tmp_path):
    path = tmp_path / "page.xml"
    path.write_text('<?xml version="1.0"?><html><body/></html>')

    with pytest.raises(InputFileError, match="is neither"):
        format_of(path)


def test_weights_alone_name_their_graph(tiny_xml):
    with pytest.raises(InputFileError, match=r"belongs to tiny\.xml"):
        format_of(tiny_xml.with_suffix(".bin"))


def test_another_network_with_two_images_is_refused(tmp_path):
    two = [onnx.helper.make_tensor_value_info(n, 1, [1, 3, 8, 8]) for n in ("a", "b")]
    out = onnx.helper.make_tensor_value_info("c", 1, [1, 3, 8, 8])
    weights = onnx.numpy_helper.from_array(np.ones((1, 3, 8, 8), np.float32), "w")
    nodes = [onnx.helper.make_node("Add", *x) for x in ((["a", "b"], ["d"]), (["d", "w"], ["c"]))]
    graph = tmp_path / "two.onnx"
    content = onnx.helper.make_graph(nodes, "g", two, [out], [weights])
    onnx.save(onnx.helper.make_model(content), graph)

    with pytest.raises(ArtifactError, match="expected one image input"):
        made(graph, tmp_path / "two.xml")
    openvino = pytest.importorskip("openvino")
    openvino.save_model(openvino.Core().read_model(graph), tmp_path / "two.xml")
    with pytest.raises(ArtifactError, match="is not an SCRFD"):
        open_artifact(tmp_path / "two.xml")


def test_without_the_library_the_pip_line_is_told(tiny_xml, monkeypatch):
    from scrfdconv.converters.formats.openvino import api

    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(api, "core", api.core.__wrapped__)

    with pytest.raises(MissingError, match=r"pip install 'scrfdconv\[openvino\]'"):
        open_artifact(tiny_xml)


def test_the_machines_own_arithmetic_is_told_where_it_is_another(tiny, tiny_xml):
    twin = open_artifact(tiny_xml).twin()
    notes = verify(tiny, tiny_xml, Demand(weights=False)).notes

    told = [note for note in notes if "INFERENCE_PRECISION_HINT" in note]
    assert len(told) == (0 if twin is None else 1)
    if twin is not None:
        assert f"may compute it in {twin.computes_in}" in told[0]


# ---------------------------------------------------------------- planted faults


def test_the_model_without_a_fault_passes(tiny, small_xml):
    assert not caught(tiny, small_xml)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("fault", OF_ANY_MODEL, ids=str)
def test_a_fault_in_the_function_is_caught(fault, tiny, small_onnx, tmp_path):
    graph = tmp_path / "faulty.onnx"
    onnx.save(plant(onnx.load(small_onnx), fault), graph)

    assert caught(tiny, made(graph, tmp_path / "faulty.xml"))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("place", range(0, 24, 2))
def test_one_weight_that_is_one_percent_off_is_caught(place, tiny, small_xml, tmp_path):
    xml = copied(small_xml, tmp_path)
    constants = re.findall(
        r'element_type="f32" shape="(\d+, \d+, \d+, \d+)" offset="(\d+)" size="(\d+)"',
        xml.read_text("utf-8"),
    )
    kernels = [c for c in constants if not c[0].startswith("1, ")]
    _, offset, size = map(str, kernels[place % len(kernels)])
    weights = np.fromfile(xml.with_suffix(".bin"), np.uint8)
    values = weights[int(offset) : int(offset) + int(size)].view(np.float32)
    values[np.argsort(np.abs(values))[values.size // 2]] *= np.float32(1.01)
    weights.tofile(xml.with_suffix(".bin"))
    resigned(xml)

    assert caught(tiny, xml)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('names="score_8"', 'names="score_4"'),
        ('names="kps_32"', 'names="kps_64"'),
        ('type="Sigmoid"', 'type="Tanh"'),
        ('type="MaxPool"', 'type="AvgPool"'),
        ('mode="nearest"', 'mode="linear"'),
        ('pads_begin="1, 1" pads_end="1, 1"', 'pads_begin="0, 0" pads_end="2, 2"'),
        ('strides="2, 2"', 'strides="1, 1"'),
    ],
)
def test_a_graph_that_was_edited_is_caught(old, new, tiny, small_xml, tmp_path):
    xml = copied(small_xml, tmp_path)
    text = xml.read_text("utf-8")
    assert old in text
    xml.write_text(text.replace(old, new), "utf-8")

    assert caught(tiny, xml)


@pytest.mark.parametrize("kind", ["score", "bbox", "kps"])
def test_outputs_under_exchanged_names_are_caught(kind, tiny, small_xml, tmp_path):
    xml = copied(small_xml, tmp_path)
    text = xml.read_text("utf-8")
    for old, new in ((f"{kind}_8", "other"), (f"{kind}_16", f"{kind}_8"), ("other", f"{kind}_16")):
        text = text.replace(f'names="{old}"', f'names="{new}"')
    xml.write_text(text, "utf-8")

    assert caught(tiny, xml)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no g++ to compile with")
def test_the_lines_of_cpp_in_the_docs_give_the_scores_of_python(tiny_onnx, tmp_path):
    package = Path(importlib.util.find_spec("openvino").origin).parent
    page = Path(__file__).parents[3] / "docs" / "formats.md"
    (lines,) = re.findall(r"```cpp\n(#include <openvino.*?)```", page.read_text(), re.DOTALL)
    include, _, body = lines.partition("\n")
    zeros = "std::fill_n(image.data<float>(), image.get_size(), 0.f);"
    body = body.replace("request.set_input_tensor", f"{zeros}\n  request.set_input_tensor")
    (tmp_path / "main.cpp").write_text(
        f"#include <algorithm>\n#include <cstdio>\n{include}\n"
        f'int main() {{ {body}; std::printf("%.9g", scores[0]); }}\n'
    )
    (library,) = package.glob("libs/libopenvino.so.*")
    subprocess.run(
        ["g++", "-std=c++17", "main.cpp", f"-I{package / 'include'}", library,
         f"-Wl,-rpath,{library.parent}", "-o", "main"], check=True, cwd=tmp_path,
    )  # fmt: skip
    made(tiny_onnx, tmp_path / "model.xml")

    ran = subprocess.run([tmp_path / "main"], check=True, cwd=tmp_path, capture_output=True)

    outputs = open_artifact(tmp_path / "model.xml").run(np.zeros((1, 3, 640, 640), np.float32))
    assert float(ran.stdout) == pytest.approx(float(outputs["score_8"].ravel()[0]), abs=1e-7)
