"""Verbs that make artifacts: generated from what formats and precisions declare."""
