"""Precisions of an ONNX graph: FP16 and INT8."""
