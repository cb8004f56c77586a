"""Faces as outputs: rows of anchors decoded, thresholded and suppressed inside the graph.

The rules are those of ``checks/faces/decode.py``, which a check compares with the graph. Standard
operators only, and none whose result depends on the order in which a runtime works:

1. Boxes and keypoints are anchor centres and distances, in pixels of the input.
2. NonMaxSuppression chooses. Its boxes reach one pixel further, because SCRFD counts inclusively.
3. The chosen scores go to their places among zeros, and TopK sorts them: the first K are the faces.
   Places without a face are zeros everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.graph.interface.kinds import (
    FACE_OUTPUTS,
    THRESHOLD_PLACE,
    FaceRules,
    without_rows,
)
from scrfdconv.converters.graph.model_file import image_input, opset_of
from scrfdconv.converters.network.architecture import BOX_SIDES, Architecture

if TYPE_CHECKING:
    import onnx

LEAST_OPSET = 13  # the first one whose ReduceSum and Unsqueeze take axes as inputs
_PREFIX = "faces"
_POINT = 2  # x, y


def append_faces(model: onnx.ModelProto, a: Architecture, rules: FaceRules) -> None:
    """Replace the raw outputs of ``model`` by faces; inside, the raw values keep their names.

    boxes (N, K, 4), scores (N, K), keypoints (N, K, P, 2) where there are some, labels (N, K)
    int64, count (N) int64, best score first. Raises UsageError below opset 13.
    """
    if opset_of(model) < LEAST_OPSET:
        raise UsageError(
            f"--outputs faces needs opset {LEAST_OPSET} or later; the model has {opset_of(model)}."
        )
    graph = _Writer(model)
    boxes, points = _decoded(graph, a)
    scores = graph.joined([f"score_{s}" for s in a.strides], 1)  # (N, M, classes)
    if a.classes == 1:
        best = graph.add("ReduceMax", [scores], axes=[2], keepdims=0)  # (N, M)
        values, places = _chosen(graph, boxes, best, rules)  # (N, K), (N, K, 1)
    else:
        by_class = graph.add("Transpose", [scores], perm=[0, 2, 1])  # (N, classes, M)
        values, flat = _chosen(graph, boxes, by_class, rules, several=True)
        first, last = graph.constant(np.array([1])), graph.constant(np.array([2]))
        rows = graph.add("Slice", [graph.add("Shape", [scores]), first, last])
        places = graph.add("Mod", [flat, rows])
    valid = graph.add("Greater", [values, graph.constant(np.float32(0))])
    graph.add("Identity", [values], name="scores")
    _taken(graph, "boxes", boxes, places, valid)
    if points:
        _taken(graph, "keypoints", points, places, valid, (0, 0, -1, _POINT))
    if a.classes == 1:
        labels = graph.add("ArgMax", [scores], axis=2, keepdims=0)
        padded = graph.padded(labels, places, np.int64)
        found = graph.add("GatherND", [padded, places], batch_dims=1)
    else:
        found = graph.add("Squeeze", [graph.add("Div", [flat, rows]), last])
    counted = graph.cast(valid, np.int64)
    graph.add("Mul", [found, counted], name="labels")
    graph.add("ReduceSum", [counted, graph.constant(np.array([1]))], keepdims=0, name="count")
    graph.finish(a)


def with_raw_outputs(
    model: onnx.ModelProto, a: Architecture, threshold: float | None = None
) -> onnx.ModelProto:
    """``model``, which ends with faces, with its raw values as further outputs, in our order.

    ``threshold`` replaces that of the file. Raises ArtifactError where there are no such values.
    """
    import onnx
    from onnx import helper, numpy_helper

    graph = model.graph
    made = {name for node in graph.node for name in node.output}
    chooser = next((n for n in graph.node if n.op_type == "NonMaxSuppression"), None)
    if chooser is None or not made.issuperset(a.output_names):
        raise without_rows(graph.name)
    for name in a.output_names:
        value = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        graph.output.append(value)
    if threshold is not None:
        name = f"{_PREFIX}/threshold"
        graph.initializer.append(numpy_helper.from_array(np.array([threshold], np.float32), name))
        chooser.input[THRESHOLD_PLACE] = name
    return model


def _decoded(graph: _Writer, a: Architecture) -> tuple[str, str]:
    """Names of all boxes (N, M, 4) and keypoints (N, M, 2P; "" without), in pixels."""
    boxes, points = [], []
    for stride in a.strides:
        step = graph.constant(np.float32(stride))
        centre = graph.centres(stride, a.anchors)  # (rows, 2)
        reach = graph.add("Mul", [f"bbox_{stride}", step])
        first, last = graph.add_all("Split", [reach, graph.constant(np.array([2, 2]))], 2, axis=2)
        corners = [graph.add("Sub", [centre, first]), graph.add("Add", [centre, last])]
        boxes.append(graph.joined(corners, 2))
        if a.keypoints:
            offsets = graph.add("Mul", [f"kps_{stride}", step])
            repeats = graph.constant(np.array([1, a.keypoints]))
            points.append(graph.add("Add", [offsets, graph.add("Tile", [centre, repeats])]))
    return graph.joined(boxes, 1), graph.joined(points, 1) if points else ""


def _chosen(
    graph: _Writer, boxes: str, best: str, rules: FaceRules, *, several: bool = False
) -> tuple[str, str]:
    """Scores (N, K) of the faces, best first, and their places among the anchors (N, K, 1).

    With ``several`` classes, ``best`` is (N, classes, M), suppression stays within a class, and
    places count the anchors of one class after the other.
    """
    inclusive = graph.constant(np.array([0, 0, 1, 1], np.float32))
    # The operator takes scores above its threshold, SCRFD those at the threshold, too.
    below = np.nextafter(np.float32(rules.threshold), np.float32(0))
    selected = graph.add(
        "NonMaxSuppression",
        [
            graph.add("Add", [boxes, inclusive]),
            best if several else graph.add("Unsqueeze", [best, graph.constant(np.array([1]))]),
            graph.constant(np.array([rules.max_faces])),
            graph.constant(np.array([rules.nms_iou], np.float32)),
            graph.constant(np.array([below], np.float32)),
        ],
    )  # (faces, 3): image, class, anchor
    where = selected
    if not several:
        where = graph.add("Gather", [selected, graph.constant(np.array([0, 2]))], axis=1)
    zeros = graph.add("Mul", [best, graph.constant(np.float32(0))])
    kept = graph.add("ScatterND", [zeros, where, graph.add("GatherND", [best, where])])
    if several:
        kept = graph.add("Reshape", [kept, graph.constant(np.array([0, -1]))])
    few = graph.constant(np.array([rules.max_faces]))
    # A small picture has fewer anchors than faces are asked for: K more places, all empty.
    spare = graph.constant(np.array([0, 0, 0, rules.max_faces]))
    wide = graph.add("Pad", [kept, spare])
    values, places = graph.add_all("TopK", [wide, few], 2, axis=1)
    return values, graph.add("Unsqueeze", [places, graph.constant(np.array([2]))])


def _taken(
    graph: _Writer,
    name: str,
    source: str,
    places: str,
    valid: str,
    shape: Sequence[int] = (),
) -> None:
    """Write the rows of ``source`` at ``places`` as the output ``name``; zeros without a face."""
    found = graph.add("GatherND", [graph.padded(source, places), places], batch_dims=1)
    mask = graph.add("Unsqueeze", [graph.cast(valid, np.float32), graph.constant(np.array([2]))])
    last = graph.add("Mul", [found, mask], name="" if shape else name)
    if shape:
        graph.add("Reshape", [last, graph.constant(np.array(shape))], name=name)


@dataclass
class _Writer:
    """Appends nodes with names of their own to a graph."""

    model: onnx.ModelProto
    count: int = 0
    constants: dict[bytes, str] = field(default_factory=dict)

    def add(self, operator: str, inputs: Sequence[str], *, name: str = "", **more: Any) -> str:
        """One node with one output; returns the output's name."""
        return self.add_all(operator, inputs, 1, name=name, **more)[0]

    def add_all(
        self, operator: str, inputs: Sequence[str], outputs: int, *, name: str = "", **more: Any
    ) -> list[str]:
        """One node with several outputs."""
        from onnx import helper

        self.count += 1
        node = f"{_PREFIX}/{operator}_{self.count}"
        names = [name] if name else [f"{node}.{i}" for i in range(outputs)]
        self.model.graph.node.append(helper.make_node(operator, inputs, names, node, **more))
        return names

    def constant(self, value: Any) -> str:
        """The name of a constant; equal ones are one."""
        from onnx import numpy_helper

        array = np.asarray(value)
        key = f"{array.dtype}{array.shape}".encode() + array.tobytes()
        if key not in self.constants:
            self.constants[key] = f"{_PREFIX}/constant_{len(self.constants)}"
            tensor = numpy_helper.from_array(array, self.constants[key])
            self.model.graph.initializer.append(tensor)
        return self.constants[key]

    def joined(self, names: Sequence[str], axis: int) -> str:
        """Several values as one along an axis."""
        return self.add("Concat", names, axis=axis)

    def cast(self, name: str, kind: Any) -> str:
        """The value in another type."""
        from onnx import helper

        return self.add("Cast", [name], to=helper.np_dtype_to_tensor_dtype(np.dtype(kind)))

    def padded(self, source: str, places: str, kind: Any = np.float32) -> str:
        """``source`` (N, M, ...) with zeros behind its rows, as many as ``places`` has."""
        one = self.constant(np.array([1]))
        shape = self.add("Shape", [source])
        front = self.add("Slice", [shape, self.constant(np.array([0])), one])
        rows = self.add("Slice", [self.add("Shape", [places]), one, self.constant(np.array([2]))])
        last = self.constant(np.array([np.iinfo(np.int64).max]))  # to the end
        rest = self.add("Slice", [shape, self.constant(np.array([2])), last])
        zero = self.constant(np.zeros(1, kind))
        spare = self.add("Expand", [zero, self.joined([front, rows, rest], 0)])
        return self.joined([source, spare], 1)

    def centres(self, stride: int, anchors: int) -> str:
        """Centres (rows, 2) of the anchors of one stride: x, y in pixels of the input."""
        dims = image_input(self.model).type.tensor_type.shape.dim
        height, width = (dims[axis].dim_value for axis in (2, 3))
        if height and width:
            y, x = np.mgrid[: height // stride, : width // stride]
            grid = np.stack((x, y), axis=-1).reshape(-1, 2).repeat(anchors, axis=0)
            return self.constant((grid * stride).astype(np.float32))
        return self._computed_centres(stride, anchors)

    def _computed_centres(self, stride: int, anchors: int) -> str:
        """The same for a size that only a run tells."""
        image = image_input(self.model).name
        step, one = self.constant(np.array([stride])), self.constant(np.array(1))
        zero = self.constant(np.array(0))
        shape = self.add("Shape", [image])
        sides = []
        for axis in (2, 3):
            side = self.add("Gather", [shape, self.constant(np.array([axis]))])
            sides.append(self.add("Div", [side, step]))
        rows = self.add("Mul", [self.add("Mul", sides), self.constant(np.array([anchors]))])
        count = self.add("Squeeze", [rows])
        index = self.add("Range", [zero, count, one])
        cell = self.add("Div", [index, self.constant(np.array([anchors]))])
        y = self.add("Div", [cell, sides[1]])
        x = self.add("Sub", [cell, self.add("Mul", [y, sides[1]])])
        last = self.constant(np.array([1]))
        columns = [self.add("Unsqueeze", [self.add("Mul", [v, step]), last]) for v in (x, y)]
        return self.cast(self.joined(columns, 1), np.float32)

    def finish(self, a: Architecture) -> None:
        """Declare the faces as the outputs; `declare_outputs` adds their shapes."""
        from onnx import TensorProto, helper

        del self.model.graph.output[:]
        for name in face_outputs(a):
            whole = name in ("labels", "count")
            kind = TensorProto.INT64 if whole else TensorProto.FLOAT
            self.model.graph.output.append(helper.make_tensor_value_info(name, kind, None))


def face_outputs(a: Architecture) -> tuple[str, ...]:
    """The names of the outputs, without keypoints for a network that has none."""
    return tuple(name for name in FACE_OUTPUTS if a.keypoints or name != "keypoints")


def face_dims(a: Architecture, name: str, images: int | str, faces: int) -> list[int | str]:
    """The shape of one output."""
    dims: dict[str, list[int | str]] = {
        "boxes": [images, faces, BOX_SIDES],
        "keypoints": [images, faces, a.keypoints, _POINT],
        "count": [images],
    }
    return dims.get(name, [images, faces])
