"""Progress lines for output without a terminal, such as a file, a pipe or a batch system."""

from __future__ import annotations

import time

from rich.console import Console

SECONDS = 60.0  # between two lines


class Lines:
    """Prints progress lines at intervals, except on a terminal."""

    def __init__(self, console: Console, silent: bool = False) -> None:
        """Set up; the first line is printed after `SECONDS`."""
        self._console = console
        self._silent = silent or console.is_terminal
        self._last = time.monotonic()

    def report(self, text: str) -> None:
        """Print a line if the last one is older than `SECONDS`."""
        if not self._silent and time.monotonic() - self._last > SECONDS:
            self._last = time.monotonic()
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
