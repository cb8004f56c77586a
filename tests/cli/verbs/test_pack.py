"""Folders for servers and apps, as users type them."""

from __future__ import annotations

import json
import shutil

import onnx
import pytest
from prefaced import prefaced

from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.graph.model_file import serialised
from scrfdconv.recipes.packs import packs

EXPORTS = {
    "raw": OnnxOptions(),
    "flat": OnnxOptions(outputs="flat"),
    "maps": OnnxOptions(outputs="maps"),
    "faces": OnnxOptions(outputs="faces", max_faces=7),
    "fixed": OnnxOptions(shape=(64, 96)),
    "four": OnnxOptions(shape=(64, 96), batch=4),
    "free": OnnxOptions(shape=(64, 96), batch=None),
}


@pytest.fixture(scope="module")
def models(tiny, tiny_pth, tmp_path_factory):
    """``tiny`` with every kind of outputs and sizes, and as a checkpoint."""
    folder = tmp_path_factory.mktemp("models")
    for name, options in EXPORTS.items():
        model = onnx_from_checkpoint(tiny, options)
        (folder / f"{name}.onnx").write_bytes(serialised(model))
    for kind in ("bytes", "frame"):
        prefaced(folder / "raw.onnx", folder / f"{kind}.onnx", kind, metadata=True)
    shutil.copy(tiny_pth, folder / "model.pth")
    return folder


def config_of(folder):
    return (folder / "config.pbtxt").read_text().splitlines()


# ---------------------------------------------------------------- triton


def test_a_free_batch_is_batched_by_the_server(in_process, models, tmp_path):
    ran = in_process("pack", "triton", models / "raw.onnx", "-o", tmp_path / "repo")

    assert ran.code == 0, ran.err
    assert "10 checks passed" in ran.out
    config = config_of(tmp_path / "repo/raw")
    assert 'backend: "onnxruntime"' in config
    assert "max_batch_size: 8" in config
    assert "dynamic_batching { }" in config
    assert 'input [ { name: "input.1", data_type: TYPE_FP32, dims: [ 3, -1, -1 ] } ]' in config
    assert 'output [ { name: "kps_8", data_type: TYPE_FP32, dims: [ -1, 10 ] } ]' in config
    copy = tmp_path / "repo/raw/1/model.onnx"
    assert copy.read_bytes() == (models / "raw.onnx").read_bytes()
    assert "tritonclient" in (tmp_path / "repo/raw/README.md").read_text()


def test_a_fixed_batch_has_all_its_sides_and_no_batching(in_process, models, tmp_path):
    ran = in_process("pack", "triton", models / "four.onnx", "--warm-up", "-o", tmp_path)

    assert ran.code == 0, ran.err
    config = config_of(tmp_path / "four")
    assert "max_batch_size: 0" in config
    assert "dynamic_batching { }" not in config
    assert 'output [ { name: "bbox_8", data_type: TYPE_FP32, dims: [ 4, 192, 4 ] } ]' in config
    assert "dims: [ 4, 3, 64, 96 ], zero_data: true" in config[-1]


def test_faces_are_one_step_and_a_number_of_each_picture(in_process, models, tmp_path):
    ran = in_process("pack", "triton", models / "faces.onnx", "--max-batch", 3, "-o", tmp_path)

    assert ran.code == 0, ran.err
    config = config_of(tmp_path / "faces")
    assert "max_batch_size: 3" in config
    assert 'output [ { name: "boxes", data_type: TYPE_FP32, dims: [ 7, 4 ] } ]' in config
    count = 'name: "count", data_type: TYPE_INT64, dims: [ 1 ], reshape { shape: [ ] }'
    assert f"output [ {{ {count} }} ]" in config


def test_openvino_is_served_on_the_processor(in_process, models, tmp_path):
    pytest.importorskip("openvino")
    made = in_process(
        "openvino", models / "free.onnx", "--no-lift", "--no-verify", "-o", tmp_path / "free.xml"
    )
    assert made.code == 0, made.err

    ran = in_process("pack", "triton", tmp_path / "free.xml", "-o", tmp_path / "repo", "--json")

    assert ran.code == 0, ran.err
    assert ran.json["verified"]
    config = config_of(tmp_path / "repo/free")
    assert 'backend: "openvino"' in config
    assert "instance_group [ { count: 1, kind: KIND_CPU } ]" in config
    assert 'output [ { name: "score_32", data_type: TYPE_FP32, dims: [ 12, 1 ] } ]' in config
    assert (tmp_path / "repo/free/1/model.bin").is_file()


def test_a_second_model_goes_beside_the_first(in_process, models, tmp_path):
    assert in_process("pack", "triton", models / "raw.onnx", "-o", tmp_path).code == 0
    again = in_process("pack", "triton", models / "raw.onnx", "-o", tmp_path)
    assert again.code == 2
    assert "is there already" in again.sentence

    named = in_process("pack", "triton", models / "raw.onnx", "-o", tmp_path, "--name", "other")

    assert named.code == 0, named.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "raw"]
    assert 'name: "other"' in config_of(tmp_path / "other")


def test_shapes_that_a_file_only_claims_are_found(in_process, models, tmp_path):
    """Old exports: a batch renamed to a free one, while one image is reshaped inside."""
    model = onnx.load(models / "flat.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, tmp_path / "renamed.onnx")

    ran = in_process("pack", "triton", tmp_path / "renamed.onnx", "-o", tmp_path / "repo")

    assert ran.code == 1, ran.err
    assert "for 2 images" in ran.sentence
    assert [p.name for p in tmp_path.iterdir()] == ["renamed.onnx"]


def engine_of(model, out):
    profile = ("--min", "1x64x64", "--opt", "1x64x96", "--max", "2x64x96")
    return ["tensorrt", model, *profile, "--no-lift", "--no-verify", "-o", out]


def test_an_engine_is_packed_as_its_sidecar_says(in_process, newest_machine, models, tmp_path):
    made = in_process(*engine_of(models / "raw.onnx", tmp_path / "net.engine"))
    assert made.code == 0, made.err

    ran = in_process("pack", "triton", tmp_path / "net.engine", "-o", tmp_path)
    more = in_process(
        "pack", "triton", tmp_path / "net.engine", "-o", tmp_path, "--name", "b", "--max-batch", 3
    )

    assert ran.code == 0, ran.err
    assert "10 checks passed" in ran.out
    config = config_of(tmp_path / "net")
    assert 'platform: "tensorrt_plan"' in config
    assert "max_batch_size: 2" in config, "the profile's largest batch"
    assert 'output [ { name: "kps_16", data_type: TYPE_FP32, dims: [ -1, 10 ] } ]' in config
    assert [p.name for p in (tmp_path / "net/1").iterdir()] == ["model.plan"]
    assert more.code == 2
    assert "at most 2 pictures" in more.sentence


def test_an_engine_without_a_gpu_is_packed_unread(
    in_process, newest_machine, monkeypatch, models, tmp_path
):
    assert in_process(*engine_of(models / "raw.onnx", tmp_path / "net.engine")).code == 0
    monkeypatch.undo()  # the GPU is gone

    ran = in_process("pack", "triton", tmp_path / "net.engine", "-o", tmp_path, "--json")
    (tmp_path / "net.engine.json").unlink()
    alone = in_process("pack", "triton", tmp_path / "net.engine", "-o", tmp_path, "--name", "a")

    assert ran.code == 0, ran.err
    assert ran.json["verified"] is False
    assert ran.json["not_run"]
    assert alone.code == 3
    assert "keep its .engine.json" in alone.sentence


def test_bytes_are_fed_as_they_are(in_process, models, tmp_path):
    ran = in_process("pack", "triton", models / "frame.onnx", "--warm-up", "-o", tmp_path)

    assert ran.code == 0, ran.err
    config = config_of(tmp_path / "frame")
    assert 'input [ { name: "input.1", data_type: TYPE_UINT8, dims: [ -1, -1, 3 ] } ]' in config
    assert "dims: [ 640, 640, 3 ]" in config[-1]


# ---------------------------------------------------------------- insightface


@pytest.mark.parametrize(("name", "versions"), [("raw", "later"), ("flat", "0.7.3")])
def test_insightface_reads_by_position(name, versions, in_process, models, tmp_path):
    model = models / f"{name}.onnx"
    ran = in_process(
        "pack", "insightface", model, "-o", tmp_path, "--name", "mine", "--versions", versions
    )

    assert ran.code == 0, ran.err
    assert "consumer kps_32 read elsewhere: 0," in ran.out
    folder = tmp_path / "models/mine"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["model_id"] == "mine"
    assert (folder / manifest["tasks"]["detection"]["file"]).read_bytes() == model.read_bytes()
    assert 'FaceAnalysis(name="mine"' in (folder / "README.md").read_text()


def test_insightface_is_told_that_the_graph_normalises_bytes(in_process, models, tmp_path):
    ran = in_process("pack", "insightface", models / "bytes.onnx", "-o", tmp_path)

    assert ran.code == 0, ran.err
    manifest = json.loads((tmp_path / "models/bytes/manifest.json").read_text())
    assert manifest["tasks"]["detection"]["preprocessing"] == "embedded"


def test_outputs_in_another_order_are_not_packed(in_process, models, tmp_path):
    """The package would take boxes for scores, without an error."""
    model = onnx.load(models / "raw.onnx")
    outputs = list(model.graph.output)
    del model.graph.output[:]
    model.graph.output.extend([*outputs[3:6], *outputs[:3], *outputs[6:]])
    onnx.save(model, tmp_path / "reordered.onnx")

    ran = in_process("pack", "insightface", tmp_path / "reordered.onnx", "-o", tmp_path)

    assert ran.code == 1
    assert "read elsewhere: inf" in ran.sentence
    assert [p.name for p in tmp_path.iterdir()] == ["reordered.onnx"]


# ---------------------------------------------------------------- ncnn-android


@pytest.fixture(scope="module")
def maps_param(models, tmp_path_factory):
    """``tiny`` for ncnn, with maps as outputs."""
    pytest.importorskip("ncnn")
    from scrfdconv.converters.formats import formats

    out = tmp_path_factory.mktemp("ncnn") / "scrfd_tiny_kps.param"
    ncnn = formats()["ncnn"]
    ncnn.build(formats()["onnx"].artifact_at(models / "maps.onnx"), None, out, "fp32")
    return out


def test_the_demos_files_have_their_names_and_are_read_anchor_by_anchor(
    in_process, maps_param, tmp_path
):
    ran = in_process("pack", "ncnn-android", maps_param, "-o", tmp_path / "assets")

    assert ran.code == 0, ran.err
    assert "consumer kps_8 read elsewhere: 0," in ran.out
    names = sorted(p.name for p in (tmp_path / "assets").iterdir())
    assert names == ["README.md", "scrfd_tiny_kps-opt2.bin", "scrfd_tiny_kps-opt2.param"]
    assert "is not in the list of the app" in (tmp_path / "assets/README.md").read_text()


def test_a_name_decides_whether_the_demos_read_keypoints(in_process, maps_param, tmp_path):
    ran = in_process("pack", "ncnn-android", maps_param, "-o", tmp_path / "a", "--name", "tiny")

    assert ran.code == 2
    assert "--name tiny_kps" in ran.sentence


# ---------------------------------------------------------------- bad input

# kind, model, options, exit code, what the sentence says
CASES = {
    "missing": ("triton", "no.onnx", [], 3, "no such file"),
    "checkpoint": ("triton", "model.pth", [], 2, "type scrfdconv onnx model.pth"),
    "wrong format": ("ncnn-android", "raw.onnx", [], 2, "ncnn raw.onnx --outputs maps"),
    "fixed batch for batching": (
        "triton", "four.onnx", ["--max-batch", 2], 2, "convert it with --batch dynamic"),
    "fixed batch for insightface": ("insightface", "four.onnx", [], 2, "a fixed batch of 4"),
    "a batch axis for 0.7.3": (
        "insightface", "raw.onnx", ["--versions", "0.7.3"], 2, "--outputs flat"),
    "faces for insightface": ("insightface", "faces.onnx", [], 2, "--outputs raw"),
    "bytes for 0.7.3": ("insightface", "bytes.onnx", ["--versions", "0.7.3"], 2, "flat"),
    "maps for insightface": ("insightface", "maps.onnx", [], 2, "--outputs raw"),
    "a name with a slash": ("triton", "raw.onnx", ["--name", "a/b"], 2, "--name a/b"),
    "no folder above": ("triton", "raw.onnx", ["-o", "raw.onnx/x"], 2, "is no folder"),
    "over a file": ("ncnn-android", "maps.onnx", ["-o", "raw.onnx"], 2, "--outputs maps"),
    "a folder that nobody writes": (
        "triton", "raw.onnx", ["-o", "/proc/x"], 2, "cannot be written"),
    "channels last for insightface": ("insightface", "frame.onnx", [], 2, "feeds NCHW, RGB"),
    "unknown kind": ("docker", "raw.onnx", [], 2, "docker"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_one_sentence(case, in_process, models):
    kind, model, more, code, said = CASES[case]
    before = {path: path.read_bytes() for path in models.iterdir()}
    where = [] if "-o" in more else ["-o", "out"]

    ran = in_process("pack", kind, model, *more, *where, cwd=models)

    assert ran.code == code, ran.err
    assert said in ran.sentence
    assert {path: path.read_bytes() for path in models.iterdir()} == before


def test_a_folder_with_anything_in_it_stays_as_it_is(in_process, models, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/raw").touch()

    ran = in_process("pack", "triton", models / "raw.onnx", "-o", tmp_path / "full", "--json")

    assert ran.json["exit_code"] == ran.code == 2
    assert "is there already" in ran.json["error"]


def test_every_kind_says_what_it_is(in_process):
    ran = in_process("pack", "--help")

    assert ran.code == 0
    assert all(name in ran.out for name in packs())
