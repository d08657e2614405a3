"""Output of the commands: lines of text, and progress, as a bar on a terminal and as lines at intervals elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")

SECONDS = 60.0  # between two lines


def print_line(console: Console, text: str, mark: str = "", colour: str = "red") -> None:
    """Print a text as it is, on one line however long, after a coloured mark."""
    before = f"[{colour}]{mark}:[/{colour}] " if mark else ""
    console.print(before + escape(text), soft_wrap=True, highlight=False)


@contextmanager
def progress(
    console: Console, title: str, total: int, noun: str, done: int = 0, silent: bool = False
) -> Iterator[Callable[[str], None]]:
    """Show the progress of the block, which calls the given function after each item with a note, which may be ""."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    lines = not (silent or console.is_terminal)
    start = last = time.monotonic()
    with Progress(
        *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
        console=console, transient=True, disable=silent or lines,
    ) as bar:  # fmt: skip
        task = bar.add_task(title, total=total, completed=done, note="")

        def advance(note: str = "") -> None:
            nonlocal done, last
            done += 1
            bar.update(task, completed=done, note=note)
            if lines and (now := time.monotonic()) - last > SECONDS:
                last = now
                passed = f"{title}: {done} of {total} {noun} in {now - start:.0f} s"
                print_line(console, passed + f", {note}" * bool(note))

        yield advance


def tracked(
    items: Iterable[T], console: Console, title: str, total: int, noun: str, done: int = 0, silent: bool = False
) -> Iterator[T]:
    """Return items one by one, with the progress of the work on them."""
    with progress(console, title, total, noun, done, silent) as advance:
        for item in items:
            yield item
            advance("")
