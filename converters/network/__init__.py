"""The networks: architectures, the model, its cost, seeded weights."""
