"""One line that a user should see, whether or not logging is set up."""

from __future__ import annotations

import logging
import os


def warn(message: str) -> None:
    """Log a warning, once however many processes there are."""
    if os.environ.get("RANK", "0") == "0":
        logging.getLogger("sgsd").warning("WARNING %s", message)
