"""Arguments that are of the right kind and in range, or a sentence that names them and says what was expected."""

import errno
import os
import reprlib
from pathlib import Path

WORDS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list",
    dict: "names and values",
}  # fmt: skip


def check(name: str, value: object, kind: type, low: float | None = None, high: float | None = None) -> None:
    """Raises ValueError unless an argument is of a kind and, as a number, in a range.

    Args:
        name, value: of the argument.
        kind: what it has to be. `True` is no number, and a whole number is a `float`.
        low, high: the range of a number, both included. NaN is in none.

    >>> check("top", 0, int, 1, 50)
    Traceback (most recent call last):
    ValueError: top is 0: expected a whole number from 1 to 50
    """
    kinds = (int, float) if kind is float else kind
    right = isinstance(value, kinds) and (kind is bool or not isinstance(value, bool))
    if right and isinstance(value, int | float) and low is not None and high is not None:
        right = low <= value <= high
    if not right:
        span = f" from {low} to {high}" if low is not None else ""
        # PyYAML, and with it papermill, takes 1e-3 for text.
        hint = " (in YAML write 1.0e-3, not 1e-3)" if kind is float and isinstance(value, str) else ""
        raise ValueError(f"{name} is {shown(value)}: expected {WORDS.get(kind, kind.__name__)}{span}{hint}")


def shown(value: object) -> str:
    """A value for a message, in a line at most."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"


def as_path(name: str, value: object) -> Path:
    """An argument that names a file or folder, with "~" expanded.

    Args:
        name, value: of the argument.

    Raises:
        ValueError: it is no path, empty, or one that no system could have.
    """
    if not isinstance(value, str | os.PathLike) or not (text := os.fspath(value)) or not isinstance(text, str):
        raise ValueError(f"{name} is {shown(value)}: expected the path of a file or folder")
    try:
        path = Path(text).expanduser()
        os.lstat(path)
    except (ValueError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
            return path  # whatever is there, or not: the caller says what it needs
        raise ValueError(f"{name} is {shown(value)}, which is no path here: {error}") from error
    return path
