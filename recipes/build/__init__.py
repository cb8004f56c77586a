"""Builds: a recipe file, the plan, the cache, the steps, the manifest."""
