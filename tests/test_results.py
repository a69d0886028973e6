"""The tables of the README and the notebooks are those of the records."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbconvert.filters.markdown import markdown2html

from esc_lib.models import ARCHITECTURES
from esc_lib.paths import RESULTS
from esc_lib.results import landscape, learned_filters_gain
from esc_lib.results.comparisons import LEARNED, _all_settings
from esc_lib.results.records import all_records, load_record, on_all_folds, overview, speed_board
from esc_lib.results.tables import BEGIN, END, TABLES, TAG, execute_tagged, markdown, tried_table, with_table
from esc_lib.training import recipe

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("page", "name"), TABLES)
def test_a_page_shows_the_records(page, name):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert with_table(text, name, TABLES[page, name]()) == text, "call `make results`"


def test_the_speed_board_is_computed_from_whole_cross_validations():
    board = speed_board()
    minutes = board["processor minutes, five folds"].astype(float)
    assert minutes.is_monotonic_increasing
    for row in board.itertuples(index=False):
        network, _, epochs = row.network.removesuffix(" epochs").partition(", ")
        of = [load_record(path.stem) for path in RESULTS.glob(f"{network}-esc10-*.json")]
        fast = recipe(network, "esc10", kind="fast", epochs=int(epochs))
        of = [one for one in of if (one.config.one_cycle, one.config.epochs) == (fast.one_cycle, fast.epochs)]
        (found,) = [one for one in of if one.config.equalizer == fast.equalizer]
        assert sorted(set(found.runs["fold"])) == [1, 2, 3, 4, 5]
        exact = 100 * found.predictions.eval("true == predicted").mean()
        assert float(row.accuracy) == pytest.approx(exact, abs=0.05 + 1e-9)  # half a digit: 66.75 becomes 66.7 or 66.8


def test_the_overview_has_a_row_a_network_and_humans_below():
    table = overview()
    assert list(table["network"]) == [*ARCHITECTURES, "humans"]
    assert all(re.fullmatch(r"\d+\.\d( \(not all folds\))?|", accuracy) for accuracy in table["here"])
    rows = table.set_index("network")
    assert rows.at["humans", "published"] == "95.7" and rows.at["envnet", "published"] == "88.7"
    for record in sorted(RESULTS.glob("m18-esc10-*.json")):
        found = load_record(record.stem)
        if found.config.one_cycle and found.config.equalizer == recipe("m18", "esc10", kind="fast").equalizer:
            assert rows.at["m18", "here"] == f"{100 * found.runs['accuracy'].mean():.1f}"


def test_the_trials_are_shown_a_row_a_setting_beside_the_fast_recipe_on_the_same_folds(tmp_path, monkeypatch):
    trials = pd.read_csv(RESULTS / "tuning.csv", keep_default_na=False)
    table = tried_table().set_index(["network", "setting"])
    assert table.index.is_unique and sum(len(row.split()) for row in table["accuracy"]) == len(trials)
    of_m18 = trials.query("network == 'm18' and equalizer == 0").set_index("validated_on")["accuracy"].sort_index()
    assert table.at[("m18", "equalizer 0.0"), "accuracy"].split() == [f"{100 * one:.1f}" for one in of_m18]
    monkeypatch.setattr("esc_lib.results.tables.RESULTS", tmp_path)
    of_m5 = (trials["network"] == "m5") & (trials["equalizer"] == 0)
    trials = trials[of_m5].assign(equalizer=6.0)  # as in M5's fast recipe
    trials.to_csv(tmp_path / "tuning.csv", index=False)
    table = tried_table().set_index(["network", "setting"])
    unmixed = table.loc["m5", "between_class False"]
    assert (unmixed["validated on"], unmixed["accuracy"], unmixed["mean"]) == ("1 3 5", "75.0 77.5 77.5", "76.7")
    assert unmixed["fast recipe there"] == table.at[("m5", "the fast recipe"), "mean"]
    trials[trials["between_class"] | (trials["validated_on"] != 3)].to_csv(tmp_path / "tuning.csv", index=False)
    assert tried_table().set_index(["network", "setting"]).at[("m5", "between_class False"), "mean"] == "76.2"
    of_recipe = trials["between_class"] & trials["strong_augmentation"]
    trials[~(of_recipe & (trials["validated_on"] == 3))].to_csv(tmp_path / "tuning.csv", index=False)
    table = tried_table().set_index(["network", "setting"])
    assert table.at[("m5", "between_class False"), "fast recipe there"] == ""  # not the mean of two of three folds


@pytest.mark.parametrize(("dataset", "chance", "humans"), [("esc10", 10, [95.7]), ("esc50", 2, [81.3])])
def test_the_landscape_has_chance_humans_networks_and_a_source_for_each(dataset, chance, humans):
    table = landscape(dataset)
    assert table["accuracy"].is_monotonic_increasing and table["accuracy"].between(chance, 100).all()
    assert (table["source"].str.len() > 10).all() and not table.duplicated(["label", "kind"]).any()
    of = table.groupby("kind")["accuracy"].apply(list)
    assert of["chance"] == [chance] and of["humans"] == humans
    assert {"chance", "published", "humans"} <= set(of.index) <= {"chance", "published", "here", "humans", "pretrained"}
    here = table[table["kind"] == "here"]
    assert table["low"].notna().eq(table["kind"] == "here").all()
    assert ((here["low"] < here["accuracy"]) & (here["accuracy"] < here["high"])).all()
    assert (table["pretraining"] != "").eq(table["kind"] == "pretrained").all()


def test_networks_of_equal_accuracy_keep_their_order_on_any_processor(monkeypatch):
    names = [f"network {number:02d}" for number in range(60)]
    others = {"label": names, "kind": "published", "source": "a paper", "pretraining": "", "esc10": [60.0, 50.0] * 30}
    read = pd.read_csv
    monkeypatch.setattr(
        pd,
        "read_csv",
        lambda path, **how: pd.DataFrame(others) if path == RESULTS / "landscape.csv" else read(path, **how),
    )
    found = landscape("esc10")["label"]
    assert list(found[found.isin(names)]) == names[1::2] + names[::2]


def test_the_landscape_is_made_of_the_published_table_the_records_and_the_others():
    rows = landscape("esc50").set_index(["label", "kind"])["accuracy"]
    assert rows["envnetv2", "published"] == 84.9 and rows["BEATs", "pretrained"] == 98.1
    assert rows["log-mel CNN", "published"] == 64.5
    for row in landscape("esc10").query("kind == 'here'").itertuples():
        found = load_record(row.source.partition(":")[0])
        assert found.config.architecture == row.label and sorted(set(found.runs["fold"])) == [1, 2, 3, 4, 5]
        assert row.accuracy == pytest.approx(100 * found.runs["accuracy"].mean())
        assert found.config.one_cycle or row.label not in ("m11", "m18", "acdnet")
    with pytest.raises(ValueError, match="dataset is 'synthetic'"):
        landscape("synthetic")


def test_the_gain_of_learned_filters_is_of_pairs_with_the_same_settings(monkeypatch):
    monkeypatch.setitem(LEARNED, "m11", "m18")  # two records with the fast recipe stand for such a pair
    monkeypatch.setitem(LEARNED, "acdnet", "m18")  # and there is none with the same optimiser
    table = learned_filters_gain().query("`log-mel network` == 'm11'").to_dict("records")
    names = [path.stem for name in ("m11", "m18") for path in sorted(RESULTS.glob(f"{name}-esc10-*.json"))]
    fast = [found for found in map(load_record, names) if found.config.one_cycle]
    pairs = [(a, b) for a in fast for b in fast if a.config.architecture == "m11" and b.config.architecture == "m18"]
    pairs = [(a, b) for a, b in pairs if a.config.equalizer == b.config.equalizer]
    pairs = [(a, b) for a, b in pairs if set(a.runs["seed"]) == set(b.runs["seed"])]
    assert pairs and len(table) == 11 * len(pairs)
    for i, (m11, m18) in enumerate(pairs):
        total, *classes = table[11 * i : 11 * i + 11]
        accuracy = [100 * found.runs["accuracy"].mean() for found in (m11, m18)]
        gain = accuracy[1] - accuracy[0]
        assert [total["log-mel"], total["learned"], total["gain"]] == pytest.approx([*accuracy, gain])
        recall = m18.per_class()["recall"] - m11.per_class()["recall"]
        assert {row["class"]: row["gain"] for row in classes} == pytest.approx((100 * recall[:10]).to_dict())
        assert all(row["low"] <= row["gain"] <= row["high"] for row in (total, *classes))
    assert not learned_filters_gain().eq("acdnet").any(axis=None)


def test_every_cell_that_shows_records_is_tagged_for_make_results():
    """nbval compares their output; here: that `make results` finds them."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and ("results_table(" in cell.source or "load_record(" in cell.source):
                assert TAG in cell.metadata.get("tags", []), f"{path.name}: {cell.source}"


def test_markdown():
    table = pd.DataFrame({"a": [1, 2], "b": ["x", ""]})
    assert markdown(table) == "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 |  |\n"


class Cells(HTMLParser):
    """Texts of the cells in a page, as a reader sees them, and every kind of element."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.elements, self.inside = [], set(), False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        if tag in ("td", "th"):
            self.texts.append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside &= tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.texts[-1] += data


def test_markup_in_a_table_is_shown_as_it_is():
    plain = [
        "a|b", "|", "<script>alert(1)</script>", "</td>", "$a$", "$", "$$x$$", r"$\frac$", "_a_", "__b__", "snake_case",
        "*a*", "**", "`a`", "`", "~~a~~", r"\|", "\\", "&lt;", "&#36;", "[a](javascript:b)", "![a](b)", "[0.7, 0.9]",
        "# a", "- a", "1. a", "---", "<!-- a -->", "caf\u00e9", r"\(a\)", r"\begin{a}", r"\begin{a}b\end{a}",
    ]  # fmt: skip
    escaped = {"two\nlines": r"two\nlines", "a\r\n\n# b": r"a\r\n\n# b", "\0": r"\x00", "\udcff": r"\udcff"}
    shown = [*plain, *escaped.values()]
    text = markdown(pd.DataFrame({"$n$|": [*plain, *escaped], "b": range(len(shown))}))
    page = Cells(markdown2html(text))
    assert page.texts[::2] == ["$n$|", *shown]
    assert [int(number) for number in page.texts[3::2]] == list(range(len(shown)))
    assert page.elements == {"table", "thead", "tbody", "tr", "td", "th", "span"}
    assert "$" not in text, "Jupyter looks for formulas before it looks for tables"
    text.encode("utf-8")


def test_the_text_around_the_table_is_kept():
    table = pd.DataFrame({"network": ["m5"]})
    begin, end = BEGIN.format(name="a"), END.format(name="a")
    other = BEGIN.format(name="b") + "kept\n" + END.format(name="b")
    text = with_table(f"before\n{begin}old table\n{end}{other}after\n", "a", table)
    assert text.startswith(f"before\n{begin}\n| network |") and text.endswith(f"|\n\n{end}{other}after\n")
    assert "old table" not in text and with_table(text, "a", table) == text
    for name in ("c", "b c"):
        with pytest.raises(ValueError, match="needs one line"):
            with_table(text, name, table)


def test_only_tagged_cells_are_executed():
    twice = "print(2, flush=True)\nprint(2, flush=True)\n3"  # two messages of the kernel, one output
    drawn = "from matplotlib.figure import Figure\nfigure = Figure()\nfigure.subplots()\nfigure"
    cells = [nbformat.v4.new_code_cell(source) for source in ("print(1)", twice, "print(4)", drawn)]
    cells[3].metadata["tags"] = [TAG]
    cells[1].metadata["tags"] = [TAG]
    cells[1].execution_count = 2
    notebook = nbformat.v4.new_notebook(cells=cells)
    execute_tagged(notebook)
    assert [len(cell.outputs) for cell in cells] == [0, 2, 0, 1]
    assert "image/png" in cells[3].outputs[0]["data"]
    printed, result = cells[1].outputs
    assert printed["text"] == "2\n2\n" and result["data"]["text/plain"] == "3" and result["execution_count"] == 2
    nbformat.validate(notebook)
    assert nbformat.writes(notebook)


def test_only_records_of_the_same_clips_folds_and_seeds_are_a_pair():
    found = load_record("m11-esc10-3a5d7e01")
    validated = replace(found.config, train_folds=(3, 4, 5), eval_folds=(1,), validation_folds=(2,))
    others = [
        replace(found, data={**found.data, "source_sha256": "0"}),
        replace(found, runs=found.runs[:5]),
        replace(found, config=validated),
    ]
    assert all(_all_settings(other) != _all_settings(found) for other in others)


def test_a_record_of_some_folds_is_not_in_the_landscape():
    records = [one for one in all_records() if one.config.dataset == "urbansound8k"]
    assert records and not any(map(on_all_folds, records))
    assert "here" not in set(landscape("urbansound8k")["kind"])
