"""Faces on photographs: detection, evaluation, and the agreement of two models."""
