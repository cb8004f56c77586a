"""FP16: what the precision holds, and the conversion."""
