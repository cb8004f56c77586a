"""From an ONNX graph alone back to the checkpoint: the architecture, and weights under its keys."""
