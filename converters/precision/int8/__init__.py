"""INT8: calibration, quantization, and what stays float."""
