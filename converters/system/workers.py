"""Worker processes for one function, each with its own thread pools.

What libraries print in a worker, often raw names of a model and in colour, is logged here line by
line: the command line shows log records as it shows any text.

A worker that dies costs its own task and no other. All workers end with their parent, even if
that is killed, and at once when it is interrupted. The executors of the standard library and of
loky fail all tasks when one worker dies; that is why they are not used.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any, Generic, TypeVar

from scrfdconv.converters.errors import MissingError
from scrfdconv.converters.system.interruption import finish_first

logger = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")
THREADS = 1  # sums do not depend on the number of processors, or of workers
# Environment variables that limit thread pools; each library reads its own when it is loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PRINTED = (1, 2)  # file descriptors of stdout and stderr
_LAST_LINES = 1.0  # seconds to wait for what an ended worker has printed
_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Died:
    """A worker ended before it gave its result, as systems do when memory runs out."""

    exit_code: int | None
    waited: float | None = None  # seconds without an answer, after which the worker was ended

    @property
    def why(self) -> str:
        """What happened to the process, for users."""
        if self.waited is not None:
            return f"its process gave no answer within {self.waited / 60:g} minutes"
        if self.exit_code in (-signal.SIGKILL, None):
            return "its process was ended, as systems do when memory runs out"
        if self.exit_code < 0:
            return f"its process crashed ({signal.Signals(-self.exit_code).name})"
        return f"its process ended with code {self.exit_code}"


class Workers(Generic[Task, Result]):
    """A number of processes that run ``function`` on tasks; use as a context manager."""

    def __init__(self, count: int, function: Callable[[Task], Result]) -> None:
        self._function = function
        self._idle = [Worker(function) for _ in range(count)]
        self._busy: dict[Worker[Task, Result], Task] = {}

    def __enter__(self) -> Workers[Task, Result]:
        return self

    @finish_first
    def __exit__(self, *_: object) -> None:
        for worker in {*self._idle, *self._busy}:
            worker.end()

    @property
    def idle(self) -> int:
        """How many tasks could be started now."""
        return len(self._idle)

    @finish_first
    def start(self, task: Task, *, fresh: bool = False) -> None:
        """Run ``task`` on an idle worker; ``fresh``: in a process that has run nothing before."""
        worker = self._idle.pop()
        if fresh and worker.used:
            worker.end()
            worker = Worker(self._function)
        self._busy[worker] = task
        worker.send(task)

    def finished(self) -> Iterator[tuple[Task, Result | Died]]:
        """Wait until at least one task is done; yield all finished tasks.

        Raises what ``function`` raised.
        """
        by_connection = {worker.connection: worker for worker in self._busy}
        for connection in wait(list(by_connection)):
            worker = by_connection[connection]  # type: ignore[index]
            self._idle.append(worker)  # first: an interruption must find each worker somewhere
            task = self._busy.pop(worker)
            yield task, worker.receive()


class Worker(Generic[Task, Result]):
    """One process that runs ``function`` on one task after another; use as a context manager.

    The process starts with its first task, and anew with the first one after its death.
    ``threads`` limits its thread pools; None leaves them to their libraries.
    """

    def __init__(self, function: Callable[[Task], Result], threads: int | None = THREADS) -> None:
        self._function, self._threads = function, threads
        self._prepare()

    def _prepare(self) -> None:
        context = multiprocessing.get_context("spawn")  # threads do not survive a fork
        self.connection, self._theirs = context.Pipe()
        self._said, self._says = context.Pipe(duplex=False)
        arguments = (self._theirs, self._says, self._function)
        self._process = context.Process(target=_serve, args=arguments)
        self._log = threading.Thread(target=_log_lines, args=(self._said,), daemon=True)
        self.used = False

    def __enter__(self) -> Worker[Task, Result]:
        return self

    @finish_first
    def __exit__(self, *_: object) -> None:
        self.end()

    def ask(self, task: Task, patience: float | None = None) -> Result | Died:
        """Run one task and wait for its result, for ``patience`` seconds at most."""
        self.send(task)
        if patience is None or self.connection.poll(patience):
            return self.receive()
        self._process.kill()
        late = self.receive()  # the result, if the task was done at the last moment
        return replace(late, waited=patience) if isinstance(late, Died) else late

    def send(self, task: Task) -> None:
        """Begin a task; ``connection`` is ready to read when it is done."""
        if not self.used:
            self.used = True
            with _limited_threads(self._threads), _signals_held():
                self._process.start()
                for end in (self._theirs, self._says):
                    end.close()  # an open copy here would hide the end of the process
                self._log.start()
        with suppress(BrokenPipeError, ConnectionResetError):  # the process died: receive says so
            self.connection.send(task)

    def receive(self) -> Result | Died:
        """Wait for the result of the task that was sent; raises what the function raised."""
        try:
            result, error = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            died = Died(self._process.exitcode)
            self.end()
            self._prepare()
            return died
        if error is not None:
            raise error
        done: Result = result
        return done

    def end(self) -> None:
        """End the process now, whatever it is doing."""
        started = self._process.pid is not None
        if started:
            self._process.kill()  # before its pipes close, which it would complain of
            self._process.join()
        for end in (self.connection, self._theirs, self._says):
            end.close()
        if started:
            self._log.join(_LAST_LINES)  # a grandchild may hold the pipe for longer
        else:
            self._said.close()


def on_this_machine(
    function: Callable[[Any, Task], Result], job: Any, tasks: Sequence[Task], workers: int
) -> Generator[tuple[Task, Result]]:
    """Yield each task with ``function(job, task)``, as they finish; one worker is this process.

    A task whose worker died runs again when all others are done and memory is free. Raises
    MissingError if its worker dies again.
    """
    if min(workers, len(tasks)) <= 1:
        yield from ((task, function(job, task)) for task in tasks)
        return
    lost: list[Task] = []
    waiting = deque(tasks)
    with Workers[Task, Result](min(workers, len(tasks)), partial(function, job)) as pool:
        left = len(tasks)
        while left:
            while pool.idle and waiting:
                pool.start(waiting.popleft())
            for task, result in pool.finished():
                left -= 1
                if isinstance(result, Died):
                    lost.append(task)
                else:
                    yield task, result
    with Worker[Task, Result](partial(function, job)) as alone:
        for task in lost:
            again = alone.ask(task)
            if isinstance(again, Died):
                raise MissingError(
                    f"The worker of {task} was ended twice, as systems do when memory runs out; "
                    "everything else is done: repeat where more memory is free."
                )
            yield task, again


# ---------------------------------------------------------------- starting a process


@contextmanager
def _limited_threads(threads: int | None) -> Iterator[None]:
    """Thread pools ask the environment when their library is loaded, which a child does later."""
    limits = dict.fromkeys(THREAD_VARIABLES, str(threads)) if threads else {}
    before = {name: os.environ.get(name) for name in limits}
    os.environ.update(limits)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _signals_held() -> Iterator[None]:
    """Put off interruptions; a child that starts in the block inherits that they are blocked.

    A child that is interrupted before its first task, or whose parent ends before sending one,
    would print a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is ever interrupted
        return
    resource_tracker.ensure_running()  # its start would unblock them
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    handlers = {number: signal.getsignal(number) for number in _INTERRUPTIONS}
    caught: list[int] = []
    try:
        # Blocked here, they still reach the threads of libraries, and from there the handler.
        for number in handlers:
            signal.signal(number, lambda number, _: caught.append(number))
        signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTIONS)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    if caught:
        signal.raise_signal(caught[0])


def _log_lines(said: Any) -> None:
    """Log what a worker prints, until the worker and all that it started have ended."""
    with os.fdopen(os.dup(said.fileno()), encoding="utf-8", errors="backslashreplace") as lines:
        said.close()
        for line in lines:
            if line.strip():
                logger.warning("%s", line.rstrip("\n"))


# ---------------------------------------------------------------- inside a process


def _serve(connection: Any, says: Any, function: Callable[[Any], Any]) -> None:
    """Run tasks until the parent closes the pipe."""
    for number in _PRINTED:
        os.dup2(says.fileno(), number)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTIONS)
    _leave_with_parent()
    while True:
        try:
            task = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        connection.send(_outcome(function, task))


def _outcome(function: Callable[[Any], Any], task: Any) -> tuple[Any, Exception | None]:
    """The result or the error, as the parent gets it."""
    import pickle

    try:
        return function(task), None
    except Exception as error:
        error.add_note(traceback.format_exc())  # a traceback does not travel
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 - what was pickled here
        except Exception:
            return None, RuntimeError(f"{type(error).__name__}: {error}")
        return None, error


def _leave_with_parent() -> None:
    """End when the parent has ended, even if it was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()
