"""WIDER FACE evaluation: resumable, the same for any number of workers, and lost workers."""

from __future__ import annotations

import math
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest

from scrfdconv.checks.widerface import geometry as widerface_images
from scrfdconv.checks.widerface.geometry import NMS_IOU, detections_on, parse_mode
from scrfdconv.checks.widerface.result_files import load_results
from scrfdconv.checks.widerface.result_folder import STAMP_FILE
from scrfdconv.converters.checkpoint.loading import seeded_checkpoint
from scrfdconv.converters.errors import (
    InputFileError,
    MissingError,
    OutputError,
    UsageError,
)
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.formats.pytorch.runner import EagerRunner
from scrfdconv.converters.graph.model_file import serialised
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.network.architecture import BUILTIN, PUBLISHED
from scrfdconv.recipes.artifacts.sources import SourceOptions
from scrfdconv.recipes.faces.evaluation import (
    EvaluationPlan,
    published_for,
    score_model,
    score_results,
)

SIZE = 64  # mode: images are fitted into 64x64, where tiny's largest anchors fill them


def run(model, widerface, progress=lambda done, total: None, **options):
    plan = EvaluationPlan(**{"mode": SIZE, "workers": 1, **options})
    return score_model(str(model), SourceOptions(), widerface, plan, progress)


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="session")
def tiny_batch(tiny, tmp_path_factory):
    """``tiny`` for exactly three images of 64x64."""
    path = tmp_path_factory.mktemp("batch") / "tiny_batch.onnx"
    path.write_bytes(
        serialised(onnx_from_checkpoint(tiny, OnnxOptions(shape=(SIZE, SIZE), batch=3)))
    )
    return path


# --- the run -----------------------------------------------------------------------------------


def test_a_model_is_scored_as_its_written_detections_are(tiny_onnx, widerface, tmp_path):
    score = run(tiny_onnx, widerface, results=tmp_path / "r")

    again = score_results(tmp_path / "r", widerface)
    assert score.evaluation.images == 5
    assert score.evaluation.ap == again.evaluation.ap
    assert score.evaluation.ap["easy"] > 0.9
    assert 0.3 < score.evaluation.ap["hard"] < 0.6  # every second face is never found


@pytest.mark.slow
def test_checkpoint_and_export_have_the_same_average_precision(tiny_pth, tiny_onnx, widerface):
    first, second = (run(model, widerface).evaluation for model in (tiny_pth, tiny_onnx))

    assert first.ap == pytest.approx(second.ap, abs=1e-4)
    assert first.predictions == second.predictions > 0


@pytest.mark.slow
def test_the_number_of_workers_changes_no_byte(tiny_onnx, widerface, tmp_path):
    run(tiny_onnx, widerface, results=tmp_path / "one")
    run(tiny_onnx, widerface, results=tmp_path / "two", workers=2)

    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.slow
def test_a_fixed_batch_gives_the_faces_of_single_images(tiny_onnx, tiny_batch, widerface, tmp_path):
    run(tiny_onnx, widerface, results=tmp_path / "one")
    run(tiny_batch, widerface, results=tmp_path / "three")  # five images: the last run is not full

    one, three = load_results(tmp_path / "one"), load_results(tmp_path / "three")
    assert one.keys() == three.keys()
    for name, found in one.items():  # columns sorted: rounding swaps faces of nearly equal score
        np.testing.assert_allclose(np.sort(three[name], 0), np.sort(found, 0), atol=1e-2)


def test_progress_tells_done_and_total(tiny_onnx, widerface):
    told = []

    run(tiny_onnx, widerface, lambda *numbers: told.append(numbers), limit=3)

    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


# --- interruption ------------------------------------------------------------------------------


def interrupted_after(count):
    def progress(done, total):
        if done == count:
            raise KeyboardInterrupt

    return progress


@pytest.mark.slow
def test_an_interrupted_run_continues_with_what_is_missing(tiny_onnx, widerface, tmp_path):
    out = tmp_path / "r"
    with pytest.raises(KeyboardInterrupt):
        run(tiny_onnx, widerface, interrupted_after(2), results=out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.txt")}

    score = run(tiny_onnx, widerface, results=out)

    assert len(before) == score.reused == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert score.evaluation.ap == run(tiny_onnx, widerface).evaluation.ap


def test_a_finished_run_runs_nothing_and_scores_the_same(
    tiny_onnx, widerface, tmp_path, monkeypatch
):
    first = run(tiny_onnx, widerface, results=tmp_path / "r")
    monkeypatch.setattr(
        "scrfdconv.recipes.faces.evaluation.detect_group", None
    )  # calling it would fail

    second = run(tiny_onnx, widerface, results=tmp_path / "r")

    assert second.reused == 5
    assert second.evaluation.ap == first.evaluation.ap


@pytest.mark.slow
def test_a_smoke_run_is_continued_by_the_full_one(tiny_onnx, widerface, tmp_path):
    assert run(tiny_onnx, widerface, results=tmp_path / "r", limit=2).evaluation.images == 2
    full = run(tiny_onnx, widerface, results=tmp_path / "r")

    assert (full.reused, full.evaluation.images) == (2, 5)


@pytest.mark.slow
@pytest.mark.parametrize("stamped", [False, True])
def test_what_a_killed_run_left_is_no_foreign_file_and_is_removed(
    stamped, tiny_onnx, widerface, tmp_path
):
    if stamped:
        run(tiny_onnx, widerface, results=tmp_path)
    left = tmp_path / ".scrfdconv-abcdefgh"
    left.mkdir()
    (left / ".scrfdconv-lock").touch()

    run(tiny_onnx, widerface, results=tmp_path)

    assert not left.exists()


# A cut inside the last score leaves as many lines as announced, and a number in each.
@pytest.mark.slow
@pytest.mark.parametrize("kept", [slice(0), slice(40), slice(-3)], ids=["none", "lines", "digits"])
def test_a_file_that_a_crash_cut_is_run_again_and_halves_are_removed(
    tiny_onnx, widerface, tmp_path, kept
):
    run(tiny_onnx, widerface, results=tmp_path)
    whole = files(tmp_path)
    victim = tmp_path / "0--Parade/0_b.txt"
    victim.write_bytes(victim.read_bytes()[kept])
    (tmp_path / "0--Parade/.0_c.txt.99999.part").write_text("half")

    score = run(tiny_onnx, widerface, results=tmp_path)

    assert score.reused == 4
    assert files(tmp_path) == whole


@pytest.mark.slow
def test_another_model_or_mode_does_not_inherit_detections(
    tiny_onnx, tiny_batch, widerface, tmp_path
):
    run(tiny_onnx, widerface, results=tmp_path, limit=1)

    for model, mode in ((tiny_batch, SIZE), (tiny_onnx, 96)):
        with pytest.raises(OutputError, match="another model or mode"):
            run(model, widerface, results=tmp_path, mode=mode)


@pytest.mark.slow
def test_a_checkpoint_read_as_another_architecture_does_not_inherit_detections(
    tiny_pth, widerface, tmp_path
):
    run(tiny_pth, widerface, results=tmp_path / "r", limit=1)
    stamp = (tmp_path / "r" / STAMP_FILE).read_text()
    (tmp_path / "r" / STAMP_FILE).write_text(stamp.replace('"head_groups": 0', '"head_groups": 4'))

    with pytest.raises(OutputError, match="another model or mode"):
        run(tiny_pth, widerface, results=tmp_path / "r")


def test_a_folder_of_something_else_is_left_alone(tiny_onnx, widerface, tmp_path):
    (tmp_path / "photo.txt").write_text("mine")

    with pytest.raises(OutputError, match="is not empty and not from a run"):
        run(tiny_onnx, widerface, results=tmp_path)

    assert [p.name for p in tmp_path.iterdir()] == ["photo.txt"]


# --- bad input ---------------------------------------------------------------------------------


@pytest.fixture
def copied(widerface, tmp_path):
    return shutil.copytree(widerface, tmp_path / "widerface")


def test_missing_images_are_counted_before_anything_runs(tiny_onnx, copied):
    (copied / "WIDER_val/images/1--Handshaking/1_b.jpg").unlink()

    with pytest.raises(InputFileError, match=r"1 of 5 images are missing, first 1--Hand.*1_b\.jpg"):
        run(tiny_onnx, copied)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_image_is_named_and_finished_ones_stay(tiny_onnx, copied, tmp_path, workers):
    (copied / "WIDER_val/images/1--Handshaking/1_b.jpg").write_bytes(b"\xff\xd8 no picture")

    with pytest.raises(InputFileError, match=r"1_b\.jpg"):
        run(tiny_onnx, copied, results=tmp_path / "r", workers=workers)

    assert list((tmp_path / "r").rglob("*.txt"))


@pytest.mark.parametrize(
    ("mode", "needs"), [("vga", "needs 640x640"), ("original", "the size of each image"), ("1", "")]
)
def test_a_fixed_model_is_not_asked_for_another_size(tiny_batch, widerface, mode, needs):
    with pytest.raises(UsageError, match=f"fixed to 64x64 .*{needs}"):
        run(tiny_batch, widerface, mode=parse_mode(mode))


def test_a_model_that_changes_during_the_run_is_noticed(tiny_onnx, tiny_batch, widerface, tmp_path):
    model = shutil.copy(tiny_onnx, tmp_path / "model.onnx")

    def swap(done, total):
        shutil.copy(tiny_batch, model)

    with pytest.raises(InputFileError, match="has changed since"):
        run(model, widerface, swap)


# --- the protocol ------------------------------------------------------------------------------


def test_detections_follow_the_published_protocol(tiny):
    image = np.random.default_rng(3).integers(0, 256, (90, 120, 3), np.uint8)

    (found,) = detections_on(EagerRunner(tiny), [image], SIZE)

    x, y, w, h, scores = found.T
    assert (scores > 0.02).all()
    assert (np.diff(scores) <= 0).all()
    assert x.min() >= 0
    assert y.min() >= 0
    assert (x + w).max() <= 120 + 1e-4
    assert (y + h).max() <= 90 + 1e-4
    assert largest_overlap(found) <= NMS_IOU


def largest_overlap(found):
    """IoU of continuous boxes, without the +1 of deployment."""
    worst = 0.0
    for i, (ax, ay, aw, ah, _) in enumerate(found):
        for bx, by, bw, bh, _ in found[:i]:
            across = min(ax + aw, bx + bw) - max(ax, bx)
            down = min(ay + ah, by + bh) - max(ay, by)
            common = max(across, 0) * max(down, 0)
            worst = max(worst, common / (aw * ah + bw * bh - common))
    return worst


def test_a_score_of_exactly_the_threshold_is_not_above_it():
    assert np.float32(0.02) < widerface_images.SCORE_ABOVE


# --- published ---------------------------------------------------------------------------------


def test_a_trained_known_model_stands_beside_its_published_row(tmp_path):
    checkpoint = seeded_checkpoint(BUILTIN["scrfd_500m_kps"])
    trained = replace(checkpoint, path=tmp_path / "trained.pth")

    assert published_for(trained, EagerRunner(trained)) == PUBLISHED["scrfd_500m_kps"]
    assert published_for(checkpoint, EagerRunner(checkpoint)) is None


def test_an_unknown_model_has_no_published_row(tiny_onnx, tiny):
    assert published_for(replace(tiny, path=tiny_onnx), OnnxRunner(tiny_onnx)) is None


# --- a cluster ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the library's own, about sockets and ports
def test_a_cluster_scores_the_same_and_a_lost_worker_loses_nothing(tiny_onnx, widerface, tmp_path):
    distributed = pytest.importorskip("distributed")
    alone = run(tiny_onnx, widerface, results=tmp_path / "alone")
    killed = []

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:

        def kill_one(done, total):
            if done and not killed:
                killed.append(next(iter(cluster.workers.values())).pid)
                os.kill(killed[0], signal.SIGKILL)

        address = cluster.scheduler_address
        score = run(tiny_onnx, widerface, kill_one, results=tmp_path / "dask", scheduler=address)

    assert killed
    assert score.evaluation.ap == alone.evaluation.ap
    assert files(tmp_path / "dask") == files(tmp_path / "alone")


@pytest.mark.sampled(2)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x"])
def test_a_cluster_that_is_not_there_is_said(tiny_onnx, widerface, monkeypatch, address):
    pytest.importorskip("distributed")
    monkeypatch.setattr("scrfdconv.recipes.cluster.CONNECT_SECONDS", 1.0)

    with pytest.raises(MissingError, match="no Dask scheduler answers"):
        run(tiny_onnx, widerface, scheduler=address)


def test_without_dask_the_extra_is_named(tiny_onnx, widerface, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "distributed", None)

    with pytest.raises(MissingError, match=r"pip install 'scrfdconv\[dask\]'"):
        run(tiny_onnx, widerface, scheduler="tcp://127.0.0.1:8786")


# --- real data ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_published_result_set_keeps_its_average_precision(data):
    if not (data / "wider").is_dir():
        pytest.skip(f"the WIDER FACE ground truth is not here: {data / 'wider'}")

    archive = data / "wider/retinaface_mobilenet0.25_results.zip"
    score = score_results(archive, data / "wider", limit=100)

    assert score.evaluation.images == 100
    assert not any(math.isnan(ap) for ap in score.evaluation.ap.values())
