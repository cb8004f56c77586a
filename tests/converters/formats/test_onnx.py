"""ONNX: the interface that deployers bind to, for every network, opset, exporter and shape."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest

from scrfdconv.checks.parity import compare, samples_for
from scrfdconv.checks.stimuli import stimuli
from scrfdconv.converters.checkpoint.loading import load_checkpoint, seeded_checkpoint
from scrfdconv.converters.errors import ArtifactError, MissingError, UsageError
from scrfdconv.converters.formats.onnx import DEFAULT_OPSET, NOT_FOR_OPENCV, Onnx, OnnxOptions
from scrfdconv.converters.formats.onnx.building import OPSETS, onnx_from_checkpoint, simplified
from scrfdconv.converters.formats.pytorch.runner import EagerRunner
from scrfdconv.converters.graph.model_file import load_onnx, opset_of, serialised
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.network.architecture import BUILTIN

# Nothing of these is left where the shape is fixed.
SHAPE_ARITHMETIC = {"Shape", "Gather", "Cast", "Identity", "Slice", "Concat", "Unsqueeze"}


def export(checkpoint, tmp_path, **options):
    path = tmp_path / "model.onnx"
    path.write_bytes(serialised(onnx_from_checkpoint(checkpoint, OnnxOptions(**options))))
    return path


def declared(values):
    return {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values
    }


def failures(reference, artifact):
    samples = samples_for(reference.interface, artifact.interface)
    return [r for r in compare(reference, artifact, samples) if not r.passed]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", BUILTIN)
def test_every_network_exports_with_exact_names_axes_and_shapes(name, tmp_path):
    architecture = BUILTIN[name]
    path = export(seeded_checkpoint(architecture), tmp_path)
    model = onnx.load(path)

    assert declared(model.graph.input) == {"input.1": ["batch", 3, "height", "width"]}
    assert declared(model.graph.output) == {
        f"{kind}_{stride}": ["batch", f"anchors_{stride}", width]
        for kind, width in architecture.widths.items()
        for stride in architecture.strides
    }
    assert [o.name for o in model.graph.output] == list(architecture.output_names)
    assert opset_of(model) == 17
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["scrfd_500m_kps", "scrfd_1g", "scrfd_2.5g"])
def test_dynamic_exports_are_the_network_at_any_size_and_batch(name, tmp_path):
    checkpoint = seeded_checkpoint(BUILTIN[name])
    runner, reference = OnnxRunner(export(checkpoint, tmp_path)), EagerRunner(checkpoint)

    assert failures(reference, runner) == []

    # rows of one image must not stand among those of another
    batch = stimuli(4, 96, 160, 0)
    together = runner.run(batch)
    for slot in range(4):
        alone = runner.run(batch[slot : slot + 1])
        for output, value in alone.items():
            np.testing.assert_allclose(together[output][slot], value[0], atol=2e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_fixed_shape_is_declared_in_numbers_without_shape_arithmetic(batch, tiny_gn, tmp_path):
    path = export(tiny_gn, tmp_path, shape=(96, 64), batch=batch)
    model = onnx.load(path)

    assert declared(model.graph.input) == {"input.1": [batch, 3, 96, 64]}
    assert declared(model.graph.output)["bbox_8"] == [batch, 2 * 12 * 8, 4]
    assert not SHAPE_ARITHMETIC & {node.op_type for node in model.graph.node}
    assert failures(EagerRunner(tiny_gn), OnnxRunner(path)) == []


@pytest.mark.parametrize(("name", "most"), [("scrfd_500m_kps", 128), ("scrfd_2.5g_kps", 139)])
def test_fixed_graphs_have_no_more_nodes_than_the_released_ones(name, most, tmp_path):
    model = onnx.load(export(seeded_checkpoint(BUILTIN[name]), tmp_path, shape=(640, 640)))

    assert len(model.graph.node) <= most
    assert not SHAPE_ARITHMETIC & {node.op_type for node in model.graph.node}
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)


def test_dynamic_graphs_compute_no_shapes(tiny, tiny_gn, tmp_path):
    batch_norm = Counter(n.op_type for n in onnx.load(export(tiny, tmp_path)).graph.node)
    group_norm = Counter(n.op_type for n in onnx.load(export(tiny_gn, tmp_path)).graph.node)

    assert not group_norm["InstanceNormalization"]
    for graph in (batch_norm, group_norm):
        assert graph["Resize"] == 2
        assert not graph.keys() & {*SHAPE_ARITHMETIC, "Constant"}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("opset", [11, DEFAULT_OPSET])
@pytest.mark.parametrize("size", [(1, 64, 96), (1, 128, 64)])
@pytest.mark.parametrize("changes", [{}, {"neck": "fpn", "box_bins": 9}])
def test_opencv_reads_the_dynamic_graph_right(changes, opset, size, tiny, tmp_path):
    """Sizes that are computed from shapes are misread by OpenCV 4, without a word."""
    checkpoint = seeded_checkpoint(replace(tiny.architecture, **changes))
    path = export(checkpoint, tmp_path, opset=opset)
    images = stimuli(*size, 0)
    network = cv2.dnn.readNetFromONNX(str(path))
    network.setInput(images)

    found = network.forward(list(tiny.architecture.output_names))

    expected = OnnxRunner(path).run(images)
    for values, (name, known) in zip(found, expected.items(), strict=True):
        # OpenCV 4.12 differs by 2.5e-5, where a neck that is misread differs by 0.25
        np.testing.assert_allclose(values, known, atol=1e-4, err_msg=name)


def test_what_opencv_4_cannot_read_is_said_of_the_file(tiny, tiny_gn, tmp_path):
    told = Onnx().remark_made

    assert told(export(tiny_gn, tmp_path), "fp32") == NOT_FOR_OPENCV
    assert told(export(tiny, tmp_path), "fp32") == ""


@pytest.mark.sampled(6)
@pytest.mark.parametrize("shape", [None, (64, 64)])
@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_is_written_as_asked_and_runs(opset, shape, tiny_gn, tmp_path):
    path = export(tiny_gn, tmp_path, opset=opset, shape=shape)

    assert opset_of(onnx.load(path)) == opset
    assert failures(EagerRunner(tiny_gn), OnnxRunner(path)) == []


@pytest.mark.parametrize("opset", [10, 21, 0])
def test_other_opsets_are_refused(opset, tiny):
    with pytest.raises(UsageError, match="supported are 11 to 20"):
        onnx_from_checkpoint(tiny, OnnxOptions(opset=opset))


VARIANTS = {
    "gnkps": {"head_groups": 4},
    "classes": {"classes": 3},
    "five strides": {"strides": (8, 16, 32, 64, 128), "anchors": 1,
                     "head_channels": (8,) * 5, "head_convs": (1,) * 5},
    "own tower": {"shared_tower": False},
    "unequal towers": {"head_channels": (8, 16, 24), "head_convs": (1, 2, 1)},
    "bottleneck": {"block": "bottleneck"},
    "separable": {"block": "separable", "stem_channels": (4, 8), "head_separable": True},
    "top-down neck": {"neck": "fpn"},
    "distributions": {"box_bins": 9},
}  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [None, (256, 128)])
def test_variants_that_people_train_export_and_verify(variant, shape, tiny, tmp_path):
    checkpoint = seeded_checkpoint(replace(tiny.architecture, **VARIANTS[variant]))

    path = export(checkpoint, tmp_path, shape=shape)

    assert failures(EagerRunner(checkpoint), OnnxRunner(path)) == []
    assert OnnxRunner(path).interface.outputs == checkpoint.architecture.output_names


def test_five_strides_need_multiples_of_128(tiny):
    architecture = replace(tiny.architecture, **VARIANTS["five strides"])

    with pytest.raises(UsageError, match="multiple of 128"):
        onnx_from_checkpoint(seeded_checkpoint(architecture), OnnxOptions(shape=(640, 608)))


def test_metadata_tells_origin_and_use_and_nothing_local(tiny, tmp_path):
    path = export(tiny, tmp_path, shape=(64, 96), batch=2)
    model, content = onnx.load(path), path.read_bytes()

    own = {p.key.removeprefix("scrfdconv."): p.value for p in model.metadata_props}

    assert own["recipe"] == "tiny"
    assert own["source_sha256"] == tiny.digest
    assert (own["precision"], own["shape"], own["batch"]) == ("fp32", "64x96", "2")
    assert own["strides"] == "8 16 32"
    assert '"mean": 127.5' in own["preprocessing"]
    assert all(p.key.startswith("scrfdconv.") for p in model.metadata_props)
    for local in (b"/work", b"site-packages", b"onnxsim", b".py"):
        assert local not in content
    assert model.producer_name == "scrfdconv"


CODE = """
from pathlib import Path
from scrfdconv.converters.network.architecture import BUILTIN
from scrfdconv.converters.checkpoint.loading import seeded_checkpoint
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.graph.model_file import serialised
for shape in (None, (640, 640)):
    model = onnx_from_checkpoint(seeded_checkpoint(BUILTIN["scrfd_500m"]), OnnxOptions(shape=shape))
    Path(f"{shape}.onnx").write_bytes(serialised(model))
"""


@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes_in_another_process_and_folder(tmp_path):
    folders = [tmp_path / "a", tmp_path / "other" / "b"]
    for i, folder in enumerate(folders):
        folder.mkdir(parents=True)
        environment = {**os.environ, "PYTHONHASHSEED": str(i), "OMP_NUM_THREADS": str(i + 1)}
        subprocess.run([sys.executable, "-c", CODE], cwd=folder, check=True, env=environment)

    for name in ("None.onnx", "(640, 640).onnx"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_repeated_exports_in_one_process_give_the_same_bytes(tiny):
    first, second = (serialised(onnx_from_checkpoint(tiny, OnnxOptions())) for _ in range(2))

    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scrfd_500m_kps", "scrfd_2.5g"])
def test_both_exporters_give_the_same_graph(name, tmp_path):
    pytest.importorskip("onnxscript")
    checkpoint = seeded_checkpoint(BUILTIN[name])
    paths = []
    for exporter in ("torchscript", "dynamo"):
        (tmp_path / exporter).mkdir()
        paths.append(export(checkpoint, tmp_path / exporter, exporter=exporter))

    models = [onnx.load(path) for path in paths]

    operators = [Counter(node.op_type for node in model.graph.node) for model in models]
    assert operators[0] == operators[1]
    assert declared(models[0].graph.output) == declared(models[1].graph.output)
    assert failures(OnnxRunner(paths[0]), OnnxRunner(paths[1])) == []


@pytest.mark.slow
def test_dynamo_refuses_an_opset_that_it_would_replace(tiny):
    pytest.importorskip("onnxscript")
    with pytest.raises(UsageError, match="use --exporter torchscript"):
        onnx_from_checkpoint(tiny, OnnxOptions(opset=11, exporter="dynamo"))


def test_dynamo_without_onnxscript_says_what_to_install(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)

    with pytest.raises(MissingError, match="pip install"):
        onnx_from_checkpoint(tiny, OnnxOptions(exporter="dynamo"))


def test_simplifying_keeps_names_and_foreign_metadata_and_fixes_shapes(tiny_onnx):
    model = load_onnx(tiny_onnx)
    model.metadata_props.add(key="owner", value="me")

    fixed = simplified(model, OnnxOptions(shape=(64, 96), batch=2))

    own = {p.key: p.value for p in fixed.metadata_props}
    assert own["owner"] == "me"
    assert (own["scrfdconv.shape"], own["scrfdconv.batch"]) == ("64x96", "2")
    assert declared(fixed.graph.output)["kps_16"] == [2, 48, 10]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({"shape": (64, 96)}, {"shape": (96, 96)}, "height is fixed to 64"),
        ({"shape": (64, 96), "batch": 2}, {"shape": (64, 96)}, "batch is fixed to 2"),
        ({}, {"opset": 18}, "the model has opset 17"),
    ],
)
def test_what_cannot_be_changed_in_a_finished_model_is_said(first, second, said, tiny):
    model = onnx_from_checkpoint(tiny, OnnxOptions(**first))

    with pytest.raises(UsageError, match=said):
        simplified(model, OnnxOptions(**second))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_model_is_an_artifact_error(share, tiny_onnx, tmp_path):
    path = tmp_path / "cut.onnx"
    content = tiny_onnx.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])

    with pytest.raises(ArtifactError):
        OnnxRunner(path)
    with pytest.raises(ArtifactError):
        load_onnx(path)


def test_a_model_that_is_no_scrfd_names_the_expected_outputs(tmp_path):
    x = onnx.helper.make_tensor_value_info("x", 1, ["n", 3, "h", "w"])
    y = onnx.helper.make_tensor_value_info("y", 1, None)
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    path = tmp_path / "relu.onnx"
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), path)

    with pytest.raises(ArtifactError, match="expected score_8 score_16"):
        OnnxRunner(path)


RELEASED = [
    ("scrfd_500m_bnkps", "det_500m", None),
    ("scrfd_500m_bnkps", "scrfd_500m_bnkps_shape640x640", (640, 640)),
    ("scrfd_500m_bnkps", "scrfd_500m_bnkps_shape320x320", (320, 320)),
    ("scrfd_500m", "scrfd_500m", None),
    ("scrfd_2.5g_bnkps", "det_2.5g", None),
]


@pytest.mark.parametrize(("checkpoint", "released", "fixed"), RELEASED)
def test_exports_of_released_checkpoints_match_the_released_onnx(
    checkpoint, released, fixed, data, tmp_path
):
    loaded = load_checkpoint(data / "checkpoints" / f"{checkpoint}.pth")
    ours = OnnxRunner(export(loaded, tmp_path))
    theirs = OnnxRunner(data / "onnx" / f"{released}.onnx")
    sizes = [fixed] if fixed else [(640, 640), (320, 416), (64, 96)]

    for seed, (height, width) in enumerate(sizes):
        images = stimuli(1, height, width, seed)
        want, got = theirs.run(images), ours.run(images)
        assert want.keys() == got.keys()
        for name, value in want.items():
            assert np.abs(got[name] - value).max() < 1e-4, name


@pytest.mark.parametrize("name", ["tiny", "tiny_gn"])
def test_a_fixed_model_is_the_same_whether_exported_or_derived(name, request, tmp_path):
    checkpoint, options = request.getfixturevalue(name), OnnxOptions(shape=(64, 96), batch=2)
    dynamic = Onnx().convert(checkpoint, tmp_path / "dynamic.onnx", OnnxOptions(), None)

    derived = Onnx().convert(dynamic, tmp_path / "derived.onnx", options, None)

    exported = Onnx().convert(checkpoint, tmp_path / "exported.onnx", options, None)

    assert derived.path.read_bytes() == exported.path.read_bytes()
