"""From pictures to faces, and whether two models find the same ones."""
