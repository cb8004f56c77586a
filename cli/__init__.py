"""The command line. The modules of this folder declare its verbs when one is asked for."""

from scrfdconv.cli.main import app

__all__ = ["app"]
