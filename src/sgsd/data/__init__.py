"""Where problems come from: files, the hub, and puzzles made on the spot."""
