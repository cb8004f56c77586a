"""The command line. Loading every module of this folder declares its verbs."""

import importlib
import pkgutil

from scrfdconv.cli.main import app

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("__"):  # __main__ runs the application
        importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["app"]
