"""Measurements of opened artifacts: metrics, images, decoding, parity, reports."""
