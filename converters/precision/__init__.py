"""Precisions of a model: an axis beside the format.

A precision is one folder beside this file with one subclass of ``Precision``, which `precisions`
finds. The class says how a float ONNX model gets that precision, by which options, and with which
libraries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from scrfdconv.converters.declarations import declared_below
from scrfdconv.converters.options import NoOptions

if TYPE_CHECKING:
    import onnx

    from scrfdconv.converters.artifact import Artifact

FLOAT = "fp32"  # what checkpoints have, and every model that is exported from one


class Precision(ABC):
    """The numbers that a model stores and computes in."""

    name: ClassVar[str]
    bits: ClassVar[int]
    summary: ClassVar[str] = ""  # help of the verb of this name; "": there is no such verb
    options: ClassVar[type] = NoOptions  # what a user chooses; its fields are recipe keys, too
    libraries: ClassVar[tuple[str, ...]] = ()  # distributions whose versions decide the bytes
    # True: photographs decide the rounding, so they belong to the cache key.
    measures_images: ClassVar[bool] = True
    needs_images: ClassVar[bool] = False  # without any, trained weights cannot be converted

    @abstractmethod
    def convert(self, source: Artifact, settings: Any) -> onnx.ModelProto:
        """The float ONNX model ``source`` in this precision, as ``settings`` say.

        ``settings`` follow from the options: measured ranges, layers that were put back to float.
        """


class Fp32(Precision):
    """Float32: the precision of an unchanged model."""

    name = FLOAT
    bits = 32
    measures_images = False

    def convert(self, source: Artifact, settings: Any) -> onnx.ModelProto:
        """The model as it is."""
        from scrfdconv.converters.graph.model_file import load_onnx

        return load_onnx(source.path)


@cache
def precisions() -> dict[str, Precision]:
    """All precisions by name, the finest one first."""
    found = {FLOAT: Fp32(), **declared_below(__name__, __path__, Precision)}  # type: ignore[type-abstract]
    return dict(sorted(found.items(), key=lambda pair: -pair[1].bits))
