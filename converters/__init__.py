"""Networks, checkpoints and artifact formats: everything that writes or opens a model file."""
