"""For notebooks: the check of what papermill passed, and text from data that no page can take for anything else."""

import ast
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches

from esc_lib.arguments import check

KINDS = {"bool": bool, "float": float, "int": int, "list": list, "str": str}
# How papermill's command line passes what it would otherwise take for something else.
OPTIONS = {bool: "-p {name} True", list: '-y "{name}: [{value}]"', str: "-r {name} {value}"}


def check_parameters() -> None:
    """Stops a lesson to which papermill passed a parameter that it does not have, or a value of another kind.

    papermill itself only warns, and the lesson would train with its defaults. It writes what was passed into a cell of
    its own after the parameters; the kernel's history holds both cells. Where nothing was passed, nothing is checked.

    Raises:
        ValueError: the message names the parameter, and the nearest known one or the expected kind.
    """
    from IPython import get_ipython  # late: what only notebooks need

    shell = get_ipython()
    known, passed = _parameters(shell.history_manager.input_hist_parsed if shell else [])
    for name in passed:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            raise ValueError(f"this lesson has no parameter {name}: {hint}")
        if known[name] in KINDS:
            _check_kind(name, shell.user_ns[name], KINDS[known[name]])


def _parameters(history: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Names and kinds that the parameters cells declare, and the names that papermill passed after the last of them.

    Args:
        history: source of every cell that was executed.
    """
    known: dict[str, str] = {}
    passed: list[str] = []
    for source in history:
        with suppress(SyntaxError, ValueError):  # such a cell has said so itself
            statements = ast.parse(source).body
            if source.startswith("# Parameters\n"):  # papermill's
                names = [ast.unparse(statement).partition(" = ")[0] for statement in statements]
                passed = [name for name in names if not name.startswith("PAPERMILL_")]  # it adds paths of its own
            elif declared := [statement for statement in statements if isinstance(statement, ast.AnnAssign)]:
                known |= {ast.unparse(of.target): ast.unparse(of.annotation) for of in declared}
                passed = []  # the defaults are back
    return known, passed


def _check_kind(name: str, value: object, kind: type) -> None:
    try:
        check(name, value, kind)
    except ValueError as error:
        option = OPTIONS.get(kind, "").format(name=name, value=str(value).strip("[]").replace('"', "'"))
        raise ValueError(f"{error}; pass it as {option}" if option else str(error)) from None


def printable(text: object) -> str:
    r"""Text in one line: what has no glyph is shown as its escape.

    >>> print(printable("two\nlines"))
    two\nlines
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
