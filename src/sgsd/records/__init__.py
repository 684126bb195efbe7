"""The records of a run: files, metrics, guards, the live view and trackers."""
