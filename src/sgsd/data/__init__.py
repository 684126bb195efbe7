"""The sources of problems: files, the hub, and puzzles made on the spot."""
