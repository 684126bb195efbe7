"""Processes that run math-verify, which may hang or eat memory, and are killed when they do."""
