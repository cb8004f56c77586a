"""Signals end a command cleanly, whatever it is doing."""

from __future__ import annotations

import importlib
import multiprocessing
import signal
import sys
import time
from pathlib import Path

import pytest

from scrfdconv.cli.terminal import signals
from scrfdconv.converters.system import scratch, workers

PATIENCE = 60  # seconds
MANY = 15  # lines, fewer than the shortest of these blocks has


def wait():
    """Give a signal that was put off the time to come."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def handlers():
    """The handlers of a command, for one test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signals.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "ends"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_during_an_import_waits_for_its_end(number, ends, tmp_path, monkeypatch):
    (tmp_path / "extension.py").write_text(
        f"import signal\nsignal.raise_signal({int(number)})\ncomplete = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ends):
        importlib.import_module("extension")
        wait()

    assert sys.modules.pop("extension").complete


def test_a_signal_at_any_other_time_is_not_put_off():
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(SystemExit, match=str(signals.TERMINATED)):
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_after_the_end_of_a_command_changes_no_exit_code():
    signals.ignore()

    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)


def test_a_signal_in_a_finalizer_is_not_lost():
    class Ended:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        Ended()
        wait()


# ---------------------------------------------------------------- at every line


def ended_at_every_line(block, *files):
    """Run ``block`` again and again, with SIGTERM at each line of these files; yield the number."""
    number, sent = 0, True
    while sent:
        left, sent = number, False

        def trace(frame, event, _):
            nonlocal left, sent
            if event == "line" and Path(frame.f_code.co_filename).name in files:
                if left == 0:
                    sys.settrace(None)
                    sent = True
                    signal.raise_signal(signal.SIGTERM)
                left -= 1
            return trace

        sys.settrace(trace)
        try:
            block()
            if sent:
                wait()
        except SystemExit:
            pass
        finally:
            sys.settrace(None)
        yield number
        number += 1


def test_a_signal_at_any_line_leaves_no_temporary_folder(tmp_path):
    def block():
        with scratch.scratch_folder(tmp_path / "file") as folder:
            (folder / "half").touch()

    for number in ended_at_every_line(block, "scratch.py", "contextlib.py", "shutil.py"):
        assert list(tmp_path.iterdir()) == [], f"line {number} of all that ran"
    assert number > MANY


@pytest.mark.parametrize("asked", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_signal_at_any_line_ends_a_worker(asked):
    def block():
        with workers.Workers(1, abs) as pool:
            if asked:
                pool.start(-1)
                assert list(pool.finished()) == [(-1, 1)]

    before = multiprocessing.active_children()
    for number in ended_at_every_line(block, "workers.py"):
        assert multiprocessing.active_children() == before, f"line {number} of all that ran"
    assert number > MANY
