"""How a run lies on its processes."""
