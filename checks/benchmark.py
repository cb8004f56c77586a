"""How fast models are, side by side: each in a process of its own, taking turns.

Turns (A B A B ...) let drift of the machine hit all models alike, so ratios are taken between
runs of the same round. A process for each model keeps their thread pools and memory apart.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scrfdconv.checks.faces.compare import faces_on_input, model_input
from scrfdconv.checks.faces.decode import DEPLOYMENT_THRESHOLD, Faces, candidates
from scrfdconv.checks.faces.images import normalise
from scrfdconv.converters.errors import (
    ArtifactError,
    CheckFailed,
    MissingError,
    ScrfdconvError,
    reason_of,
)
from scrfdconv.converters.formats import formats
from scrfdconv.converters.metadata import installed_version
from scrfdconv.converters.normalization import Normalization
from scrfdconv.converters.runner import Interface, Runner
from scrfdconv.converters.system.machine import cpu_name
from scrfdconv.converters.system.workers import Died, Worker

logger = logging.getLogger(__name__)

Seconds = npt.NDArray[np.float64]

DEFAULT_RUNS = 50
DEFAULT_WARM_UP = 5  # the first runs allocate, choose kernels and wake threads
# The last model's threads wait for work at full speed for a while, which slows the next model
# down where all processors are in use: 24 ms with ONNX Runtime, 10 ms with torch's OpenMP
# (processor time after a run of the 2.5G model with two threads).
PAUSE_SECONDS = 0.03
# For one answer of a model's process: opening a file and one run. 34G at 1280x1280 on one core
# takes seconds, and runtimes compile for a minute or two. What is longer silent hangs.
PATIENCE_SECONDS = 600.0
SEED = 0  # of the noise images; the time of a model does not depend on the seed
# Distributions of ONNX Runtime other than the plain one, and what prepares the images.
_BESIDE_FORMATS = ("onnxruntime-openvino", "onnxruntime-gpu", "numpy")

Open = Callable[[], Runner]  # picklable: it is called in the model's own process
GiveUp = Callable[[str, str], None]  # called with a model that failed, and the reason
Choose = Callable[[Mapping[str, Interface]], "Workload"]  # what each model accepts -> what all run
_Call = tuple[Callable[..., Any], tuple[Any, ...]]  # a function and its arguments


@dataclass(frozen=True)
class Timing:
    """One model's measured runs."""

    name: str  # the same for both timings of a file that is timed in two arithmetics
    seconds: Seconds  # (runs,) of one batch each
    processor: Seconds  # (runs,) processor time, over all threads
    peak_bytes: int  # of its process, libraries included
    batch: int
    precision: str = "fp32"  # and the arithmetic of float layers, where that is no float32
    remark: str = ""  # of the runtime, such as what another device computed
    setting: str = ""  # the runtime's property that chose the arithmetic, where there is one

    @property
    def median(self) -> float:
        """Seconds for one batch."""
        return float(np.median(self.seconds))

    def percentile(self, percent: float) -> float:
        """Seconds that so many percent of the runs stay below or at."""
        return float(np.percentile(self.seconds, percent, method="higher"))

    @property
    def cores(self) -> float:
        """Processors that were busy on average: what the runtime really used."""
        return float(self.processor.sum() / self.seconds.sum())

    @property
    def throughput(self) -> float:
        """Images in a second, over all runs."""
        return self.batch * len(self.seconds) / float(self.seconds.sum())


@dataclass(frozen=True)
class Ratio:
    """The time of another model divided by the first model's time, over all rounds."""

    median: float
    low: float  # 10 % of the rounds are below
    high: float  # 10 % are above


def ratio(timing: Timing, first: Timing) -> Ratio:
    """Compare run by run: both runs of a round met the same state of the machine.

    Rounds that only one of the two took part in do not count.
    """
    shared = min(len(timing.seconds), len(first.seconds))
    low, median, high = np.percentile(
        timing.seconds[:shared] / first.seconds[:shared], (10, 50, 90)
    )
    return Ratio(float(median), float(low), float(high))


@dataclass(frozen=True)
class Workload:
    """What all models run on, and how often."""

    batch: int
    shape: tuple[int, int]  # height, width
    runs: int = DEFAULT_RUNS
    warm_up: int = DEFAULT_WARM_UP


@contextmanager
def contest(
    models: Mapping[str, Open],
    choose: Choose,
    threads: int | None = None,
    *,
    twins: bool = False,
    photographs: Sequence[Path] = (),
    give_up: GiveUp | None = None,
) -> Iterator[Contest]:
    """Models by name in processes of their own, warmed up; ``choose`` picks the workload.

    ``choose`` gets what each model accepts. ``threads`` limits each model's runtime; None leaves
    it to the runtimes. With ``twins``, a file that this machine can compute in two arithmetics
    runs in both. The faces of ``photographs`` are found before the first measured run. A model
    that fails is told to ``give_up`` and left out, unless it is the first one; without
    ``give_up`` its error is raised.
    """
    with ExitStack() as stack:

        def model_called(name: str, model: Open) -> _TimedModel:
            worker = stack.enter_context(Worker[_Call, Any](_answer, threads))
            return _TimedModel(name, model, worker)

        one = Contest(give_up)
        for name, opening in models.items():
            model = one.add(model_called(name, opening))
            with one.sparing(model):
                model.open(twins=twins)
                if model.opened.has_twin:
                    one.add(model_called(name, partial(_twin_of, opening))).open()
        one.prepare(choose, photographs)
        yield one


class Contest:
    """Models that take turns; those that leave end with the runs that they have."""

    workload: Workload

    def __init__(self, give_up: GiveUp | None = None) -> None:
        self._all: list[_TimedModel] = []
        self._give_up, self._failed = give_up, set[str]()
        self._left: set[_TimedModel] = set()

    def add(self, model: _TimedModel) -> _TimedModel:
        """Let ``model`` take part."""
        self._all.append(model)
        return model

    def prepare(self, choose: Choose, photographs: Sequence[Path]) -> None:
        """Choose the workload, find the faces, and warm all models up."""
        interfaces = {model.name: model.opened.interface for model in self._here()}
        self.workload = choose(interfaces)
        # Files of some formats cannot say how pictures are prepared: as for the first model.
        assumed = next(iter(interfaces.values())).normalization
        for model in self._here():
            with self.sparing(model):
                model.find_faces(photographs, self.workload.shape, assumed)
        for model in self._here():
            with self.sparing(model):
                model.warm_up(self.workload)

    def _here(self) -> Iterator[_TimedModel]:
        """The models that have not failed so far; both timings of a file fail together."""
        return (model for model in self._all if model.name not in self._failed)

    @contextmanager
    def sparing(self, model: _TimedModel) -> Iterator[None]:
        """Let an error of ``model`` in the block cost that model only, unless it is the first."""
        try:
            yield
        except Exception as error:  # of any library, in the model's own process
            if self._give_up is None or model.name == self._all[0].name:
                raise
            if not isinstance(error, ScrfdconvError):
                logger.info("%s", model.name, exc_info=error)
            self._failed.add(model.name)
            model.end()
            self._give_up(model.name, reason_of(error))

    @property
    def faces(self) -> dict[tuple[str, str], tuple[Faces, ...]]:
        """What each model, by name and precision, finds on each photograph, before a threshold."""
        return {(model.name, model.opened.precision): model.faces for model in self._here()}

    def run(self, times: int, progress: Callable[[int], None] = lambda done: None) -> None:
        """Let every model that is still here run so many times, in turns."""
        for done in range(1, times + 1):
            for model in self._here():
                if model not in self._left:
                    with self.sparing(model):
                        model.run()
            progress(done)

    def leave(self, places: Collection[int]) -> None:
        """End the processes of the models at these places of ``timings``."""
        here = list(self._here())
        for model in {here[place] for place in places} - self._left:
            self._left.add(model)
            model.end()

    def timings(self) -> list[Timing]:
        """What was measured so far of the models that have not failed, also if they left."""
        return [model.timing(self.workload) for model in self._here()]


def measure(
    models: Mapping[str, Open],
    choose: Choose,
    threads: int | None = None,
    *,
    twins: bool = False,
) -> tuple[list[Timing], Workload]:
    """Time the models of a `contest` in which all of them run to the end."""
    with contest(models, choose, threads, twins=twins) as found:
        found.run(found.workload.runs)
        return found.timings(), found.workload


class _TimedModel:
    """One model in its own process, which runs only when it is asked to."""

    def __init__(self, name: str, model: Open, worker: Worker[_Call, Any]) -> None:
        self.name = name
        self._open, self._worker = model, worker
        self._runs: list[tuple[float, float]] = []  # wall, processor
        self._peak = 0  # bytes
        self.faces: tuple[Faces, ...] = ()  # of each photograph, before the threshold
        self.opened: _Opened

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        found = self._worker.ask((function, arguments), PATIENCE_SECONDS)
        if isinstance(found, Died):
            raise MissingError(f"{self.name}: {found.why}; try a smaller --shape or --batch.")
        return found

    def open(self, *, twins: bool = False) -> _Opened:
        self.opened = self._ask(_open, self._open, twins)
        return self.opened

    def find_faces(
        self, photographs: Sequence[Path], size: tuple[int, int], assumed: Normalization
    ) -> None:
        self.faces = tuple(self._checked(_faces_on, path, size, assumed) for path in photographs)

    def _checked(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return self._ask(function, *arguments)
        except CheckFailed as error:
            raise ArtifactError(f"{self.name}: {error}") from error

    def warm_up(self, workload: Workload) -> None:
        self._checked(_prepare, workload)
        for _ in range(workload.warm_up):
            self._ask(_run)

    def run(self) -> None:
        wall, busy, self._peak = self._ask(_run)
        self._runs.append((wall, busy))
        time.sleep(PAUSE_SECONDS)

    def end(self) -> None:
        """End the process: its memory and its threads are free for the others."""
        self._worker.end()

    def timing(self, workload: Workload) -> Timing:
        wall, busy = np.array(self._runs).T
        return Timing(
            name=self.name,
            seconds=wall,
            processor=busy,
            peak_bytes=self._peak,
            batch=workload.batch,
            precision=self.opened.precision,
            remark=self.opened.remark,
            setting=self.opened.setting,
        )


# ---------------------------------------------------------------- inside a model's process

_here: dict[str, Any] = {}


def _answer(call: _Call) -> Any:
    function, arguments = call
    return function(*arguments)


@dataclass(frozen=True)
class _Opened:
    interface: Interface
    precision: str
    has_twin: bool
    remark: str
    setting: str


def _open(model: Open, twins: bool) -> _Opened:
    runner = _here["runner"] = model()
    precision, arithmetic = runner.precision, runner.computes_in
    told = precision if arithmetic in (precision, "fp32") else f"{precision}, {arithmetic}"
    has_twin = twins and runner.twin() is not None
    return _Opened(runner.interface, told, has_twin, runner.remark, runner.arithmetic_setting)


def _twin_of(model: Open) -> Runner:
    twin = model().twin()
    assert twin is not None
    return twin


def _faces_on(path: Path, size: tuple[int, int], assumed: Normalization) -> Faces:
    runner = _here["runner"]
    return faces_on_input(runner, model_input(path, size, runner.interface.stated or assumed))


def _prepare(workload: Workload) -> None:
    noise = np.random.default_rng(SEED)
    pixels = noise.integers(0, 256, (workload.batch, *workload.shape, 3), np.uint8)
    runner = _here["runner"]
    images = normalise(pixels, runner.interface.normalization)
    _here["fed"] = runner.interface.fed(images)  # what deployers have at hand: not timed
    # The time of a model that is no SCRFD, or whose outputs are not finite, would mean nothing.
    candidates(runner.run(images), workload.shape, DEPLOYMENT_THRESHOLD)


def _run() -> tuple[float, float, int]:
    runner, images = _here["runner"], _here["fed"]
    busy, wall = time.process_time(), time.perf_counter()
    runner.run_fed(images)
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    return wall, busy, peak_memory()


def peak_memory() -> int:
    """Most memory that this process has used so far, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: Linux carries a parent's peak over into the processes that it starts.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import psutil

    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))  # the peak on Windows


# ---------------------------------------------------------------- the machine


def bench_environment(threads: Sequence[int | None]) -> dict[str, Any]:
    """What a time depends on besides the model, for one or several numbers of threads."""
    told = [number or "runtime default" for number in threads]
    return {
        "cpu": cpu_name(),
        "processors": os.cpu_count(),
        "threads": told[0] if len(told) == 1 else told,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "libraries": {name: found for name in _libraries() if (found := installed_version(name))},
    }


def _libraries() -> dict[str, None]:
    runtimes = (name for one in formats().values() for name in one.modules)
    return dict.fromkeys((*runtimes, *_BESIDE_FORMATS))
