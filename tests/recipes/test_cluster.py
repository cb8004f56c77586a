"""Agreement and builds on a local Dask cluster: workers get lost, differ, or are not there."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from dataclasses import asdict, replace
from operator import mul

import pytest

from scrfdconv.converters.errors import InputFileError, MissingError
from scrfdconv.recipes import cluster
from scrfdconv.recipes.artifacts.sources import SourceOptions
from scrfdconv.recipes.artifacts.target import target_of
from scrfdconv.recipes.build.build import BuildOptions, build
from scrfdconv.recipes.build.recipe import CheckpointEntry, Recipe, TargetEntry
from scrfdconv.recipes.cluster import Common, on_dask
from scrfdconv.recipes.faces import agreement
from scrfdconv.recipes.faces.agreement import Spread, score_agreement

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the library's own, about sockets and ports
COUNT = 12  # photographs: more than both workers are given at first


def local_cluster(workers=2):
    return distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=50
    )


@pytest.fixture(scope="module")
def machines():
    with local_cluster() as found:
        yield found


@contextmanager
def losing_a_worker(machines):
    """A function that kills one worker at its first call; fails where it was never called."""
    killed = []

    def lose(*_):
        if not killed:
            killed.append(next(iter(machines.workers.values())).pid)
            os.kill(killed[0], signal.SIGKILL)

    yield lose
    assert killed


@pytest.fixture(scope="module")
def photographs(widerface, tmp_path_factory):
    """Links to the data set's five pictures, each one several times under other names."""
    folder = tmp_path_factory.mktemp("photographs")
    pictures = sorted((widerface / "WIDER_val/images").rglob("*.jpg"))
    for i in range(COUNT):
        (folder / f"{i:02}.jpg").write_bytes(pictures[i % len(pictures)].read_bytes())
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def other_onnx(tiny_onnx, tmp_path_factory):
    """The export with every tenth weight moved: other scores and boxes, most faces the same."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(tiny_onnx)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if values.ndim == 4:
            values.reshape(-1)[::10] *= 1.01
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    path = tmp_path_factory.mktemp("other") / "other.onnx"
    onnx.save(model, path)
    return path


def judged(model, reference, pictures, **spread):
    return asdict(
        score_agreement(
            str(model), str(reference), SourceOptions(), pictures, spread=Spread(**spread)
        )
    )


# --- agreement ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_size_of_a_part_changes_no_digit(other_onnx, tiny_onnx, photographs, monkeypatch):
    found = []
    for size in (1, 5, 32):
        monkeypatch.setattr(agreement, "PART", size)
        found.append(judged(other_onnx, tiny_onnx, photographs, workers=1))

    assert found[0] == found[1] == found[2]
    assert found[0]["images"] == COUNT
    assert 0 < found[0]["mean_score_difference"] < 1


@pytest.mark.slow  # workers load their libraries
def test_a_cluster_that_loses_a_worker_finds_the_same_numbers(
    machines, other_onnx, tiny_onnx, photographs, monkeypatch
):
    alone = judged(other_onnx, tiny_onnx, photographs, workers=1)
    monkeypatch.setattr(agreement, "PART", 1)

    with losing_a_worker(machines) as lose:
        spread = asdict(
            score_agreement(
                str(other_onnx),
                str(tiny_onnx),
                SourceOptions(),
                photographs,
                lose,
                Spread(scheduler=machines.scheduler_address),
            )
        )

    assert spread == alone


def test_a_damaged_photograph_on_a_worker_is_named(machines, tiny_onnx, photographs, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8 no picture")

    with pytest.raises(InputFileError, match=r"bad\.jpg"):
        judged(tiny_onnx, tiny_onnx, [bad], scheduler=machines.scheduler_address)


# --- broken clusters ---------------------------------------------------------------------------


def found_by(address, common):
    """Twice each number; a worker can load ``mul``, but no function of a module of tests."""
    return sorted(result for _, result in on_dask(address, mul, 2, range(9), common))


def test_a_worker_of_another_version_is_refused(machines):
    address, common = machines.scheduler_address, Common.of(["onnxruntime"])
    other = replace(common, versions={**common.versions, "onnxruntime": "0.1"})

    assert found_by(address, common) == [2 * i for i in range(9)]
    with pytest.raises(MissingError, match=r"Worker tcp://.* has onnxruntime \S+ instead of 0\.1;"):
        found_by(address, other)


def test_a_worker_without_the_folder_is_refused(machines, tmp_path):
    common = replace(Common.of(()), proof=tmp_path / "proof", content="this build")

    for content in (None, "another build"):
        if content:
            common.proof.write_text(content)
        with pytest.raises(MissingError, match=f"does not see the files in {tmp_path};"):
            found_by(machines.scheduler_address, common)
    common.proof.write_text(common.content)
    assert len(found_by(machines.scheduler_address, common)) == 9


def test_a_cluster_without_workers_is_said(monkeypatch):
    monkeypatch.setattr(cluster, "WORKER_SECONDS", 1.0)
    with local_cluster(workers=0) as empty, pytest.raises(MissingError, match="no worker has"):
        found_by(empty.scheduler_address, Common.of(()))


# --- builds ------------------------------------------------------------------------------------


class Watched:
    """A view that calls a function with each finished artifact."""

    def __init__(self, call):
        self.call = call

    def finished(self, outcome, planned):
        self.call(outcome)

    def planned(self, names):
        pass

    def started(self, name):
        pass


def recipe_in(folder, weights):
    fixed = {"shape": (64, 96)}
    targets = [
        target_of("onnx", "fp32", {}), target_of("onnx", "fp16", fixed),
        target_of("torchscript", "fp32", {}),
    ]  # fmt: skip
    entries = tuple(TargetEntry(target=target) for target in targets)
    checkpoint = CheckpointEntry("a", weights)
    return Recipe("r", folder / "r.toml", (checkpoint,), entries, latency=False)


def files(out):
    """Everything but times and the lock, with its content."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and "times" not in path.parts and path.name != "lock"
    }


@pytest.mark.slow  # a process for each step, which loads torch
def test_a_build_that_loses_a_worker_leaves_the_same_bytes(machines, tiny_pth, tmp_path):
    recipe = recipe_in(tmp_path, tiny_pth)
    here = build(recipe, tmp_path / "here", BuildOptions(jobs=2), Watched(lambda _: None))

    with losing_a_worker(machines) as lose:
        options = BuildOptions(scheduler=machines.scheduler_address)
        there = build(recipe, tmp_path / "there", options, Watched(lose))

    assert [o.state for o in there.outcomes] == ["built"] * 3
    assert [o.sha256 for o in there.outcomes] == [o.sha256 for o in here.outcomes]
    assert files(tmp_path / "there") == files(tmp_path / "here")


@pytest.mark.slow
def test_a_worker_that_sees_another_checkpoint_stops_the_build(machines, tiny_pth, tmp_path):
    weights = tmp_path / "a.pth"
    weights.write_bytes(tiny_pth.read_bytes())
    recipe = recipe_in(tmp_path, weights)
    view = Watched(lambda _: None)
    view.planned = lambda _: weights.write_bytes(b"another file")  # after the plan was made

    with pytest.raises(InputFileError, match="sees another checkpoint"):
        build(recipe, tmp_path / "out", BuildOptions(scheduler=machines.scheduler_address), view)

    assert not list((tmp_path / "out").rglob("*.onnx"))
