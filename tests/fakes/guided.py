"""A reader of files on files that atheris makes, guided by the branches which they reach.

As a program: ``guided.py MODULE:FUNCTION FILE CORPUS [options of libFuzzer]``. The reader gets FILE
with ever other content. Our own errors are answers; any other one ends the process with its trace.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import atheris


def main() -> None:
    """Never returns: libFuzzer ends the process, with 0 where nothing was found."""
    (place, name), path = sys.argv[1].split(":"), Path(sys.argv[2])
    with atheris.instrument_imports(include=["scrfdconv"]):
        from scrfdconv.converters.errors import ScrfdconvError

        reader = getattr(import_module(place), name)

    def read(content: bytes) -> None:
        path.write_bytes(content)
        try:
            reader(path)
        except ScrfdconvError as error:
            assert str(error).strip(), "an error says what is wrong"

    atheris.Setup([sys.argv[0], *sys.argv[3:]], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
