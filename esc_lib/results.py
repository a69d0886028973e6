"""The tables of measured results in the README and in the lessons, made from the records: `make results`.

python -m esc_lib.results
"""

from copy import deepcopy
from pathlib import Path

import nbformat
import pandas as pd
from IPython.display import Markdown
from nbclient import NotebookClient
from nbformat import NotebookNode

from esc_lib.records import measured

REPOSITORY = Path(__file__).parents[1]
BEGIN, END = "<!-- measured: from data/results, by `make results` -->\n", "<!-- end of measured -->\n"
TAG = "results"  # of cells that show records, and need no other cell to run


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown writes it; pandas would need another package for it."""
    lines = [table.columns, ["---"] * len(table.columns), *table.astype(str).to_numpy()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def results_table(*networks: str) -> Markdown:
    """What was measured of some networks, or of all, for a notebook's cell."""
    return Markdown(markdown(measured(*networks)))


def with_table(text: str) -> str:
    """A text with the table of all records between its marks, in place of what stood there.

    Raises:
        ValueError: the text has no such marks.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"the text needs one line {BEGIN.strip()} and after it one line {END.strip()}")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{markdown(measured())}\n{END}{rest.split(END)[1]}"


def execute_tagged(notebook: NotebookNode) -> None:
    """Runs the cells of a notebook that show records, and puts in what they show."""
    cells = [cell for cell in notebook.cells if TAG in cell.metadata.get("tags", [])]
    if cells:
        alone = nbformat.v4.new_notebook(cells=deepcopy(cells), metadata=notebook.metadata)
        NotebookClient(alone, record_timing=False).execute()
        for cell, executed in zip(cells, alone.cells, strict=True):
            cell.outputs = executed.outputs
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = cell.execution_count


def main() -> None:
    """Writes the README and every notebook that shows records."""
    readme = REPOSITORY / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
    for path in sorted((REPOSITORY / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        before = nbformat.writes(notebook)
        execute_tagged(notebook)
        if nbformat.writes(notebook) != before:
            nbformat.write(notebook, path)
            print(f"{path.name} shows other results now")


if __name__ == "__main__":
    main()
