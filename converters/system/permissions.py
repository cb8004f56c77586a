"""What the user allows files to do. A file never grants a right: an option of the user does.

TensorRT's version compatible engines carry the runtime of the version that built them, as code for
the host. Loading such an engine runs that code with all rights of the user.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

OPTION = "--allow-host-code"
_host_code = ContextVar("host_code", default=False)


def host_code_allowed() -> bool:
    """True inside of ``allowing_host_code``."""
    return _host_code.get()


@contextmanager
def allowing_host_code(*, allowed: bool = True) -> Iterator[None]:
    """Let engines that are opened in the block run the code that they carry, if ``allowed``."""
    token = _host_code.set(allowed or _host_code.get())
    try:
        yield
    finally:
        _host_code.reset(token)
