"""WIDER FACE evaluation: ground truth, result files, protocol, curves."""
