"""Graphs that are no detectors: whatever they take and return is compared, or said not to be."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from scrfdconv.checks.functions import compare_functions
from scrfdconv.converters.errors import UsageError

node, value = helper.make_node, helper.make_tensor_value_info
TABLE = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
HIGH = np.array(1e6, np.float32)  # above every input

# Name -> nodes, inputs, outputs. Each reads the constants `table` and `high`.
GRAPHS = {
    "indices": (
        [node("Gather", ["table", "ids"], ["y"])],
        [value("ids", T.INT64, ["n", "t"])],
        [value("y", T.FLOAT, None)],
    ),
    "rows": (
        [node("MatMul", ["x", "table"], ["y"])],
        [value("x", T.FLOAT, ["n", 50])],
        [value("y", T.FLOAT, None)],
    ),
    "two inputs": (
        [node("Cast", ["b"], ["c"], to=T.FLOAT), node("Mul", ["a", "c"], ["y"])],
        [value("a", T.FLOAT, ["n", 3, "h", "w"]), value("b", T.FLOAT16, [1])],
        [value("y", T.FLOAT, None)],
    ),
    "truth values": (
        [node("Not", ["c"], ["y"])],
        [value("c", T.BOOL, ["n"])],
        [value("y", T.BOOL, None)],
    ),
    "byte pictures, channels last": (
        [
            node("Cast", ["x"], ["f"], to=T.FLOAT),
            node("ReduceMean", ["f"], ["y"], axes=[1, 2]),
        ],
        [value("x", T.UINT8, ["n", "h", "w", 3])],
        [value("y", T.FLOAT, None)],
    ),
    "positions": (
        [node("NonZero", ["x"], ["y"])],
        [value("x", T.INT32, [3, 5])],
        [value("y", T.INT64, None)],
    ),
    "nothing above": (
        [node("Greater", ["x", "high"], ["g"]), node("NonZero", ["g"], ["y"])],
        [value("x", T.FLOAT, ["n", 5])],
        [value("y", T.INT64, None)],
    ),
    "one of two above": (
        [
            node("Greater", ["x", "high"], ["g"]),
            node("NonZero", ["g"], ["y"]),
            node("Neg", ["x"], ["z"]),
        ],
        [value("x", T.FLOAT, ["n", 5])],
        [value("y", T.INT64, None), value("z", T.FLOAT, None)],
    ),
    "far too large": (
        [node("Neg", ["x"], ["y"])],
        [value("x", T.FLOAT, [1, 3, 100_000, 100_000])],
        [value("y", T.FLOAT, None)],
    ),
    "texts": (
        [node("Identity", ["x"], ["y"])],
        [value("x", T.STRING, ["n"])],
        [value("y", T.STRING, None)],
    ),
}  # fmt: skip


def saved(folder, graph, table=TABLE, name="m"):
    nodes, inputs, outputs = GRAPHS[graph]
    constants = {"table": table, "high": HIGH}
    used = {each for one in nodes for each in one.input}
    stored = [numpy_helper.from_array(v, k) for k, v in constants.items() if k in used]
    made = helper.make_model(
        helper.make_graph(nodes, "graph", inputs, outputs, stored),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    path = folder / f"{name}.onnx"
    onnx.save(made, path)
    return path


def measured(report):
    return {(r.subject, r.metric): r.passed for r in report.results}


@pytest.mark.parametrize("graph", list(GRAPHS)[:6])
def test_what_takes_other_inputs_is_compared(graph, tmp_path):
    path = saved(tmp_path, graph)

    report = compare_functions(path, path)

    assert report.passed, report.summary()
    assert measured(report).keys() & {("y", "sqnr"), ("y", "different")}
    assert not report.notes


@pytest.mark.parametrize("graph", ["indices", "rows"])
def test_a_changed_constant_fails(graph, tmp_path):
    other = TABLE.copy()
    other[1, 1] += 0.1

    report = compare_functions(saved(tmp_path, graph), saved(tmp_path, graph, other, "other"))

    assert [r.metric for r in report.failures][-1] == "sqnr"


def test_other_whole_numbers_fail(tmp_path):
    other = onnx.load(saved(tmp_path, "positions"))
    other.graph.node[0].output[0] = "z"
    other.graph.node.append(node("Abs", ["z"], ["a"]))
    other.graph.node.append(node("Sub", ["a", "one"], ["y"]))
    other.graph.initializer.append(numpy_helper.from_array(np.array(1), "one"))
    onnx.save(other, tmp_path / "other.onnx")

    report = compare_functions(saved(tmp_path, "positions"), tmp_path / "other.onnx")

    assert measured(report)["y", "different"] is False


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [("rows", "two inputs", "missing x"), ("one of two above", "nothing above", "missing z")],
)
def test_other_names_fail(one, other, said, tmp_path):
    report = compare_functions(saved(tmp_path, one), saved(tmp_path, other, name="other"))

    assert not report.passed
    assert said in report.failures[0].detail


def test_outputs_that_stay_empty_are_named_beside_others(tmp_path):
    path = saved(tmp_path, "one of two above")

    report = compare_functions(path, path)

    assert report.passed, report.summary()
    assert "not judged: y is empty" in report.notes[0]


@pytest.mark.parametrize(
    ("graph", "fault", "said"),
    [
        ("nothing above", ("outputs", "judged"), "y is empty"),
        ("texts", ("samples", "compared"), "can be drawn for the input x, tensor(string) [any]"),
        ("far too large", ("samples", "compared"), "runs on no drawn input: too many values"),
    ],
)
def test_a_run_that_judged_nothing_fails(graph, fault, said, tmp_path):
    path = saved(tmp_path, graph)

    report = compare_functions(path, path)

    assert measured(report)[fault] is False
    assert said in " ".join([*report.notes, *(r.detail for r in report.failures)])


def test_a_photograph_goes_where_a_picture_is_meant(tmp_path):
    photograph = tmp_path / "a.png"
    cv2.imwrite(str(photograph), np.full((30, 40, 3), (0, 0, 200), np.uint8))
    path = saved(tmp_path, "byte pictures, channels last")

    report = compare_functions(path, path, [photograph])

    assert report.passed, report.summary()
    assert next(r for r in report.results if r.metric == "compared").measured == 5
    with pytest.raises(UsageError, match=r"one input must take pictures.*ids, tensor\(int64\)"):
        compare_functions(*[saved(tmp_path, "indices")] * 2, [photograph])
