"""The command line. Loading every module of this folder declares its verbs."""

import importlib
import pkgutil

from scrfdconv.cli.main import app

for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    if not _module.name.endswith("__main__"):  # it runs the application
        importlib.import_module(_module.name)

__all__ = ["app"]
