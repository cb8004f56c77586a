"""What a signal waits for: work that would leave something behind if it ended in the middle."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, FrameType
from typing import TypeVar

_Function = TypeVar("_Function", bound=Callable[..., object])
_IMPORT = "<frozen importlib"  # file name of the frames of Python's import system
_FINALIZER = "__del__"
_FINISHED_FIRST: set[CodeType] = set()


def finish_first(function: _Function) -> _Function:
    """Let a signal wait until ``function`` has returned: mark it for ``must_finish``."""
    _FINISHED_FIRST.add(function.__code__)
    return function


def must_finish(frame: FrameType | None) -> bool:
    """Whether a signal that arrives in ``frame`` has to wait for one of the callers to return.

    These are marked functions, imports and finalizers. An exception while the C++ of an extension
    module sets itself up crashed the interpreter in one of thirty interrupted conversions, with its
    temporary files left behind; an exception in a finalizer is printed and lost.
    """
    while frame is not None:
        code = frame.f_code
        if (
            code in _FINISHED_FIRST
            or code.co_name == _FINALIZER
            or code.co_filename.startswith(_IMPORT)
        ):
            return True
        frame = frame.f_back
    return False
