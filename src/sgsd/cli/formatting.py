"""Numbers and durations in words."""

from __future__ import annotations


def count_words(number: float) -> str:
    """Write a count as 1.7 B, 24.6 M, 3.1 k or 512."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f} {letter}"
    return f"{number:.0f}"


def clock_words(seconds: float) -> str:
    """Write a duration as 4.2 s, 90 s, 12 min or 3 h 5 min."""
    if seconds < 600:
        return f"{seconds:.1f} s" if seconds < 60 else f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min"
