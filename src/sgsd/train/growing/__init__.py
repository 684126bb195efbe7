"""Banks that are made, grown and judged by experience."""
