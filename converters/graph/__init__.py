"""ONNX graphs: edits, measurements, running."""
