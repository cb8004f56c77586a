"""What to build and what to demand of it: the tasks behind the verbs.

Public names load their modules when they are used: importing the package costs nothing.
"""

from __future__ import annotations

from typing import Any

from scrfdconv.converters.public import loaded_when_used

_PUBLIC = {
    "DetectOptions": "recipes.faces.detection",
    "Detector": "recipes.faces.detection",
    "SourceOptions": "recipes.artifacts.sources",
    "Target": "recipes.artifacts.target",
    "compare_speed": "recipes.bench",
    "convert": "recipes.artifacts.conversion",
    "facts_of_file": "recipes.describe",
    "load_recipe": "recipes.build.recipe_file",
    "open_runner": "recipes.faces.detection",
    "open_source": "recipes.artifacts.sources",
    "score_agreement": "recipes.faces.agreement",
    "score_model": "recipes.faces.evaluation",
    "target_of": "recipes.artifacts.target",
}
__all__ = list(_PUBLIC)
_load = loaded_when_used(__name__, _PUBLIC)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from scrfdconv.converters.metadata import package_version

        return package_version()
    return _load(name)
