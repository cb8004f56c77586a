"""Many processes for one function, on a Dask cluster.

The workers need this package in the same version, the same versions of the libraries that decide
numbers, and the same files under the same names. Each task compares its worker with the process
that asked: a result of another version never counts. Tasks of a lost worker run again on another
worker, and so do tasks whose error may pass, such as one of a network's disk.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from scrfdconv.converters.errors import MissingError, ScrfdconvError
from scrfdconv.converters.metadata import installed_version
from scrfdconv.converters.system.interruption import finish_first
from scrfdconv.converters.system.workers import Died
from scrfdconv.recipes.build.digests import code_digest

Task = TypeVar("Task")
Result = TypeVar("Result")
Function = Callable[[Any, Task], "Result | Died"]

PACKAGE = "scrfdconv"
CONNECT_SECONDS = 10.0  # a running scheduler answers in milliseconds
WORKER_SECONDS = 60.0  # a worker that the system starts anew loads its libraries in less
POLL_SECONDS = 1.0  # between two looks whether the cluster still lives
RETRIES = 2  # of a task that fails by an error of its worker's system
AHEAD = 2  # tasks for each thread, so that no worker waits for the next one
_TALKATIVE = ("distributed.client", "distributed.core", "distributed.comm", "distributed.batched")
SHOWN_DIGITS = 12  # of the code's digest


@dataclass(frozen=True)
class Common:
    """What a worker must have in common with the process that asks."""

    versions: Mapping[str, str]
    proof: Path | None = None  # a file in a shared folder
    content: str = ""  # of ``proof``

    @classmethod
    def of(cls, libraries: Iterable[str]) -> Common:
        """The versions in this process, of the package and of ``libraries``."""
        return cls(versions_here(libraries))

    def differences(self) -> str:
        """How this process differs, as a part of a sentence; "" where it does not."""
        mine = versions_here(self.versions)
        other = [f"{name} {mine[name]} instead of {v}" for name, v in self.versions.items()
                 if mine[name] != v]  # fmt: skip
        if other:
            return f"has {', '.join(other)}; install the same versions on all machines"
        if self.proof and not _holds(self.proof, self.content):
            return (
                f"does not see the files in {self.proof.parent}; every machine needs that folder "
                "under the same name"
            )
        return ""


@dataclass(frozen=True)
class Refused:
    """Why a worker did not run a task; comes as a value, because Dask would retry an error."""

    error: ScrfdconvError


def versions_here(libraries: Iterable[str]) -> dict[str, str]:
    """The versions in this process; the package's own is the digest of its code."""
    names = dict.fromkeys(libraries)
    names.pop(PACKAGE, None)
    own = {PACKAGE: code_digest()[:SHOWN_DIGITS]}
    return own | {name: installed_version(name) or "-" for name in names}


class Cluster(Generic[Task, Result]):
    """The workers of a Dask cluster, as `converters.system.workers.Workers` of other machines.

    A task whose workers died again and again gives `Died`. Raises MissingError where no scheduler
    or no worker answers, and where a worker is another one than asked for.
    """

    def __init__(
        self, address: str, function: Function[Task, Result], job: Any, common: Common, ahead: int
    ) -> None:
        self._address, self._ahead = address, ahead
        self._call = (function, job, common)
        self._running: dict[str, tuple[Any, Task]] = {}
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __enter__(self) -> Cluster[Task, Result]:
        self._client = _client(self._address)
        self._alive = time.monotonic()
        return self

    @finish_first
    def __exit__(self, *_: object) -> None:
        self._client.cancel([future for future, _ in self._running.values()], force=True)
        self._client.close()

    @property
    def idle(self) -> int:
        """How many tasks could be started now; one at least, which may call workers in."""
        threads: int = sum(self._client.nthreads().values())
        return max(threads * self._ahead, 1) - len(self._running)

    def start(self, task: Task, *, fresh: bool = False) -> None:
        """Run ``task`` on any worker."""
        # With pure=True, Dask would take two runs for one and return old results of changed files.
        future = self._client.submit(_called, *self._call, task, pure=False, retries=RETRIES)
        self._running[future.key] = (future, task)
        future.add_done_callback(self._done.put)

    def finished(self) -> Iterator[tuple[Task, Result | Died]]:
        """Wait until a task is done; yield it. Raises what ``function`` raised."""
        future = self._next_done()
        result = self._result(future)
        _, task = self._running.pop(future.key)
        yield task, result

    def _next_done(self) -> Any:
        while True:
            try:
                return self._done.get(timeout=POLL_SECONDS)
            except queue.Empty:
                self._require_alive()

    def _require_alive(self) -> None:
        """Raise MissingError where there was no scheduler or no worker for a while."""
        connected = self._client.status == "running"
        if connected and self._client.nthreads():
            self._alive = time.monotonic()
        elif time.monotonic() - self._alive > WORKER_SECONDS:
            lost = "worker" if connected else "scheduler"
            raise MissingError(
                f"{self._address}: no {lost} has answered for {WORKER_SECONDS:.0f} seconds; start "
                "the cluster's workers and repeat."
            )

    def _result(self, future: Any) -> Any:
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker

        try:
            result = future.result()
        except KilledWorker:
            return Died(None)
        except (FutureCancelledError, OSError) as error:
            raise MissingError(
                f"{self._address}: the cluster gave up ({type(error).__name__}); repeat when it is "
                "healthy."
            ) from error
        except (ImportError, AttributeError, RuntimeError) as error:
            if not _of_loading(error):
                raise
            raise MissingError(
                f"{self._address}: the cluster cannot load what it is asked to run ({error}); "
                "install this version of scrfdconv for its scheduler and all workers."
            ) from error
        if isinstance(result, Refused):
            raise result.error
        return result


def on_dask(
    address: str,
    function: Function[Task, Result],
    job: Any,
    tasks: Sequence[Task],
    common: Common,
) -> Generator[tuple[Task, Result]]:
    """Yield each task with ``function(job, task)``, as a Dask cluster finishes them."""
    waiting = iter(tasks)
    left = len(tasks)
    with Cluster[Task, Result](address, function, job, common, AHEAD) as cluster:
        while left:
            for _ in range(cluster.idle):
                if (task := next(waiting, None)) is not None:
                    cluster.start(task)
            for task, result in cluster.finished():
                if isinstance(result, Died):
                    raise MissingError(
                        f"{address}: several workers died while running {task}, as systems end "
                        "them when memory runs out; repeat with fewer threads for each worker."
                    )
                left -= 1
                yield task, result


def _client(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingError("--scheduler needs Dask: pip install 'scrfdconv[dask]'.") from error
    for name in _TALKATIVE:  # with tracebacks, of what is said here in a sentence
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        return Client(address, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise MissingError(
            f"--scheduler {address}: no Dask scheduler answers; give its address, such as "
            "tcp://host:8786."
        ) from error


def _of_loading(error: Exception) -> bool:
    """Is this about code that the scheduler or a worker does not have?"""
    return not isinstance(error, RuntimeError) or "deserializ" in str(error)


# ---------------------------------------------------------------- on a worker


def _called(function: Function[Task, Result], job: Any, common: Common, task: Task) -> Any:
    """Run a task; this package's errors come back as values, without retries."""
    try:
        if why := common.differences():
            raise MissingError(f"Worker {_own_address()} {why}.")
        return function(job, task)
    except ScrfdconvError as error:
        return Refused(error)


def _own_address() -> str:
    from distributed import get_worker

    return str(get_worker().address)


def _holds(path: Path, content: str) -> bool:
    try:
        return path.read_text("utf-8") == content
    except (OSError, UnicodeError):
        return False
