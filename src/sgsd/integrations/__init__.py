"""Our methods inside other people's trainers, by per-token advantages."""
