"""Worker processes for long tasks, each with one thread, so that several do not fight.

What a task returns does not depend on their number. A worker that dies takes its own task with
it and no other; all of them end with their parent, even if that is killed.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from scrfdconv.checks.benchmark import THREAD_VARIABLES
from scrfdconv.recipes.workers import leave_with_parent

Task = TypeVar("Task")
Result = TypeVar("Result")
THREADS = 1  # sums do not depend on the number of processors, or of workers


@dataclass(frozen=True)
class Died:
    """A worker ended before it gave its result, as systems do when memory runs out."""

    exit_code: int | None


class Workers(Generic[Task, Result]):
    """A number of processes that run ``function`` on tasks; use as a context manager."""

    def __init__(self, count: int, function: Callable[[Task], Result]) -> None:
        self._function = function
        self._idle = [_Worker(function) for _ in range(count)]
        self._busy: dict[_Worker, Task] = {}

    def __enter__(self) -> Workers[Task, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in (*self._idle, *self._busy):
            worker.end()

    @property
    def idle(self) -> int:
        """How many tasks could be started now."""
        return len(self._idle)

    def start(self, task: Task, *, fresh: bool = False) -> None:
        """Run ``task`` on an idle worker; ``fresh``: in a process that has run nothing before."""
        worker = self._idle.pop()
        if fresh and worker.used:
            worker.end()
            worker = _Worker(self._function)
        self._busy[worker] = task
        worker.send(task)

    def finished(self) -> Iterator[tuple[Task, Result | Died]]:
        """Wait until at least one task is done; yield those that are."""
        by_connection = {worker.connection: worker for worker in self._busy}
        for connection in wait(list(by_connection)):
            assert isinstance(connection, Connection)
            worker = by_connection[connection]
            task, result = self._busy.pop(worker), worker.receive()
            if isinstance(result, Died):
                worker.end()
                worker = _Worker(self._function)
            self._idle.append(worker)
            yield task, result


class _Worker:
    """One process and the pipe to it; it starts with its first task."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")  # threads do not survive a fork
        self.connection, self._theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._theirs, function))
        self.used = False

    def send(self, task: Any) -> None:
        if not self.used:
            with _limited_threads():
                self._process.start()
            self._theirs.close()  # or its end would never be noticed
            self.used = True
        self.connection.send(task)

    def receive(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            return Died(self._process.exitcode)

    def end(self) -> None:
        self.connection.close()
        if self.used:
            self._process.kill()
            self._process.join()


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    """Run tasks until the parent closes the pipe."""
    leave_with_parent()
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(function(task))


@contextmanager
def _limited_threads() -> Iterator[None]:
    """Thread pools ask the environment when their library is loaded, which a child does later."""
    before = dict(os.environ)
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(THREADS)))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
