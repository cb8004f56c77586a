"""Worker processes: what a death costs, what an error does, and how all of them end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from scrfdconv.converters.errors import InputFileError, MissingError
from scrfdconv.converters.system.workers import Died, Worker, Workers, on_this_machine

PARENT = """
import sys, time
sys.path[:] = {path!r}
from scrfdconv.converters.system.workers import Workers
if __name__ == "__main__":
    with Workers(2, time.sleep) as workers:
        workers.start(600)
        workers.start(600)
        print("started", flush=True)
        list(workers.finished())
"""


@pytest.fixture
def functions(tmp_path, monkeypatch):
    """A module that workers can import, with what they run."""
    (tmp_path / "worked.py").write_text(
        "import os, pathlib, signal\n"
        "from scrfdconv.converters.errors import InputFileError\n"
        "def square(number): return number * number\n"
        "def process(_): return os.getpid()\n"
        "def threads(_): return os.environ.get('OMP_NUM_THREADS')\n"
        "def shout(task): return os.write(task, b'\\x1b[31m::error::\\nmore\\n')\n"
        "def refuse(task): raise InputFileError(f'{task}: is bad.')\n"
        "def die(task): os.kill(os.getpid(), signal.SIGKILL)\n"
        "def die_at(doomed, task):\n"
        "    if task == doomed: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return task\n"
        "def die_once(mark, task):\n"
        "    if task == 3 and not pathlib.Path(mark).exists():\n"
        "        pathlib.Path(mark).touch()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return task\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import worked

    yield worked
    del sys.modules["worked"]


@pytest.mark.parametrize("stream", [1, 2])
def test_what_a_library_prints_in_a_worker_is_logged(stream, functions, caplog, capfd):
    with Worker(functions.shout) as worker:
        worker.ask(stream)

    assert caplog.messages == ["\x1b[31m::error::", "more"]
    assert capfd.readouterr() == ("", "")


def test_all_tasks_are_done_by_a_few_workers(functions):
    found = {}

    with Workers(2, functions.square) as workers:
        waiting = [1, 2, 3, 4, 5]
        while len(found) < 5:
            while workers.idle and waiting:
                workers.start(waiting.pop())
            found |= workers.finished()

    assert found == {1: 1, 2: 4, 3: 9, 4: 16, 5: 25}


def test_a_worker_goes_on_unless_a_fresh_one_is_asked_for(functions):
    def one(workers, **options):
        workers.start(0, **options)
        return dict(workers.finished())[0]

    with Workers(1, functions.process) as workers:
        first, second, fresh = one(workers), one(workers), one(workers, fresh=True)

    assert first == second != fresh


def test_a_worker_that_died_is_said_and_replaced(functions):
    with Worker(functions.die) as worker:
        assert [worker.ask(0), worker.ask(0)] == [Died(-signal.SIGKILL)] * 2


def test_an_error_in_a_worker_is_raised_here(functions):
    with Worker(functions.refuse) as worker, pytest.raises(InputFileError, match="7: is bad") as e:
        worker.ask(7)

    assert "worked.py" in "".join(e.value.__notes__)


@pytest.mark.parametrize("threads", [1, 3])
def test_thread_pools_are_limited_in_the_worker_only(threads, functions, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    with Worker(functions.threads, threads) as worker:
        assert worker.ask(0) == str(threads)

    assert "OMP_NUM_THREADS" not in os.environ


def test_a_worker_that_died_once_costs_nothing(functions, tmp_path):
    found = dict(on_this_machine(functions.die_once, tmp_path / "mark", range(6), 2))

    assert (tmp_path / "mark").exists()
    assert found == {n: n for n in range(6)}


def test_a_task_that_ends_every_worker_costs_no_other(functions):
    found = []

    with pytest.raises(MissingError, match="worker of 3 was ended twice"):
        for task, _ in on_this_machine(functions.die_at, 3, range(6), 2):
            found.append(task)

    assert sorted(found) == [0, 1, 2, 4, 5]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(sent, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(path=sys.path))
    command = [sys.executable, str(script)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout.readline() == "started\n"
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)  # as a terminal does
        else:
            process.send_signal(sent)
        begun = time.monotonic()
        _, err = process.communicate(timeout=60)

    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    assert time.monotonic() - begun < 30
    assert err.count("Traceback") == (sent == signal.SIGINT), err  # the parent's own
