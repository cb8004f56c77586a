"""How fast models are, side by side: each in a process of its own, taking turns.

Turns (A B A B ...) let drift of the machine hit all models alike, so ratios are taken between
runs of the same round. A process for each model keeps their thread pools and memory apart.
"""

from __future__ import annotations

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
from scrfdconv.converters.errors import ArtifactError, CheckFailed, MissingError
from scrfdconv.converters.formats import formats
from scrfdconv.converters.metadata import installed_version
from scrfdconv.converters.normalization import Normalization
from scrfdconv.converters.runner import Interface, Runner
from scrfdconv.converters.system.machine import cpu_name
from scrfdconv.converters.system.workers import Died, Worker

Seconds = npt.NDArray[np.float64]

DEFAULT_RUNS = 50
DEFAULT_WARM_UP = 5  # the first runs allocate, choose kernels and wake threads
# The last model's threads wait for work at full speed for a while, which slows the next model
# down where all processors are in use: 24 ms with ONNX Runtime, 10 ms with torch's OpenMP
# (processor time after a run of the 2.5G model with two threads).
PAUSE_SECONDS = 0.03
SEED = 0  # of the noise images; the time of a model does not depend on the seed
# Distributions of ONNX Runtime other than the plain one, and what prepares the images.
_BESIDE_FORMATS = ("onnxruntime-openvino", "onnxruntime-gpu", "numpy")

Open = Callable[[], Runner]  # picklable: it is called in the model's own process
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
    choose: Callable[[Sequence[Interface]], Workload],
    threads: int | None = None,
    *,
    twins: bool = False,
    photographs: Sequence[Path] = (),
) -> Iterator[Contest]:
    """Models by name in processes of their own, warmed up; ``choose`` picks the workload.

    ``choose`` gets what each model accepts. ``threads`` limits each model's runtime; None leaves
    it to the runtimes. With ``twins``, a file that this machine can compute in two arithmetics
    runs in both. The faces of ``photographs`` are found before the first measured run.
    """
    with ExitStack() as stack:

        def model_called(name: str, model: Open) -> _TimedModel:
            worker = stack.enter_context(Worker[_Call, Any](_answer, threads))
            return _TimedModel(name, model, worker)

        timed, interfaces = list[_TimedModel](), list[Interface]()
        for name, opening in models.items():
            timed.append(model_called(name, opening))
            opened = timed[-1].open(twins=twins)
            interfaces.append(opened.interface)
            if opened.has_twin:
                timed.append(model_called(name, partial(_twin_of, opening)))
                timed[-1].open()
        workload = choose(interfaces)
        for model in timed:
            # Files of some formats cannot say how pictures are prepared: as for the first model.
            model.find_faces(photographs, workload.shape, interfaces[0].normalization)
        for model in timed:
            model.warm_up(workload)
        yield Contest(timed, workload)


class Contest:
    """Models that take turns; those that leave end with the runs that they have."""

    def __init__(self, models: Sequence[_TimedModel], workload: Workload) -> None:
        self._models, self.workload = models, workload
        self._left: dict[_TimedModel, Timing] = {}

    @property
    def faces(self) -> list[tuple[Faces, ...]]:
        """What each model finds on each photograph, before the deployment threshold."""
        return [model.faces for model in self._models]

    def run(self, times: int, progress: Callable[[int], None] = lambda done: None) -> None:
        """Let every model that is still here run so many times, in turns."""
        for done in range(1, times + 1):
            for model in self._models:
                if model not in self._left:
                    model.run()
            progress(done)

    def leave(self, places: Collection[int]) -> None:
        """End the processes of the models at these places of ``timings``."""
        for place in places:
            model = self._models[place]
            if model not in self._left:
                self._left[model] = model.timing(self.workload)
                model.end()

    def timings(self) -> list[Timing]:
        """What was measured so far, also of the models that left."""
        return [self._left.get(model) or model.timing(self.workload) for model in self._models]


def measure(
    models: Mapping[str, Open],
    choose: Callable[[Sequence[Interface]], Workload],
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
        self.faces: tuple[Faces, ...] = ()  # of each photograph, before the threshold
        self.opened: _Opened

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        found = self._worker.ask((function, arguments))
        if isinstance(found, Died):
            raise MissingError(
                f"{self.name}: its process was ended, as systems do when memory runs out; try a "
                "smaller --shape or --batch."
            )
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
        self._runs.append(self._ask(_run))
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
            peak_bytes=self._ask(peak_memory),
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


def _run() -> tuple[float, float]:
    runner, images = _here["runner"], _here["fed"]
    busy, wall = time.process_time(), time.perf_counter()
    runner.run_fed(images)
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    return wall, busy


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
