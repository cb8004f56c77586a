"""The search for an INT8 model that keeps the faces."""
