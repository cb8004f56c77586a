"""Many processes for one function, on a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from scrfdconv.converters.errors import MissingError

Task = TypeVar("Task")
Result = TypeVar("Result")
Function = Callable[[Any, Task], Result]

CONNECT_SECONDS = 10.0  # a running scheduler answers in milliseconds


def on_dask(
    address: str, function: Function[Task, Result], job: Any, tasks: Sequence[Task]
) -> Generator[tuple[Task, Result]]:
    """Yield each task with ``function(job, task)``, as a Dask cluster finishes them.

    The workers need this package and see the same files under the same names. Unfinished tasks of a
    lost worker run again on another worker.
    """
    try:
        from distributed import as_completed as dask_completed
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise MissingError("--scheduler needs Dask: pip install 'scrfdconv[dask]'.") from error
    with _client(address) as client:
        # With pure=True, Dask would take two runs for one and return old results of changed files.
        futures = client.map(function, [job] * len(tasks), tasks, pure=False)
        by_key = {future.key: task for future, task in zip(futures, tasks, strict=True)}
        try:
            for future, result in dask_completed(futures, with_results=True):
                yield by_key[future.key], result
                future.release()
        except (KilledWorker, FutureCancelledError, OSError) as error:
            raise MissingError(
                f"{address}: the cluster gave up ({type(error).__name__}); repeat when it is "
                "healthy: finished images are kept with --results."
            ) from error


def _client(address: str) -> Any:
    from distributed import Client

    try:
        return Client(address, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise MissingError(
            f"--scheduler {address}: no Dask scheduler answers; give its address, such as "
            "tcp://host:8786."
        ) from error
