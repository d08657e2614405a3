"""Signs of life where there is no terminal to draw a progress bar on: a file, a pipe, a batch system."""

from __future__ import annotations

import time

from rich.console import Console

SECONDS = 60.0  # between two lines


class Lines:
    """Prints a line now and then, and none on a terminal."""

    def __init__(self, console: Console, silent: bool = False) -> None:
        """Begin; the first line comes after a while.

        Args:
            console: to print on.
            silent: whether to print nothing at all.
        """
        self._console = console
        self._silent = silent or console.is_terminal
        self._last = time.monotonic()

    def say(self, words: str) -> None:
        """Print a line where the last one was long ago.

        Args:
            words: to print.
        """
        if not self._silent and time.monotonic() - self._last > SECONDS:
            self._last = time.monotonic()
            self._console.print(words, markup=False, highlight=False, soft_wrap=True)
