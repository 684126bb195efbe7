"""Checkpoints, and the proof that a run goes on as the one it was."""
