"""From an ONNX graph alone back to the checkpoint, whoever wrote the graph."""

from __future__ import annotations

import copy
import io
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from networks import NETWORKS
from onnx import helper, numpy_helper
from onnxconverter_common.float16 import convert_float_to_float16
from torch.nn.utils import fuse_conv_bn_eval

from scrfdconv.checks.weights import compare_weights
from scrfdconv.converters.checkpoint.loading import Checkpoint, load_checkpoint, seeded_checkpoint
from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.formats.onnx.export import exported
from scrfdconv.converters.lifting.lift import lift_onnx, lifted_from
from scrfdconv.converters.lifting.weights import UNIT_VARIANCE
from scrfdconv.converters.network.architecture import BUILTIN, Architecture


def written(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def raw(checkpoint: Checkpoint, opset: int = 17) -> onnx.ModelProto:
    """As upstream's exporter leaves it, before any simplifier."""
    return exported(checkpoint, opset, "torchscript")


def with_batch_norms(checkpoint: Checkpoint) -> onnx.ModelProto:
    """An export with BatchNorm as nodes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            checkpoint.model(), (torch.zeros(1, 3, 128, 128),), buffer, dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
            opset_version=17, output_names=list(checkpoint.architecture.output_names),
        )  # fmt: skip
    return onnx.load_from_string(buffer.getvalue())


def own(checkpoint: Checkpoint, **options: object) -> onnx.ModelProto:
    return onnx_from_checkpoint(checkpoint, OnnxOptions(**options))


def halves(model: onnx.ModelProto, *, keep: bool) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that become tiny
        return convert_float_to_float16(copy.deepcopy(model), keep_io_types=keep)


def renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Numbers for names as in old files, no names of nodes, the outputs from last to first."""
    model = copy.deepcopy(model)
    numbers: dict[str, str] = {"": ""}

    def new(name: str) -> str:
        return numbers.setdefault(name, str(400 + len(numbers)))

    for node in model.graph.node:
        node.name = ""
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
    for value in (*model.graph.input, *model.graph.initializer, *model.graph.output):
        value.name = new(value.name)
    outputs = [copy.deepcopy(value) for value in model.graph.output]
    del model.graph.output[:], model.graph.metadata_props[:], model.graph.value_info[:]
    model.graph.output.extend(reversed(outputs))
    return model


def same_but_scales(architecture: Architecture, wanted: Architecture) -> bool:
    return replace(architecture, name="x", box_scales=True) == replace(
        wanted, name="x", box_scales=True
    )


def at_rest(checkpoint: Checkpoint, path: Path, precision: str = "fp32") -> list[str]:
    return [
        r.subject for r in compare_weights(checkpoint, path, precision).results() if not r.passed
    ]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_part_of_an_architecture_is_read_from_the_graph(name, tmp_path):
    source = seeded_checkpoint(NETWORKS[name])
    path = written(raw(source), tmp_path)

    lifted = lift_onnx(path)

    assert replace(lifted.architecture, name="tiny") == source.architecture
    assert not at_rest(lifted, path)
    assert not at_rest(source, path)


WRITERS = {
    "raw, opset 11": lambda c: raw(c, 11),
    "raw, opset 20": lambda c: raw(c, 20),
    "BatchNorm as nodes": with_batch_norms,
    "dynamic": own,
    "fixed": lambda c: own(c, shape=(64, 96), batch=2),
    "opset 11": lambda c: own(c, opset=11),
    "opset 20": lambda c: own(c, opset=20),
    "renamed": lambda c: renamed(own(c)),
    "FP16": lambda c: halves(own(c), keep=False),
    "FP16 inside": lambda c: halves(own(c, shape=(64, 64)), keep=True),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("head", ["tiny", "tiny_gn"])
@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_s_graph_is_lifted(writer, head, request, tmp_path):
    source = request.getfixturevalue(head)
    path = written(WRITERS[writer](source), tmp_path)

    lifted = lift_onnx(path)

    assert same_but_scales(lifted.architecture, source.architecture)
    assert not at_rest(lifted, path, "fp16" if "FP16" in writer else "fp32")
    assert not at_rest(source, path, "fp16" if "FP16" in writer else "fp32")
    assert any("float16" in note for note in lifted.notes) == ("FP16" in writer)


@pytest.mark.slow  # torch.export takes ten seconds for each
@pytest.mark.parametrize(
    ("opset", "head"),
    [
        (18, "tiny"),
        (20, "tiny"),
        (18, "tiny_gn"),
        (20, "tiny_gn"),
    ],
)
def test_dynamo_s_graphs_are_lifted(opset, head, request, tmp_path):
    pytest.importorskip("onnxscript", reason="the exporter dynamo needs it")
    source = request.getfixturevalue(head)
    for model in (exported(source, opset, "dynamo"), own(source, opset=opset, exporter="dynamo")):
        path = written(model, tmp_path)

        lifted = lift_onnx(path)

        assert same_but_scales(lifted.architecture, source.architecture)
        assert not at_rest(lifted, path)


@pytest.mark.parametrize("head", ["tiny", "tiny_gn"])
def test_onnxslim_s_graphs_are_lifted(head, request, tmp_path):
    import onnxslim

    source = request.getfixturevalue(head)
    for model in (raw(source), with_batch_norms(source)):
        path = written(onnxslim.slim(model), tmp_path)

        assert not at_rest(lift_onnx(path), path)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILTIN)
def test_the_known_networks_come_back_under_their_names(name, tmp_path):
    source = seeded_checkpoint(BUILTIN[name])
    for model in (raw(source), own(source), own(source, shape=(64, 64))):
        path = written(model, tmp_path)

        lifted = lift_onnx(path)

        assert lifted.architecture == BUILTIN[name]
        assert not at_rest(lifted, path)


def test_a_folded_norm_folds_to_exactly_the_same_convolution_again(tiny, tmp_path):
    path = written(own(tiny), tmp_path)
    stored = {numpy_helper.to_array(t).tobytes() for t in onnx.load(path).graph.initializer}

    modules = dict(lift_onnx(path).model().named_modules())

    pairs = [("backbone.stem.0", "backbone.stem.1")]
    pairs += [(f"backbone.layer{i}.0.conv{j}", f"backbone.layer{i}.0.bn{j}")
              for i in range(1, 5) for j in (1, 2)]  # fmt: skip
    for conv, norm in pairs:
        folded = fuse_conv_bn_eval(modules[conv], modules[norm])
        assert folded.weight.numpy().tobytes() in stored, conv
        assert folded.bias.numpy().tobytes() in stored, conv


def test_the_variance_of_a_folded_norm_is_one_with_epsilon_in_every_arithmetic():
    epsilon = 1e-5
    assert UNIT_VARIANCE + np.float32(epsilon) == np.float32(1)
    assert torch.rsqrt(torch.tensor(UNIT_VARIANCE) + epsilon) == 1
    odd = np.nextafter(np.float32(2), np.float32(0))  # the value that rounds away first
    assert np.float32(np.float64(odd) / np.sqrt(np.float64(UNIT_VARIANCE) + epsilon)) == odd


def test_an_exported_lift_is_the_file_that_it_was_lifted_from(tiny_onnx, tmp_path):
    again = own(lift_onnx(tiny_onnx))

    constants = [
        {t.name: numpy_helper.to_array(t).tobytes() for t in model.graph.initializer}
        for model in (onnx.load(tiny_onnx), again)
    ]
    assert constants[0] == constants[1]


def test_learned_factors_come_back_where_the_graph_multiplies(tiny, tmp_path):
    lifted = lift_onnx(written(raw(tiny), tmp_path))

    assert {k: float(v) for k, v in lifted.weights.items() if k.endswith(".scale")} == {
        k: float(v) for k, v in tiny.weights.items() if k.endswith(".scale")
    }


def test_factors_folded_into_a_shared_head_come_back_as_ratios(tiny_gn, tmp_path):
    lifted = lift_onnx(written(own(tiny_gn), tmp_path))

    wanted = [float(tiny_gn.weights[f"bbox_head.scales.{i}.scale"]) for i in range(3)]
    found = [float(lifted.weights[f"bbox_head.scales.{i}.scale"]) for i in range(3)]
    assert found == pytest.approx([w / wanted[0] for w in wanted], rel=1e-6)
    assert any("relative to the finest" in note for note in lifted.notes)


def test_outputs_are_told_by_what_makes_them(tiny_onnx, tmp_path):
    names = [value.name for value in onnx.load(tiny_onnx).graph.output]
    model = renamed(onnx.load(tiny_onnx))
    numbers = [value.name for value in model.graph.output]

    outputs = lifted_from(written(model, tmp_path)).outputs

    assert list(outputs) == names
    assert list(outputs.values()) == numbers[::-1]


def test_the_outputs_of_a_lifted_network_are_those_of_its_file(tiny_gn, tmp_path):
    from scrfdconv.converters.formats.pytorch.runner import EagerRunner
    from scrfdconv.converters.graph.onnx_runner import OnnxRunner

    path = written(own(tiny_gn), tmp_path)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, 96, 64)).astype(np.float32)

    want, got = OnnxRunner(path).run(images), EagerRunner(lift_onnx(path)).run(images)

    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, atol=1e-4, rtol=1e-4, err_msg=name)


RELEASED = {
    "det_2.5g.onnx": ("scrfd_2.5g_kps", "scrfd_2.5g_bnkps.pth"),
    "det_500m.onnx": ("scrfd_500m_kps", "scrfd_500m_bnkps.pth"),
    "scrfd_500m.onnx": ("scrfd_500m", "scrfd_500m.pth"),
    "scrfd_500m_bnkps_shape320x320.onnx": ("scrfd_500m_kps", "scrfd_500m_bnkps.pth"),
    "scrfd_500m_bnkps_shape640x640.onnx": ("scrfd_500m_kps", "scrfd_500m_bnkps.pth"),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_files_give_their_networks_and_their_trainings_weights(name, data):
    known, checkpoint = RELEASED[name]
    path = data / "onnx" / name

    lifted = lift_onnx(path)

    assert lifted.architecture == BUILTIN[known]
    assert not at_rest(lifted, path)
    assert not at_rest(load_checkpoint(data / "checkpoints" / checkpoint), path)


# ---------------------------------------------------------------- refusals


def node_that_reads(model: onnx.ModelProto, part: str) -> onnx.NodeProto:
    """The convolution whose weight has ``part`` in its name."""
    return next(n for n in model.graph.node if n.op_type == "Conv" and part in n.input[1])


def tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def without_a_convolution(model: onnx.ModelProto) -> str:
    gone = node_that_reads(model, "fpn_convs.1")
    for node in model.graph.node:
        node.input[:] = [gone.input[0] if n == gone.output[0] else n for n in node.input]
    model.graph.node.remove(gone)
    return "Add"


def with_swapped_channels(model: onnx.ModelProto) -> str:
    node = node_that_reads(model, "lateral_convs.1")
    weight = tensor(model, node.input[1])
    swapped = numpy_helper.to_array(weight).swapaxes(0, 1).copy()
    weight.CopyFrom(numpy_helper.from_array(swapped, weight.name))
    return node.name


def with_another_stride(model: onnx.ModelProto) -> str:
    node = node_that_reads(model, "lateral_convs.0")
    next(a for a in node.attribute if a.name == "strides").ints[:] = [1, 2]
    return node.name


def with_wider_padding(model: onnx.ModelProto) -> str:
    node = node_that_reads(model, "stem.0")
    next(a for a in node.attribute if a.name == "pads").ints[:] = [2, 2, 2, 2]
    return node.name


def with_leaky_relus(model: onnx.ModelProto) -> str:
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "LeakyRelu"
    return "LeakyRelu"


def with_one_leaky_relu(model: onnx.ModelProto) -> str:
    relu = next(n for n in model.graph.node if n.op_type == "Relu" and "layer2" in n.name)
    relu.op_type = "LeakyRelu"
    return relu.name


def with_nan(model: onnx.ModelProto) -> str:
    node = node_that_reads(model, "pafpn_convs.0")
    weight = tensor(model, node.input[1])
    values = numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return node.name


def with_a_larger_pool(model: onnx.ModelProto) -> str:
    pool = next(n for n in model.graph.node if n.op_type == "MaxPool")
    next(a for a in pool.attribute if a.name == "kernel_shape").ints[:] = [3, 3]
    return pool.name


def with_a_smooth_resize(model: onnx.ModelProto) -> str:
    node = next(n for n in model.graph.node if n.op_type == "Resize")
    next(a for a in node.attribute if a.name == "mode").s = b"linear"
    return node.name


def with_normalisation_inside(model: onnx.ModelProto) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.float32(127.5), "mean"))
    first = node_that_reads(model, "stem.0")
    model.graph.node.insert(0, helper.make_node("Sub", [first.input[0], "mean"], ["x"], "minus"))
    node_that_reads(model, "stem.0").input[0] = "x"
    return "Sub 'minus'"


def with_one_output_less(model: onnx.ModelProto) -> str:
    model.graph.output.pop()
    return "Conv"


def with_one_output_more(model: onnx.ModelProto) -> str:
    relu = next(n for n in model.graph.node if n.op_type == "Relu" and "layer4" in n.name)
    model.graph.output.append(helper.make_tensor_value_info(relu.output[0], 1, None))
    return "10 outputs"


def with_a_node_on_the_way(model: onnx.ModelProto) -> str:
    sigmoid = next(n for n in model.graph.node if n.op_type == "Sigmoid")
    place = list(model.graph.node).index(sigmoid)
    model.graph.node.insert(place, helper.make_node("Neg", [sigmoid.input[0]], ["n"], "minus"))
    sigmoid.input[0] = "n"
    return "Neg 'minus'"


def without_a_transpose(model: onnx.ModelProto) -> str:
    gone = next(n for n in model.graph.node if n.op_type == "Transpose")
    for node in model.graph.node:
        node.input[:] = [gone.input[0] if n == gone.output[0] else n for n in node.input]
    model.graph.node.remove(gone)
    return "by Transpose and Reshape"


def with_a_beginning_only(model: onnx.ModelProto) -> str:
    conv = node_that_reads(model, "stem.0")
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(conv.output[0], 1, None))
    return conv.name


SPOILT = [
    without_a_convolution, with_swapped_channels, with_another_stride, with_wider_padding,
    with_leaky_relus, with_one_leaky_relu, with_nan, with_a_larger_pool, with_a_smooth_resize,
    with_normalisation_inside, with_one_output_less, with_one_output_more, with_a_node_on_the_way,
    without_a_transpose, with_a_beginning_only,
]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILT)
def test_what_is_no_scrfd_is_refused_and_the_node_is_named(spoil, tiny_onnx, tmp_path):
    model = onnx.load(tiny_onnx)
    named = spoil(model)
    path = written(model, tmp_path)

    with pytest.raises(ArtifactError) as caught:
        lift_onnx(path)

    assert named in str(caught.value)
    assert str(path) in str(caught.value)


def test_int8_models_are_refused(tiny_onnx, tmp_path):
    model = onnx.load(tiny_onnx)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "scale"))
    pair = [
        helper.make_node("QuantizeLinear", ["input.1", "scale"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["dq"]),
    ]
    node_that_reads(model, "stem.0").input[0] = "dq"
    nodes = [*pair, *(copy.deepcopy(node) for node in model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)

    with pytest.raises(ArtifactError, match=r"is INT8|QuantizeLinear"):
        lift_onnx(written(model, tmp_path))


def test_invalid_graphs_are_refused(tiny_onnx, tmp_path):
    model = onnx.load(tiny_onnx)
    model.graph.node[3].input[0] = "nowhere"

    with pytest.raises(ArtifactError, match="is not valid ONNX"):
        lift_onnx(written(model, tmp_path))
