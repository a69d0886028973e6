"""A process that is killed at any moment at which it changes a file, for tests."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.link", "os.symlink", "os.truncate"}
_watched: list["_Watch"] = []


class Killed(BaseException):
    """Stands for SIGKILL: nothing that the process would still do to its files is done."""


class _Watch:
    def __init__(self, folder: Path, at: int):
        self.folder, self.at, self.events = str(folder), at, 0

    def see(self, event: str, arguments: tuple) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not writes and event not in CHANGES:
            return
        path = arguments[0]
        if isinstance(path, int):
            return
        path = os.fsdecode(path)
        if not os.path.isabs(path) or path.startswith(self.folder):  # relative: to an open folder, by rmtree
            self.events += 1
            if self.at and self.events >= self.at:
                raise Killed


def _hook(event: str, arguments: tuple) -> None:
    for watch in _watched:
        watch.see(event, arguments)


sys.addaudithook(_hook)  # for good: Python has no way to take one off


def kill_at(event: int, folder: Path, call: Callable[[], object]) -> int:
    """Calls, and kills the call at a change of a file below a folder; returns how many changes there were.

    Args:
        event: number of the change before which it is killed; 0 for never.
        folder: whose changes count.
        call: what is called.
    """
    watch = _Watch(folder, event)
    _watched.append(watch)
    try:
        call()
    except Killed:
        pass
    finally:
        _watched.remove(watch)
    return watch.events
