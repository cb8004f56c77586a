"""What to build and what to demand of it."""
