"""The notebooks as files: executed, small, typed, free of machine paths, and in step with the YAML beside them."""

import re
from pathlib import Path

import nbformat
import pytest
import yaml
from papermill import inspect_notebook

from esc_lib import recipe

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
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
    quick = recipe(architecture, values["dataset"]).to_dict()
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
