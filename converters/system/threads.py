"""Threads for work that waits for disks, or runs outside of Python's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Task], Result], tasks: Iterable[Task], *, threads: int, ahead: int
) -> Iterator[Result]:
    """``function`` of each task, in the order of the tasks, ``threads`` of them at a time.

    At most ``ahead`` tasks more than the one that the caller waits for are begun or done, so that
    any number of tasks takes the same memory. Raises what ``function`` raises.
    """
    from concurrent.futures import Future, ThreadPoolExecutor

    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
