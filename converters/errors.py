"""Every error that a user can meet, as one tree. Each message says what, where, and what to do.

ScrfdconvError
├── CheckFailed          1  a measurement was outside its limit
├── UsageError           2  the command asks for something impossible
│   └── OutputError      2  the place to write to is not usable
├── InputFileError       3  a file that was given is bad
│   ├── CheckpointError  3  ... a checkpoint
│   └── ArtifactError    3  ... an ONNX, TorchScript or engine file
└── MissingError         4  something is not installed or not on this machine
"""

from __future__ import annotations


class ScrfdconvError(Exception):
    """Base of all errors of this package; ``exit_code`` is what the command line returns."""

    exit_code = 1


class CheckFailed(ScrfdconvError):  # noqa: N818 - a verdict, not a malfunction
    """A check measured a value outside its limit, or could not measure at all.

    ``report`` has the measurements, for the code that prints the error.
    """

    exit_code = 1

    def __init__(self, message: str, report: object = None) -> None:
        super().__init__(message)
        self.report = report


class UsageError(ScrfdconvError):
    """The command asks for something that cannot be done, such as a size that is not a multiple."""

    exit_code = 2


class OutputError(UsageError):
    """The output cannot be written to the given place."""


class InputFileError(ScrfdconvError):
    """A file that was given is missing, unreadable or not what it should be."""

    exit_code = 3


class CheckpointError(InputFileError):
    """A checkpoint is not loadable or does not fit its architecture."""


class ArtifactError(InputFileError):
    """A converted model cannot be opened or is not an SCRFD."""


class MissingError(ScrfdconvError):
    """A library, device or resource that the command needs is not on this machine."""

    exit_code = 4


LONGEST_REASON = 200  # characters: names in a model may have any length


def reason_of(error: BaseException) -> str:
    """The first line of a library's error, in a length that fits into a sentence."""
    first = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    return first if len(first) <= LONGEST_REASON else f"{first[:LONGEST_REASON]}..."
