"""The notebooks as files: executed, small, typed, free of machine paths, and in step with the YAML beside them."""

import re
from pathlib import Path

import nbformat
import pytest
import yaml
from papermill import inspect_notebook

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
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
    assert {"00_start_here", "01_prepare_data", "03_train_envnet", "09_evaluate"} <= {path.stem for path in NOTEBOOKS}


def test_executed_in_order(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_outputs_are_compared(notebook):
    """nbval passes a notebook without outputs, so that some must be there and not ignored."""
    compared = [
        c for c in code_cells(notebook) if c.outputs and "nbval-ignore-output" not in c.metadata.get("tags", [])
    ]
    assert len(compared) >= 1


def test_no_error_is_committed(notebook):
    assert not [o for cell in code_cells(notebook) for o in cell.outputs if o.output_type == "error"]


def test_free_of_machine_paths(notebook):
    path = re.compile(r"(?<![\w.~/])/(home|root|tmp|work|Users|usr|var|opt)/|[A-Z]:\\")
    for text in [*texts(notebook), *sources(notebook.cells)]:
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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_typed_and_explained(path):
    """This is what `papermill --help-notebook` shows; papermill overrides only what the cell itself assigns."""
    parameters = inspect_notebook(str(path))
    assert parameters
    for parameter in parameters.values():
        assert parameter["help"], parameter["name"]
        literal = yaml.safe_load(parameter["default"])
        assert isinstance(literal, TYPES[parameter["inferred_type_name"]]), parameter


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_yaml_fits_its_notebook(path):
    notebook = next(n for n in NOTEBOOKS if path.stem.startswith(n.stem))
    parameters = inspect_notebook(str(notebook))
    for name, value in yaml.safe_load(path.read_text()).items():
        assert name in parameters, f"{path.name}: {notebook.name} has no parameter {name}"
        assert type(value) is TYPES[parameters[name]["inferred_type_name"]], f"{path.name}: {name}"


def test_yaml_holds_the_papers_values():
    from esc_lib import recipe

    values = yaml.safe_load((FOLDER / "03_train_envnet.yaml").read_text())
    published = recipe("envnet", values.pop("dataset")).to_dict()
    assert {**published, **values, "eval_every": published["eval_every"]} == published


def test_training_notebook_has_every_setting():
    """Every setting of a run can be changed from the command line."""
    expected = {"dataset", "source", "data_dir", "sample_rate", "train_folds", "eval_folds", "epochs", "batch_size"}
    expected |= {"learning_rate", "schedule", "weight_decay", "crops", "seed", "device", "save_dir", "keep_n"}
    assert expected | {"eval_every"} <= set(inspect_notebook(str(FOLDER / "03_train_envnet.ipynb")))
