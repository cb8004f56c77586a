"""Signals end a command cleanly, whatever it is doing."""

from __future__ import annotations

import importlib
import signal
import sys
import time

import pytest

from scrfdconv.cli.terminal import signals


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
    deadline = time.monotonic() + 60

    with pytest.raises(ends):
        importlib.import_module("extension")
        while time.monotonic() < deadline:
            time.sleep(0.01)

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
