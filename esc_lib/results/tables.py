"""The tables of measured results in the README and in the lessons, made from the records: `make results`."""

import re
from collections.abc import Callable, Hashable
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from esc_lib.evaluation import wilson_interval
from esc_lib.notebooks import printable
from esc_lib.paths import REPOSITORY, RESULTS
from esc_lib.results.comparisons import landscape, learned_filters_gain
from esc_lib.results.records import measured_results, overview, speed_board
from esc_lib.training.recipes import RECIPES, recipe

if TYPE_CHECKING:
    from IPython.display import Markdown
    from nbformat import NotebookNode


def landscape_table(dataset: str) -> pd.DataFrame:
    """`landscape`, as it is shown."""
    return _shown(landscape(dataset), "accuracy")


def gain_table() -> pd.DataFrame:
    """`learned_filters_gain` on ESC-10, as it is shown."""
    return _shown(learned_filters_gain(), "log-mel", "learned", "gain")


def eight_bits_table() -> pd.DataFrame:
    """What half precision and eight bits cost (`esc_lib.results.quantized`), as it is shown."""
    table = pd.read_csv(RESULTS / "quantized.csv")
    intervals = [wilson_interval(*counts) for counts in table[["correct", "clips"]].to_numpy().tolist()]
    table["accuracy"] = (100 * table["correct"] / table["clips"]).map("{:.1f}".format)
    table["95 %"] = [f"{100 * low:.1f} to {100 * high:.1f}" for low, high in intervals]
    table["MB"] = (table["bytes"] / 1e6).map("{:.1f}".format)
    return table.drop(columns=["folds", "bytes"])


def tried_table() -> pd.DataFrame:
    """The trials on validation folds (`data/results/tuning.csv`), a row a setting, beside the fast recipe's there."""
    trials = pd.read_csv(RESULTS / "tuning.csv", keep_default_na=False).sort_values("validated_on", kind="stable")
    trials["setting"] = [_difference(trial) for trial in trials.to_dict("records")]
    trials["accuracy"] *= 100
    of_recipe = trials[trials["setting"] == ""].set_index(["network", "validated_on"])["accuracy"]
    trials["recipe"] = of_recipe.reindex(pd.MultiIndex.from_frame(trials[["network", "validated_on"]])).to_list()
    groups = trials.groupby([pd.Categorical(trials["network"], list(RECIPES)), "setting"], observed=True)
    table = groups.agg({"validated_on": list, "accuracy": list, "recipe": _mean_of_all, "loss": "mean"})
    table["mean"], table["processor minutes"] = groups["accuracy"].mean(), groups["processor_minutes"].mean()
    shown = pd.DataFrame(index=table.index)
    shown["validated on"] = [" ".join(map(str, folds)) for folds in table["validated_on"]]
    shown["accuracy"] = [" ".join(map("{:.1f}".format, values)) for values in table["accuracy"]]
    for name, decimals in {"mean": 1, "recipe": 1, "loss": 2, "processor minutes": 1}.items():
        shown[name] = table[name].map(f"{{:.{decimals}f}}".format).where(table[name].notna(), "")
    shown = shown.rename(columns={"recipe": "fast recipe there"}).rename_axis(["network", "setting"]).reset_index()
    shown["setting"] = shown["setting"].replace("", "the fast recipe")
    return shown


def _mean_of_all(values: "pd.Series[float]") -> float:
    """The mean; NaN if one value is missing."""
    return float(values.mean(skipna=False))


def _difference(trial: dict[Hashable, Any]) -> str:
    """In what a trial's settings differ from the fast recipe; "" if in nothing."""
    fast = recipe(trial["network"], "esc10", kind="fast").to_dict()
    changed = [f"{name} {value}" for name, value in trial.items() if fast.get(str(name), value) != value]
    return "; ".join(changed + [trial["change"]] * bool(trial["change"]))


def _shown(table: pd.DataFrame, *percentages: str) -> pd.DataFrame:
    """With one decimal, and the interval in one column, where there is one."""
    shown = table.assign(**{name: table[name].map("{:.1f}".format) for name in (*percentages, "low", "high")})
    shown["low"] = (shown["low"] + " to " + shown["high"]).where(table["low"].notna(), "")
    return shown.rename(columns={"low": "95 %"}).drop(columns="high")


# A table stands between two marks with its name, in these pages.
BEGIN, END = "<!-- {name}: from data/results, by `make results` -->\n", "<!-- end of {name} -->\n"
TABLES: dict[tuple[str, str], Callable[[], pd.DataFrame]] = {
    ("README.md", "overview"): overview,
    ("README.md", "speed"): speed_board,
    ("docs/results.md", "records"): measured_results,
    ("docs/results.md", "landscape-esc10"): partial(landscape_table, "esc10"),
    ("docs/results.md", "landscape-esc50"): partial(landscape_table, "esc50"),
    ("docs/results.md", "gain"): gain_table,
    ("docs/results.md", "eight-bits"): eight_bits_table,
    ("docs/results.md", "tried"): tried_table,
}
TAG = "results"  # of cells that show records, and run without any other cell
# What Markdown, HTML or MathJax would take for markup; inside a word `_` is none, and a bracket alone makes no link.
MARKUP = re.compile(r"[\\`*<>|~$&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|](?=\()")


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, every cell as it is; pandas would need another package for it."""
    head, *rows = [[literal(cell) for cell in line] for line in (table.columns, *table.astype(str).to_numpy())]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *rows))


def literal(text: object) -> str:
    """Text that Markdown shows as it is, in one line."""
    return MARKUP.sub(_entity, printable(text))


def _entity(match: re.Match[str]) -> str:
    entity = f"&#{ord(match[0])};"
    # MathJax looks for formulas in the finished page, but in no formula that an element interrupts.
    return f"<span>{entity}</span>" if match[0] == "$" else entity


def results_table(*networks: str) -> "Markdown":
    """The measured results of some networks, or of all, for a notebook's cell."""
    from IPython.display import Markdown  # late: what only notebooks need

    return Markdown(markdown(measured_results(*networks)))


def with_table(text: str, name: str, table: pd.DataFrame) -> str:
    """A text with a table between two marks, in place of what was there.

    Args:
        text: of the page.
        name: of the marks.
        table: as it is shown.

    Raises:
        ValueError: the text has no such marks.
    """
    begin, end = BEGIN.format(name=name), END.format(name=name)
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the text needs one line {begin.strip()} and after it one line {end.strip()}")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{markdown(table)}\n{end}{rest.split(end)[1]}"


def execute_tagged(notebook: "NotebookNode") -> None:
    """Runs the cells of a notebook that show records, and updates their outputs."""
    import nbformat
    from nbclient import NotebookClient

    cells = [cell for cell in notebook.cells if TAG in cell.metadata.get("tags", [])]
    if cells:
        setup = nbformat.v4.new_code_cell("%matplotlib inline")  # else figures would be stored as their name alone
        alone = nbformat.v4.new_notebook(cells=[setup, *deepcopy(cells)], metadata=notebook.metadata)
        NotebookClient(alone, record_timing=False, coalesce_streams=True).execute()
        for cell, executed in zip(cells, alone.cells[1:], strict=True):
            cell.outputs = executed.outputs
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = cell.execution_count


def write_tables() -> None:
    """Writes the README, `docs/results.md` and every notebook that shows records."""
    import nbformat

    for (page, name), table in TABLES.items():
        path = REPOSITORY / page
        path.write_text(with_table(path.read_text(encoding="utf-8"), name, table()), encoding="utf-8", newline="\n")
    for path in sorted((REPOSITORY / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        before = nbformat.writes(notebook)
        execute_tagged(notebook)
        if nbformat.writes(notebook) != before:
            nbformat.write(notebook, path)
            print(f"{path.name} shows other results now")
