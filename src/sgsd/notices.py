"""Warnings that a user sees whether or not logging is set up."""

from __future__ import annotations

import logging
import os


def warn(message: str) -> None:
    """Log one line at level WARNING under the logger `sgsd`, once however many processes there are."""
    if os.environ.get("RANK", "0") == "0":
        logging.getLogger("sgsd").warning("WARNING %s", message)
