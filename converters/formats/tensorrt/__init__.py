"""TensorRT engines."""

from scrfdconv.converters.formats.tensorrt.format import TensorRT

__all__ = ["TensorRT"]
