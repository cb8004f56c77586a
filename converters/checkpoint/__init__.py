"""Checkpoints: reading files, recognising networks, mmdet configs."""
