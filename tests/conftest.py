"""Fixtures that every test shares."""

from __future__ import annotations

import functools
import importlib.util
import os
import runpy
import signal
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scrfdconv.checks import stimuli
from scrfdconv.converters.checkpoint.loading import Checkpoint, seeded_checkpoint
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.graph.model_file import serialised
from scrfdconv.converters.network import seeded
from scrfdconv.converters.network.architecture import Architecture

ROOT = Path(__file__).resolve().parent.parent

# Two test processes on two cores: the threads of one would spin while those of the other work.
# Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Hundreds of command lines run: compiling two hundred modules for each takes half a second.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Scripts start background jobs with Ctrl-C ignored, and children inherit that: tests of
# interruptions would interrupt nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Begins first, so that no process ends minutes after the other.
LONGEST = "tests/test_package.py"


def pytest_collection_modifyitems(items):
    """The longest first; of a sampled test, every n-th case by default and the rest when slow."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))
    seen = Counter()
    for item in items:
        if sampled := item.get_closest_marker("sampled"):
            test = item.nodeid.partition("[")[0]
            if seen[test] % sampled.args[0]:
                item.add_marker("slow")
            seen[test] += 1


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real checkpoints, ONNX files and photographs; absent on most machines."""
    folder = Path(os.environ.get("SCRFDCONV_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real models and photographs are not here: {folder}")
    return folder


# Dozens of tests want the same seeded networks. Whoever tests the drawing itself calls the
# function underneath (`__wrapped__`).
seeded.seeded_weights = functools.cache(seeded.seeded_weights)
# And the same pictures: drawing faces takes longer than a tiny network that looks at them.
stimuli.stimulus = functools.lru_cache(64)(stimuli.stimulus)

TINY = Architecture(
    "tiny", "basic", (4, 4, 8), (1, 1, 1, 1), (8, 8, 16, 16), 8, (8, 8, 8), (1, 1, 1),
    head_groups=0, head_shared=False, head_separable=False, box_scales=True, keypoints=5,
)  # fmt: skip
TINY_GN = replace(
    TINY, name="tiny_gn", head_channels=(8,), head_convs=(2,), head_groups=4, head_shared=True,
    keypoints=0,
)  # fmt: skip


@pytest.fixture(scope="session")
def tiny() -> Checkpoint:
    """A network of 10 thousand parameters with BatchNorm heads and keypoints."""
    return seeded_checkpoint(TINY)


@pytest.fixture(scope="session")
def tiny_gn() -> Checkpoint:
    """The same with one GroupNorm head for all strides, without keypoints."""
    return seeded_checkpoint(TINY_GN)


@pytest.fixture(scope="session")
def tiny_onnx(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dynamic ONNX export of ``tiny``."""
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    path.write_bytes(serialised(onnx_from_checkpoint(tiny, OnnxOptions())))
    return path


@pytest.fixture(scope="session")
def tiny_pth(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny`` as mmdet saves checkpoints."""
    import torch

    path = tmp_path_factory.mktemp("pth") / "tiny.pth"
    torch.save({"meta": {"epoch": 1}, "state_dict": dict(tiny.weights)}, path)
    return path


def _fake_tensorrt() -> Any:
    spec = importlib.util.spec_from_file_location(
        "tensorrt_fake", Path(__file__).with_name("fakes") / "tensorrt_fake.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


FAKE = _fake_tensorrt()


@pytest.fixture(params=FAKE.VERSIONS)
def machine(request, monkeypatch):
    """A machine with a fake GPU and a strict fake of tensorrt, once per version of its API."""
    return FAKE.install(monkeypatch, request.param)


@pytest.fixture
def newest_machine(monkeypatch):
    """The same with the newest version, for what does not depend on it."""
    return FAKE.install(monkeypatch, FAKE.VERSIONS[-1])


@pytest.fixture(scope="session")
def widerface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in the layout of WIDER FACE: five small images of noise, two faces in each.

    ``tiny`` finds the first face of an image, which nearly fills it, and never the second.
    """
    import cv2
    import numpy as np
    from scipy.io import savemat

    folder = tmp_path_factory.mktemp("widerface")
    noise = np.random.default_rng(0)
    events = {"0--Parade": ["0_a", "0_b", "0_c"], "1--Handshaking": ["1_a", "1_b"]}
    for event, names in events.items():
        images = folder / "WIDER_val/images" / event
        images.mkdir(parents=True)
        for name in names:
            cv2.imwrite(str(images / f"{name}.jpg"), noise.integers(0, 256, (90, 120, 3), np.uint8))

    def cells(items):
        column = np.empty((len(items), 1), object)
        for row, item in enumerate(items):
            column[row, 0] = item
        return column

    def for_each(item):
        return cells([cells([item for _ in names]) for names in events.values()])

    truth = {
        "event_list": cells(list(events)),
        "file_list": cells([cells(names) for names in events.values()]),
        "face_bbx_list": for_each(np.array([[5, 0, 110, 89], [50, 20, 9, 9]])),
    }
    (folder / "ground_truth").mkdir()
    savemat(folder / "ground_truth/wider_face_val.mat", truth)
    for subset, faces in (("easy", [[1]]), ("medium", [[1]]), ("hard", [[1], [2]])):
        path = folder / f"ground_truth/wider_{subset}_val.mat"
        savemat(path, {**truth, "gt_list": for_each(np.array(faces))})
    return folder


@pytest.fixture(scope="session")
def builds() -> dict[str, Any]:
    """Makers of what builds could have found: ``release``, ``small``, ``nothing``."""
    return runpy.run_path(str(Path(__file__).with_name("fakes") / "build_result.py"))


@pytest.fixture(scope="session")
def small_result(builds: dict[str, Any]) -> Any:
    """Two checkpoints with every state and awkward names."""
    return builds["small"]()


@pytest.fixture(scope="session")
def release_result(builds: dict[str, Any]) -> Any:
    """88 artifacts of eight checkpoints."""
    return builds["release"]()
