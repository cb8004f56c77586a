"""The verb bench as users type it."""

from __future__ import annotations

import onnx
import pytest

from scrfdconv.converters.formats import formats
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.graph.model_file import serialised


@pytest.fixture(scope="session")
def tiny_fixed(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("fixed") / "fixed.onnx"
    path.write_bytes(serialised(onnx_from_checkpoint(tiny, OnnxOptions(shape=(64, 96), batch=2))))
    return path


def nine_means():
    """As many outputs as an SCRFD with keypoints, and nothing else of one."""
    image = onnx.helper.make_tensor_value_info("x", 1, ["n", 3, "h", "w"])
    names = [str(number) for number in range(9)]
    means = [onnx.helper.make_node("ReduceMean", ["x"], [n], keepdims=0, axes=[2, 3])
             for n in names]  # fmt: skip
    outputs = [onnx.helper.make_tensor_value_info(name, 1, None) for name in names]
    opset = [onnx.helper.make_opsetid("", 17)]
    graph = onnx.helper.make_graph(means, "g", [image], outputs)
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)


def test_models_of_any_kind_stand_side_by_side(scrfdconv, tiny_pth, tiny_onnx, tiny_fixed):
    ran = scrfdconv("bench", tiny_pth, tiny_onnx, tiny_fixed, tiny_onnx, "--runs", 3,
                    "--threads", 1, "--json")  # fmt: skip

    assert ran.code == 0, ran.err
    found = ran.json
    assert (found["batch"], found["shape"], found["runs"]) == (2, [64, 96], 3)
    assert found["threads"] == 1
    assert {"torch", "onnxruntime"} <= found["libraries"].keys()
    assert found["cpu"]
    first, *others = found["models"]
    assert first["ratio"] == 1
    assert [row["format"] for row in found["models"]] == ["pytorch", "onnx", "onnx", "onnx"]
    assert others[2]["model"].endswith("tiny.onnx (2)")
    for row in found["models"]:
        assert 0 < row["median_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["ratio_p10"] <= row["ratio"] <= row["ratio_p90"]
        assert row["file_bytes"] > 1000
        assert row["peak_memory_bytes"] > 1e7
        assert row["images_per_second"] > 0
    # torch is in the first process only: every model has a process of its own
    assert first["peak_memory_bytes"] > 1.5 * others[0]["peak_memory_bytes"]


@pytest.mark.slow
def test_the_table_says_machine_versions_and_threads(scrfdconv, tiny_onnx):
    ran = scrfdconv("bench", tiny_onnx, "--runs", 2, "--shape", 64, 64, "--threads", 1,
                    "--threads", "all")  # fmt: skip

    assert ran.code == 0, ran.err
    assert "1 x 3 x 64 x 64, 2 runs in turns after 5" in ran.out
    assert "threads: [1, 'runtime default']" in ran.out
    threads = [line.split()[2] for line in ran.out.splitlines() if line.startswith("tiny.onnx")]
    assert threads == ["1", "all"]
    assert "onnxruntime" in ran.out
    assert "tiny.onnx" in ran.out


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["ONNX", "--shape", 64, 100], 2, "nearest: 96 or 128"),
        (["FIXED", "--shape", 128, 128], 2, "batch 2, height 64, width 96, not 2 x 128x128"),
        (["FIXED", "--batch", 1], 2, "not 1 x 64x96"),
        (["ONNX", "--threads", "some"], 2, "'some' is neither all nor a number from 1 on"),
        (["ONNX", "none.onnx"], 3, "no such file"),
        (["ONNX", "nine.onnx"], 3, "nine.onnx: kps_8 has 3 channels"),
    ],
)
def test_bad_input_gets_one_sentence(
    arguments, code, says, scrfdconv, tiny_onnx, tiny_fixed, tmp_path
):
    onnx.save(nine_means(), tmp_path / "nine.onnx")
    given = [{"ONNX": tiny_onnx, "FIXED": tiny_fixed}.get(a, a) for a in arguments]

    ran = scrfdconv("bench", *given, "--json")

    assert ran.code == code, ran.err
    assert says in ran.sentence
    assert ran.json["exit_code"] == code


@pytest.mark.slow
def test_one_network_in_every_runtime(scrfdconv, tiny_pth):
    ran = scrfdconv("bench", tiny_pth, "--runtimes", "--shape", 64, 96, "--runs", 2, "--json")

    assert ran.code == 0, ran.err
    rows, left_out = ran.json["models"], ran.json["left_out"]
    assert rows[0]["model"] == str(tiny_pth)
    assert [row["threads"] for row in rows] == sorted(
        (row["threads"] for row in rows), key=lambda n: n is None
    )
    half = rows[: len(rows) // 2]
    assert {row["threads"] for row in half} == {1}
    assert [row["ratio"] for row in (rows[0], rows[len(half)])] == [1, 1]
    made = {(row["format"], row["precision"].partition(",")[0]) for row in half}
    wanted = {(one.name, p) for one in formats().values() for p in one.precisions}
    titles = {f"{formats()[name].title} {precision}" for name, precision in wanted - made}
    assert titles == left_out.keys()
    assert left_out["ONNX int8"] == "is calibrated on --images."
    assert all(left_out.values())


@pytest.mark.slow
def test_faces_that_another_model_loses_stand_beside_its_time(scrfdconv, data):
    small, large = (data / "onnx" / f"det_{size}.onnx" for size in ("500m", "2.5g"))

    ran = scrfdconv("bench", large, small, "--images", data / "images" / "test", "--runs", 1,
                    "--json")  # fmt: skip

    assert ran.code == 0, ran.err
    assert ran.json["photographs"] == 16
    first, other = ran.json["models"]
    assert (first["faces_lost"], first["faces_extra"], first["mean_iou"]) == (0, 0, 1)
    assert 0 < other["faces_lost"] < other["reference_faces"] == first["reference_faces"]
