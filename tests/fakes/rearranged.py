"""The same function as other tools would write it: other weights, other nodes, equal outputs."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def _copy(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _values(model, name):
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def _set(model, name, values):
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))


def _pairs(model):
    """Two dense convolutions with nothing but a ReLU between them."""
    readers = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    dense = [
        node
        for node in model.graph.node
        if node.op_type == "Conv" and all(a.i == 1 for a in node.attribute if a.name == "group")
    ]
    for first in dense:
        behind = readers.get(first.output[0], [])
        if len(behind) == 1 and behind[0].op_type == "Relu":
            after = readers.get(behind[0].output[0], [])
            if len(after) == 1 and after[0] in dense:
                yield first, after[0]


def rescaled(model):
    """Channels between two convolutions times powers of two, as equalising tools do."""
    model = _copy(model)
    first, second = next(_pairs(model))
    weight, bias, reader = (_values(model, n) for n in (*first.input[1:], second.input[1]))
    factors = 2.0 ** (np.arange(len(weight)) % 3 - 1)
    _set(model, first.input[1], weight * factors[:, None, None, None])
    _set(model, first.input[2], bias * factors)
    _set(model, second.input[1], reader / factors[None, :, None, None])
    return model


def permuted(model):
    """Channels between two convolutions in another order."""
    model = _copy(model)
    first, second = next(_pairs(model))
    weight, bias, reader = (_values(model, n) for n in (*first.input[1:], second.input[1]))
    order = np.arange(len(weight))[::-1]
    _set(model, first.input[1], weight[order])
    _set(model, first.input[2], bias[order])
    _set(model, second.input[1], reader[:, order])
    return model


def padded(model):
    """Channels between two convolutions filled up with zeros."""
    model = _copy(model)
    first, second = next(_pairs(model))
    weight, bias, reader = (_values(model, n) for n in (*first.input[1:], second.input[1]))
    _set(model, first.input[1], np.pad(weight, ((0, 4), (0, 0), (0, 0), (0, 0))))
    _set(model, first.input[2], np.pad(bias, (0, 4)))
    _set(model, second.input[1], np.pad(reader, ((0, 0), (0, 4), (0, 0), (0, 0))))
    return model


def bias_as_addition(model):
    """The bias of one convolution in a node of its own."""
    model = _copy(model)
    first, _ = next(_pairs(model))
    _set(model, first.input[2], _values(model, first.input[2]).reshape(-1, 1, 1))
    name, bias, result = first.output[0], first.input[2], first.output[0] + ".bare"
    del first.input[2]
    first.output[0] = result
    place = list(model.graph.node).index(first) + 1
    model.graph.node.insert(place, helper.make_node("Add", [result, bias], [name]))
    return model


def pointwise_as_product(model):
    """A 1x1 convolution as transpose, product and transpose."""
    model = _copy(model)
    node = next(
        n
        for n in model.graph.node
        if n.op_type == "Conv"
        and _values(model, n.input[1]).shape[2:] == (1, 1)
        and next((a.ints[0] for a in n.attribute if a.name == "strides"), 1) == 1
        and next((a.i for a in n.attribute if a.name == "group"), 1) == 1
    )
    _set(model, node.input[1], _values(model, node.input[1])[:, :, 0, 0].T)
    stem, place = node.output[0], list(model.graph.node).index(node)
    made = [
        helper.make_node("Transpose", [node.input[0]], [stem + ".t"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", [stem + ".t", node.input[1]], [stem + ".m"]),
        helper.make_node("Add", [stem + ".m", node.input[2]], [stem + ".a"]),
        helper.make_node("Transpose", [stem + ".a"], [stem], perm=[0, 3, 1, 2]),
    ]
    model.graph.node.remove(node)
    for offset, one in enumerate(made):
        model.graph.node.insert(place + offset, one)
    return model


def constants_as_nodes(model):
    """Every weight is what a Constant node gives."""
    model = _copy(model)
    tensors = list(model.graph.initializer)
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in tensors]
    del model.graph.initializer[:]
    rest = list(map(_copy_node, model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    return model


def _copy_node(node):
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def with_a_function(model):
    """Every ReLU is a call of a function of the model's own."""
    model = _copy(model)
    opset = [o for o in model.opset_import if o.domain == ""]
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(helper.make_function("own", "Positive", ["x"], ["y"], body, opset))
    model.opset_import.append(helper.make_opsetid("own", 1))
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type, node.domain = "Positive", "own"
    return model


def renamed(model):
    """Nodes without names, values and outputs with numbers for theirs."""
    model = _copy(model)
    numbers = {}
    keep = {value.name for value in model.graph.input}
    for node in model.graph.node:
        node.name = ""
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name and name not in keep:
                    names[i] = numbers.setdefault(name, str(len(numbers) + 100))
    for value in (*model.graph.initializer, *model.graph.output):
        value.name = numbers.get(value.name, value.name)
    return model


def bare(model):
    """Without metadata, documentation and inner shapes."""
    model = _copy(model)
    del model.metadata_props[:], model.graph.value_info[:]
    model.producer_name = "another tool"
    return model


def nodes_in_another_order(model):
    """Every node as late as it can be: another topological order."""
    model = _copy(model)
    left, done = list(map(_copy_node, model.graph.node)), []
    needed = {value.name for value in model.graph.output}
    while left:
        read = {name for node in left for name in node.input}
        node = next(n for n in left if not read & set(n.output))
        left.remove(node)
        done.append(node)
    assert needed
    del model.graph.node[:]
    model.graph.node.extend(done[::-1])
    return model


def weights_in_halves(model):
    """One weight stored as FP16 behind a Cast, with values that FP16 holds exactly.

    The reference must hold them exactly, too: see `halved`.
    """
    model = _copy(model)
    first, _ = next(_pairs(model))
    name = first.input[1]
    tensor = next(t for t in model.graph.initializer if t.name == name)
    half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), name + ".h")
    model.graph.initializer.remove(tensor)
    model.graph.initializer.append(half)
    cast = helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT)
    model.graph.node.insert(0, cast)
    return model


def optimised(level):
    """What ONNX Runtime writes as its own optimised file."""

    def edit(model):
        import tempfile
        from pathlib import Path

        import onnxruntime

        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "optimised.onnx"
            options = onnxruntime.SessionOptions()
            options.optimized_model_filepath = str(out)
            options.log_severity_level = 3
            options.graph_optimization_level = level(onnxruntime.GraphOptimizationLevel)
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            return onnx.load(out)

    return edit


def simplified(model):
    """What onnxsim makes of it."""
    import onnxsim

    return onnxsim.simplify(model)[0]


def slimmed(model):
    """What onnxslim makes of it."""
    import onnxslim

    return onnxslim.slim(_copy(model))


def lowered(opset):
    """In an opset whose Resize has no other inputs than constant scales."""
    doubling = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "doubling")
    operator = {9: "Upsample", 10: "Resize"}[opset]

    def edit(model):
        model = _copy(model)
        nodes = [
            helper.make_node(operator, [node.input[0], "doubling"], node.output, mode="nearest")
            if node.op_type == "Resize"
            else node
            for node in model.graph.node
        ]
        for node in nodes:
            if node.op_type.endswith("Pool"):  # these came with opset 10, and mean nothing here
                new = ("ceil_mode", "dilations")
                plain = [a for a in node.attribute if a.name not in new]
                del node.attribute[:]
                node.attribute.extend(plain)
        model.graph.initializer.append(doubling)
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        model.opset_import[0].version = opset
        return model

    return edit


def raised(opset):
    """In another opset."""
    return lambda model: onnx.version_converter.convert_version(model, opset)


SAME_WEIGHTS = {
    "renamed": renamed,
    "bare": bare,
    "constants as nodes": constants_as_nodes,
    "a function": with_a_function,
    "nodes in another order": nodes_in_another_order,
    "onnxsim": simplified,
    "onnxslim": slimmed,
    "ONNX Runtime, basic": optimised(lambda levels: levels.ORT_ENABLE_BASIC),
    "padded": padded,
    **{f"opset {opset}": lowered(opset) for opset in (9, 10)},
    **{f"opset {opset}": raised(opset) for opset in (15, 16, 18, 19, 20, 21)},
}
OTHER_WEIGHTS = {
    "rescaled": rescaled,
    "permuted": permuted,
    "bias as addition": bias_as_addition,
    "1x1 as product": pointwise_as_product,
    "ONNX Runtime, all": optimised(lambda levels: levels.ORT_ENABLE_ALL),
}
EITHER = {"ONNX Runtime, extended": optimised(lambda levels: levels.ORT_ENABLE_EXTENDED)}
