"""Ctrl-C during a build: from Python's main thread to TensorRT's threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from typing import Any, TypeVar

T = TypeVar("T")

POLL = 0.2  # seconds; a plain wait cannot be interrupted on every system


def monitor_for(trt: Any, cancelled: threading.Event) -> Any:
    """An IProgressMonitor that stops a build at its next step once ``cancelled`` is set.

    Nothing in the monitor may raise: C++ code is the caller.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # known at run time only
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """Nothing is done when a phase starts; the interface asks for the method."""

        def step_complete(self, phase_name: str, step: int) -> bool:
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            """Nothing is done when a phase ends; the interface asks for the method."""

    return Monitor()


def cancellable(work: Callable[[], T], cancelled: threading.Event) -> T:
    """Run ``work`` in a thread; Ctrl-C sets ``cancelled`` and waits for the end of the work.

    The thread is needed because Python handles Ctrl-C between two of its own instructions, and a
    build is one long call: the main thread must be free to notice.
    """
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        try:
            return _waited(future)
        except BaseException:
            cancelled.set()
            raise


def _waited(future: Future[T]) -> T:
    while True:
        try:
            return future.result(timeout=POLL)
        except TimeoutError:
            if future.done():  # raised by the work itself
                raise
