"""Progress, where it is read: in a terminal on stderr, in a notebook below the cell, there with a figure if wanted."""

import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from tqdm import tqdm

SECONDS_A_FIGURE = 3.0


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel, which can show figures."""
    ipython = sys.modules.get("IPython")  # not imported: where it is not there, no kernel is
    return hasattr(ipython and ipython.get_ipython(), "kernel")


def message_stream() -> TextIO:
    """Where progress and notes are written: stderr, but in a notebook, which shows that in red, stdout."""
    return sys.stdout if in_notebook() else sys.stderr


def progress_bar(iterable: Iterable[Any] | None = None, **settings: Any) -> "tqdm[Any]":
    """A progress bar of tqdm, which takes the settings, on `message_stream`."""
    return tqdm(iterable, **settings, file=message_stream())


class LiveFigure:
    """In a notebook a figure that is drawn anew, in its place, while a cell runs; elsewhere nothing."""

    def __init__(self, draw: Callable[[], Any]):
        self.draw, self.handle, self.drawn = draw, None, time.perf_counter()
        if in_notebook():
            from IPython.display import display

            self.handle = display(draw(), display_id=True)

    def update(self, *, now: bool = False) -> None:
        """Draws the figure, if the last time is long ago: a tenth of a second every few does not slow a training."""
        if self.handle and (now or time.perf_counter() - self.drawn > SECONDS_A_FIGURE):
            self.handle.update(self.draw())
            self.drawn = time.perf_counter()
