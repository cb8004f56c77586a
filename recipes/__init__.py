"""What to build and what to demand of it: the tasks behind the verbs.

Public names load their modules when they are used: importing the package costs nothing.
"""

from __future__ import annotations

from typing import Any

from scrfdconv.converters.public import loaded_when_used

_PUBLIC = {
    "DetectOptions": "recipes.detection",
    "Detector": "recipes.detection",
    "SourceOptions": "recipes.conversion",
    "Target": "recipes.target",
    "compare_speed": "recipes.bench",
    "convert": "recipes.conversion",
    "facts_of_file": "recipes.describe",
    "load_recipe": "recipes.build.recipe_file",
    "open_runner": "recipes.detection",
    "open_source": "recipes.conversion",
    "score_agreement": "recipes.agreement",
    "score_model": "recipes.evaluation",
    "target_of": "recipes.target",
}
__all__ = list(_PUBLIC)


_load = loaded_when_used(__name__, _PUBLIC)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from scrfdconv.converters.metadata import package_version

        return package_version()
    return _load(name)
