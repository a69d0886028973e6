"""The tables of the README and the notebooks are those of the records."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest

from esc_lib.results.tables import BEGIN, END, TAG, execute_tagged, markdown, with_table

ROOT = Path(__file__).parents[1]


def test_the_readme_shows_the_records():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_table(readme) == readme, "call `make results`"


def test_every_cell_that_shows_records_is_tagged_for_make_results():
    """nbval compares their output; here: that `make results` finds them."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and ("results_table(" in cell.source or "load_record(" in cell.source):
                assert TAG in cell.metadata.get("tags", []), f"{path.name}: {cell.source}"


def test_markdown():
    table = pd.DataFrame({"a": [1, 2], "b": ["x", ""]})
    assert markdown(table) == "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 |  |\n"


def test_the_text_around_the_table_is_kept():
    text = with_table(f"before\n{BEGIN}old table\n{END}after\n")
    assert text.startswith(f"before\n{BEGIN}\n| network |") and text.endswith(f"|\n\n{END}after\n")
    assert "old table" not in text and with_table(text) == text
    with pytest.raises(ValueError, match="needs one line"):
        with_table("no marks")


def test_only_tagged_cells_are_executed():
    cells = [nbformat.v4.new_code_cell(source) for source in ("print(1)", "print(2)\n3", "print(4)")]
    cells[1].metadata["tags"] = [TAG]
    cells[1].execution_count = 2
    notebook = nbformat.v4.new_notebook(cells=cells)
    execute_tagged(notebook)
    assert [len(cell.outputs) for cell in cells] == [0, 2, 0]
    printed, result = cells[1].outputs
    assert printed["text"] == "2\n" and result["data"]["text/plain"] == "3" and result["execution_count"] == 2
    nbformat.validate(notebook)
    assert nbformat.writes(notebook)
