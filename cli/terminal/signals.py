"""How a command is interrupted: by an exception, so that context managers clean up after it.

Imports and the making and removing of temporary folders are never interrupted: the signal is sent
again until they are done.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

from scrfdconv.converters.system.interruption import must_finish

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
TERMINATED = 143  # 128 + SIGTERM
AGAIN = 0.05  # seconds until a signal that has to wait is sent again; imports take 0.1 to 2


def install() -> None:
    """Let SIGINT and SIGTERM end this process's command."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def ignore() -> None:
    """Ignore signals once the command is done, so that its exit code stays while Python ends.

    Python takes its handlers back before it unloads libraries, which takes a while with torch; a
    signal in that time would end the process as if there had been no handler.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _stop(number: int, frame: FrameType | None) -> None:
    if must_finish(frame):
        again = threading.Timer(AGAIN, signal.raise_signal, [number])
        again.daemon = True
        again.start()
    elif number == signal.SIGTERM:
        sys.exit(TERMINATED)
    else:
        raise KeyboardInterrupt
