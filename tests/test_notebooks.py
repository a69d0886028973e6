"""The notebooks as files: executed, small, typed, free of machine paths, and in step with the YAML beside them."""

import ast
import builtins
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import IPython
import nbformat
import papermill
import pytest
import soundfile
import yaml
from papermill import inspect_notebook
from papermill.parameterize import parameterize_notebook

from esc_lib import recipe
from esc_lib.arguments import check
from esc_lib.notebooks import check_parameters
from esc_lib.training import list_runs

ROOT = Path(__file__).parents[1]
FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SOLUTIONS = sorted((FOLDER / "solutions").glob("*.ipynb"))
# Every notebook that trains, with each network that it trains.
TRAINED = [
    ("03_train_envnet", "envnet"),
    ("04_train_envnetv2", "envnetv2"),
    ("05_train_wavemsnet", "wavemsnet"),
    ("05_train_wavemsnet", "wavemsnet_logmel"),
    *(("06_train_wavemxnet", name) for name in ("m3", "m5", "m11", "m18", "m34res")),
    ("07_train_acdnet", "acdnet"),
]
TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


@pytest.fixture(params=[*NOTEBOOKS, *SOLUTIONS], ids=lambda path: f"{path.parent.name}-{path.stem}")
def executed(request):
    """A lesson or its solutions."""
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def sources(cells):
    return [cell.source for cell in cells]


def texts(notebook):
    """Every text that a reader sees in the outputs."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            yield output.get("text", "")
            yield from (data for kind, data in output.get("data", {}).items() if kind.startswith("text/"))


def test_there_are_notebooks():
    expected = {"00_start_here", "01_prepare_data", "02_sounds_and_augmentation", "09_evaluate"}
    assert expected | {name for name, _ in TRAINED} <= {path.stem for path in NOTEBOOKS}


def test_executed_in_order(executed):
    counts = [cell.execution_count for cell in code_cells(executed)]
    assert counts == list(range(1, len(counts) + 1))


def test_outputs_are_compared(notebook):
    """nbval passes a notebook without outputs, so that some must be there and not ignored."""
    compared = [
        c for c in code_cells(notebook) if c.outputs and "nbval-ignore-output" not in c.metadata.get("tags", [])
    ]
    assert len(compared) >= 1


def test_nothing_red_is_committed(executed):
    """No error, and nothing on stderr, which JupyterLab shows in a red box."""
    outputs = [output for cell in code_cells(executed) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


def test_every_figure_is_there(executed):
    """What draws or returns a figure shows it: a picture for each, and none that the reader sees only as text."""
    for cell in code_cells(executed):
        data = [output.get("data", {}) for output in cell.outputs]
        assert all("image/png" in shown for shown in data if shown.get("text/plain", "").startswith("<Figure")), (
            cell.source
        )
        pictures = sum("image/png" in shown for shown in data)
        calls = len(re.findall(r"\bplt\.show\(|(?m:^plot_\w+\()|display\(plot_", cell.source))
        assert pictures >= calls, cell.source


def test_a_training_shows_its_curve_while_it_runs(executed):
    """A cell that trains, not silently, holds the picture of the learning curve, in its last state."""
    for cell in code_cells(executed):
        if "esc_lib.train(" in cell.source and "progress=False" not in cell.source:
            assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source


def test_every_lesson_shows_pictures(notebook):
    pictures = [o for cell in code_cells(notebook) for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) >= 3


def test_free_of_machine_paths(executed):
    path = re.compile(r"(?<![\w.~/])/(home|root|tmp|work|Users|usr|var|opt)/|[A-Z]:\\")
    for text in [*texts(executed), *sources(executed.cells)]:
        assert not path.search(text), path.search(text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_small(path):
    assert path.stat().st_size < 1_500_000


def test_players_are_short(notebook):
    """16-bit mono at 16 kHz in base64: two seconds are 85 kB."""
    for text in texts(notebook):
        for audio in re.findall(r"data:audio/wav;base64,([^\"]*)", text):
            assert len(audio) <= 2 * 16000 * 2 * 4 / 3 + 100


def test_cells_are_small_and_prose_leads(notebook):
    lengths = sorted(len(source.splitlines()) for source in sources(code_cells(notebook)))
    assert lengths[-1] <= 40 and lengths[int(0.9 * len(lengths))] <= 20
    assert len(notebook.cells) >= 2 * len(lengths)


def test_skeleton(notebook):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for part in ("What you will learn", "Time needed", "## Parameters", "## Summary", "## Exercises", "## References"):
        assert part in prose
    assert notebook.metadata.kernelspec.name == "python3"


def prose(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def section(text, title):
    """What stands under a heading of the second level."""
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_a_lesson_begins_with_a_picture(notebook):
    first, picture = notebook.cells[:2]
    assert first.cell_type == "markdown" and picture.cell_type == "code"
    assert picture.metadata["jupyter"] == {"source_hidden": True}
    assert any("image/png" in output.get("data", {}) for output in picture.outputs)


def test_cells_that_show_records_run_alone(notebook):
    """`make results` executes these cells and no others."""
    cells = [cell for cell in code_cells(notebook) if "results" in cell.metadata.get("tags", [])]
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell.source.removeprefix("%matplotlib inline\n")))]
    names = [node for node in nodes if isinstance(node, ast.Name)]
    known = {*dir(builtins), *(name.id for name in names if isinstance(name.ctx, ast.Store))}
    known |= {
        of.asname or of.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for of in node.names
    }
    known |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    known |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    assert not {name.id for name in names} - known


def test_lessons_lead_to_each_other():
    for i, path in enumerate(NOTEBOOKS):
        cells = nbformat.read(path, as_version=4).cells
        for cell in (cells[0], cells[-1]):
            line = cell.source.splitlines()[-1]
            for word, near in (("Previous", i - 1), ("Next", i + 1)):
                expected = NOTEBOOKS[near].name if 0 <= near < len(NOTEBOOKS) else None
                found = re.search(rf"{word}: \[[^\]]+\]\(([^)]+)\)", line)
                assert (found and found[1]) == expected, f"{path.name}: {line}"


def test_questions_have_answers(notebook):
    text = prose(notebook)
    predictions = text.count("**Predict before you run.**")
    quick = section(text, "Quick questions")
    assert 2 <= predictions <= 3
    assert re.findall(r"^(\d)\. ", quick, re.M) == list("12345") and quick.count("<details>") == 5
    answers = predictions + 5
    assert text.count("<details>") == text.count("</details>") == answers
    # Without the blank line JupyterLab shows an answer's Markdown as it is written.
    assert len(re.findall(r"<summary>Answer</summary>\n\s*\n", text)) == answers


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_exercise_is_solved(path):
    exercises = section(prose(nbformat.read(path, as_version=4)), "Exercises")
    assert re.findall(r"^(\d)\. ", exercises, re.M) == list("123")
    assert f"(solutions/{path.name})" in exercises
    solved = prose(nbformat.read(path.parent / "solutions" / path.name, as_version=4))
    assert re.findall(r"^## (?:Exercise )?(\d)", solved, re.M) == list("123")
    assert f"(../{path.name})" in solved


def test_links_lead_somewhere(executed, request):
    folder = FOLDER / "solutions" if "solutions" in request.node.callspec.id else FOLDER
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(executed)):
        file, _, anchor = target.partition("#")
        if not re.match(r"https?:", target) and file:
            assert (folder / file).exists(), target
            assert not file.endswith("glossary.md") or f'id="{anchor}"' in glossary, target


def test_the_glossary_is_sorted_and_in_one_line_each():
    lines = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
    terms = [
        re.fullmatch(r'<a id="([a-z0-9-]+)"></a>\*\*(.+?)\*\*( \(\w+\))?: .+\.', line) for line in lines[4:] if line
    ]
    assert all(terms)
    ids = [term[1] for term in terms]
    assert len(set(ids)) == len(ids) and ids == sorted(ids)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_typed_and_explained(path):
    """This is what `papermill --help-notebook` shows; papermill overrides only what the cell itself assigns."""
    parameters = inspect_notebook(str(path))
    assert parameters
    for parameter in parameters.values():
        assert parameter["help"], parameter["name"]
        literal = yaml.safe_load(parameter["default"])
        assert isinstance(literal, TYPES[parameter["inferred_type_name"]]), parameter


def test_what_papermill_passed_is_checked_before_anything_is_done_with_it(notebook):
    cells = code_cells(notebook)
    (place,) = [i for i, cell in enumerate(cells) if cell.metadata.get("tags") == ["parameters"]]
    assert place <= 1  # a picture at most comes before
    first = cells[place + 1]
    statements = ast.parse(first.source.removeprefix("%matplotlib inline\n")).body
    done = [ast.unparse(of) for of in statements if not isinstance(of, ast.Import | ast.ImportFrom)]
    assert done[0] == "check_parameters()"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_yaml_fits_its_notebook(path):
    notebook = next(n for n in NOTEBOOKS if path.stem.startswith(n.stem))
    parameters = inspect_notebook(str(notebook))
    for name, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        assert name in parameters, f"{path.name}: {notebook.name} has no parameter {name}"
        assert type(value) is TYPES[parameters[name]["inferred_type_name"]], f"{path.name}: {name}"


def settings_of(values, architecture):
    """What a notebook's values ask `recipe` for, without those that are the notebook's own."""
    elsewhere = {
        "train_folds",
        "dataset",
        "networks",
        "source",
        "subset",
        "data_dir",
        "device",
        "save_dir",
        "keep_n",
        "run_dir",
    }
    phase_2 = {name.removeprefix("phase_2_"): value for name, value in values.items() if name.startswith("phase_2_")}
    if architecture == "wavemsnet_logmel":
        values = {**values, **phase_2}
    return {k: v for k, v in values.items() if k not in elsewhere and not k.startswith("phase_2_")}


@pytest.mark.parametrize(("name", "architecture"), TRAINED)
def test_yaml_holds_the_papers_values(name, architecture):
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    ways = {k: values[k] for k in ("between_class", "strong_augmentation") if k in values}
    published = recipe(architecture, values["dataset"], **ways).to_dict()
    settings = settings_of(values, architecture)
    assert settings.pop("eval_every") > 1
    assert {**published, **settings} == published


@pytest.mark.parametrize(("name", "architecture"), TRAINED)
def test_defaults_are_the_quick_recipe(name, architecture):
    parameters = inspect_notebook(str(FOLDER / f"{name}.ipynb"))
    values = {k: yaml.safe_load(of["default"].replace("True", "true")) for k, of in parameters.items()}
    assert values["eval_folds"] == values["train_folds"] == []
    quick = recipe(architecture, values["dataset"], precision="auto").to_dict()
    settings = settings_of(values, architecture)
    if architecture == "wavemsnet_logmel":
        settings.pop("eval_every")
    del settings["eval_folds"]
    assert {**quick, **settings} == quick


@pytest.mark.parametrize("name", sorted({name for name, _ in TRAINED}))
def test_training_notebooks_have_every_setting(name):
    """Every setting of a run can be changed from the command line."""
    expected = {"dataset", "source", "subset", "data_dir", "sample_rate", "train_folds", "eval_folds", "epochs"}
    expected |= {
        "batch_size",
        "learning_rate",
        "schedule",
        "warmup",
        "weight_decay",
        "between_class",
        "crops",
        "device",
    }
    expected |= {
        "precision",
        "compile",
        "seed",
        "strong_augmentation",
        "save_dir",
        "run_dir",
        "keep_n",
        "eval_every",
        "device",
    }
    assert expected <= set(inspect_notebook(str(FOLDER / f"{name}.ipynb")))


# --- what papermill passes, and parameters that only a lesson can check ---

PARAMETERS = """\
dataset: str = "synthetic"  # a set
folds: list = []  # some folds
schedule: list = [0.5]  # some shares
epochs: int = 2  # passes
learning_rate: float = 0.1  # step
subset: bool = False  # fewer clips
"""


def parameterized(passed):
    """A notebook with the parameters above, and papermill's own cell with what was passed."""
    metadata = {"kernelspec": {"name": "python3", "language": "python", "display_name": "3"}, "papermill": {}}
    cell = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata=metadata)
    return parameterize_notebook(notebook, passed) if passed else notebook


def execute_here(monkeypatch, *cells):
    """Executes cells as a kernel would, which keeps their source."""
    shell = SimpleNamespace(user_ns={}, history_manager=SimpleNamespace(input_hist_parsed=["", *cells]))
    for cell in cells:
        with suppress(SyntaxError):
            exec(cell, shell.user_ns)
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)


WRONG = [
    ({"epoch": 3}, "no parameter epoch: did you mean epochs?"),
    ({"zzz": 3}, "no parameter zzz: it has dataset, folds, schedule, epochs, learning_rate, subset"),
    ({"epochs": 3, "Dataset": "esc10"}, "no parameter Dataset: did you mean dataset?"),
    ({"schedule[0]": 3}, "no parameter schedule[0]: did you mean schedule?"),
    ({"folds": "[1, 2]"}, 'list; pass it as -y "folds: [1, 2]"'),
    ({"folds": 1}, 'list; pass it as -y "folds: [1]"'),
    ({"folds": '["a"]'}, """list; pass it as -y "folds: ['a']\""""),
    ({"subset": "true"}, "subset is 'true': expected true or false; pass it as -p subset True"),
    ({"subset": 1}, "subset is 1: expected true or false"),
    ({"epochs": True}, "epochs is True: expected a whole number"),
    ({"epochs": 3.0}, "epochs is 3.0: expected a whole number"),
    ({"epochs": None}, "epochs is None: expected a whole number"),
    ({"learning_rate": "1e-3"}, "learning_rate is '1e-3': expected a number (in YAML write 1.0e-3"),
    ({"dataset": 2024}, "dataset is 2024: expected text; pass it as -r dataset 2024"),
]
RIGHT = [
    {},
    {"dataset": "a 'quoted' \\ $name\n\udcff", "folds": [1, 2], "epochs": 3, "subset": True},
    {"learning_rate": 1},
    {"learning_rate": float("nan")},  # the library refuses it
    {"PAPERMILL_INPUT_PATH": "a.ipynb", "PAPERMILL_OUTPUT_PATH": "b.ipynb"},
]


@pytest.mark.parametrize(("passed", "message"), WRONG, ids=lambda of: str(of) if isinstance(of, dict) else "")
def test_an_unknown_parameter_or_one_of_another_kind_stops_the_lesson(monkeypatch, passed, message):
    execute_here(monkeypatch, *sources(parameterized(passed).cells), "later = 1")
    with pytest.raises(ValueError, match=re.escape(message)):
        check_parameters()


@pytest.mark.parametrize("passed", RIGHT, ids=str)
def test_parameters_that_a_lesson_has_pass(monkeypatch, passed):
    execute_here(monkeypatch, *sources(parameterized(passed).cells))
    check_parameters()


def test_a_lesson_that_papermill_executed_can_be_run_again_by_hand(monkeypatch):
    parameters, injected = sources(parameterized({"epoch": 3}).cells)
    execute_here(monkeypatch, parameters, injected, "broken(", "x: int = 1", injected.replace("epoch", "epochs"))
    check_parameters()  # the cell was corrected and run again
    execute_here(monkeypatch, parameters, injected, parameters)
    check_parameters()  # the defaults are back
    monkeypatch.setattr(IPython, "get_ipython", lambda: None)
    check_parameters()  # not in a notebook at all


@pytest.mark.parametrize(
    ("passed", "message"),
    [({"epoch": 3}, "did you mean epochs"), ({"folds": "[1]"}, "folds is"), ({"epochs": 3}, None)],
    ids=str,
)
def test_papermill_itself_stops(tmp_path, passed, message):
    """In a real kernel; without the rest of the library, whose import takes seconds."""
    stub = "import sys, types\nsys.modules['esc_lib'] = types.ModuleType('esc_lib')\n"
    stub += f"sys.modules['esc_lib'].__path__ = [{str(ROOT / 'esc_lib')!r}]\n"
    notebook = parameterized({})
    notebook.cells += map(
        nbformat.v4.new_code_cell,
        [f"{stub}from esc_lib.notebooks import check_parameters\ncheck_parameters()", "print('epochs:', epochs)"],
    )
    nbformat.write(notebook, tmp_path / "in.ipynb")
    if message is None:
        done = papermill.execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", passed, progress_bar=False)
        assert done.cells[-1].outputs[0].text == "epochs: 3\n"
    else:
        with pytest.raises(papermill.PapermillExecutionError, match=message):
            papermill.execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", passed, progress_bar=False)


@pytest.mark.parametrize(
    ("name", "line", "values", "message"),
    [
        ("11_use_a_model", "soundfile.info(file)", {"recording": "nosuch.wav"}, "recording nosuch.wav is no file"),
        ("11_use_a_model", "soundfile.info(file)", {"recording": "."}, r"recording \. is no file"),
        ("09_evaluate", "list_runs(save_dir", {"save_dir": "nosuch", "run_dir": ""}, "save_dir nosuch holds no runs"),
        ("02_sounds_and_augmentation", "check(name", {"first_class": 10, "second_class": 0}, "first_class is 10"),
        ("02_sounds_and_augmentation", "check(name", {"first_class": 0, "second_class": -1}, "second_class is -1"),
    ],
)
def test_a_lesson_names_its_wrong_parameter(name, line, values, message):
    cells = code_cells(nbformat.read(FOLDER / f"{name}.ipynb", as_version=4))
    (cell,) = [cell for cell in cells if line in cell.source]
    given = {"check": check, "list_runs": list_runs, "Path": Path, "soundfile": soundfile, "tempfile": tempfile}
    rest = cell.source
    if name.startswith("02"):
        rest = rest[rest.index("for name") :]
        given["recorded"] = SimpleNamespace(classes=["class"] * 10)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        exec(rest, given | values)


def test_every_clone_has_the_folder_that_executed_notebooks_go_to():
    assert {"*", "!.gitignore"} <= set((ROOT / "runs" / ".gitignore").read_text(encoding="utf-8").splitlines())
    assert "runs/" not in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
