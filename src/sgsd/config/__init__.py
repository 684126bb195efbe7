"""The configuration of a run: its sections, its file, and the checks across sections."""
