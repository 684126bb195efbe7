"""Checkpoints: atomic, hashed folders from which a run goes on to the bit."""
