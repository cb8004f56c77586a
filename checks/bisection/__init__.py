"""Layer by layer: where an artifact begins to differ from its reference, and how."""
