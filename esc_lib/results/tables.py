"""The tables of measured results in the README and in the lessons, made from the records: `make results`."""

from copy import deepcopy
from typing import TYPE_CHECKING

import pandas as pd

from esc_lib.paths import REPOSITORY
from esc_lib.results.records import measured_results

if TYPE_CHECKING:
    from IPython.display import Markdown
    from nbformat import NotebookNode

BEGIN, END = "<!-- measured: from data/results, by `make results` -->\n", "<!-- end of measured -->\n"
TAG = "results"  # of cells that show records, and run without any other cell


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown; pandas would need another package for it."""
    lines = [table.columns, ["---"] * len(table.columns), *table.astype(str).to_numpy()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def results_table(*networks: str) -> "Markdown":
    """The measured results of some networks, or of all, for a notebook's cell."""
    from IPython.display import Markdown  # late: what only notebooks need

    return Markdown(markdown(measured_results(*networks)))


def with_table(text: str) -> str:
    """A text with the table of all records between its marks, in place of what was there.

    Raises:
        ValueError: the text has no such marks.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"the text needs one line {BEGIN.strip()} and after it one line {END.strip()}")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{markdown(measured_results())}\n{END}{rest.split(END)[1]}"


def execute_tagged(notebook: "NotebookNode") -> None:
    """Runs the cells of a notebook that show records, and updates their outputs."""
    import nbformat
    from nbclient import NotebookClient

    cells = [cell for cell in notebook.cells if TAG in cell.metadata.get("tags", [])]
    if cells:
        alone = nbformat.v4.new_notebook(cells=deepcopy(cells), metadata=notebook.metadata)
        NotebookClient(alone, record_timing=False).execute()
        for cell, executed in zip(cells, alone.cells, strict=True):
            cell.outputs = executed.outputs
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = cell.execution_count


def write_tables() -> None:
    """Writes the README and every notebook that shows records."""
    import nbformat

    readme = REPOSITORY / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
    for path in sorted((REPOSITORY / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        before = nbformat.writes(notebook)
        execute_tagged(notebook)
        if nbformat.writes(notebook) != before:
            nbformat.write(notebook, path)
            print(f"{path.name} shows other results now")
