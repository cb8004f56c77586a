"""ONNX: exported once per checkpoint, everything else is derived from the export."""

from scrfdconv.converters.formats.onnx.format import Onnx

__all__ = ["Onnx"]
