"""Progress of a build, and its cancellation: from TensorRT's threads to the code that shows it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

# Called with phase, parent phase (or None), steps done and steps of the phase; done == steps says
# that the phase is over. Phases nest and run side by side.
Listener = Callable[[str, str | None, int, int], None]
T = TypeVar("T")

POLL = 0.2  # seconds; a plain wait cannot be interrupted on every system
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Builds in this block report their progress to ``listener``."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class Progress:
    """What a monitor of TensorRT reports to. Nothing here may raise: C++ code is the caller."""

    def __init__(self) -> None:
        self._listener = _listener.get()
        self._steps: dict[str, tuple[str | None, int]] = {}
        self._cancelled = threading.Event()
        self.failure: Exception | None = None

    def cancel(self) -> None:
        """Ask the build to stop at its next step."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """True once ``cancel`` was called."""
        return self._cancelled.is_set()

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        self._steps[phase] = (parent, steps)
        self._tell(phase, 0)

    def step(self, phase: str, done: int) -> bool:
        """A step is done; False asks TensorRT to stop."""
        self._tell(phase, done)
        return not self.cancelled

    def finish(self, phase: str) -> None:
        """A phase is over, done or cancelled."""
        self._tell(phase, self._steps.get(phase, (None, 0))[1])

    def _tell(self, phase: str, done: int) -> None:
        if self._listener is None or self.failure is not None:
            return
        parent, steps = self._steps.get(phase, (None, 0))
        try:
            self._listener(phase, parent, done, steps)
        except Exception as error:
            self.failure = error
            self.cancel()


def monitor_for(trt: Any, progress: Progress) -> Any:
    """An IProgressMonitor that reports to ``progress``."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # known at run time only
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase or None, int(num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name, int(step) + 1)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()


def cancellable(work: Callable[[], T], progress: Progress) -> T:
    """Run ``work`` in a thread; Ctrl-C cancels the work and waits for its end.

    The thread is needed because Python handles Ctrl-C between two of its own instructions, and a
    build is one long call: the main thread must be free to notice.
    """
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        try:
            return _waited(future)
        except BaseException as error:
            progress.cancel()
            if progress.failure is not None:  # the cause of the cancelled build
                raise progress.failure from error
            raise


def _waited(future: Future[T]) -> T:
    while True:
        try:
            return future.result(timeout=POLL)
        except TimeoutError:
            if future.done():  # raised by the work itself
                raise
