"""One line that a user should see, whether or not logging is set up."""

from __future__ import annotations

import logging
import os


def warn(message: str) -> None:
    """Log a warning, once however many processes there are."""
    _log(logging.WARNING, f"WARNING {message}")


def note(message: str) -> None:
    """Log what is worth knowing and no fault, once however many processes there are."""
    _log(logging.INFO, message)


def _log(level: int, message: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        logging.getLogger("sgsd").log(level, "%s", message)
