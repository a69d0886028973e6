"""How the project is put together: who imports whom, what it needs, and what it must never use."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import esc_lib

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "esc_lib"
# Data flows one way: a wing imports from itself and from those before it.
WINGS = [
    "arguments", "paths", "files", "lessons", "notebooks", "plots", "progress", "data", "models", "training",
    "evaluation", "results", "interpret", "bench", "environment", "esclearner",
]  # fmt: skip
REQUIRED = {
    "torch", "torchaudio", "numpy", "pandas", "requests", "urllib3", "tqdm", "scikit-learn", "scipy", "joblib",
    "filelock", "matplotlib", "seaborn", "jupyterlab", "nbval", "papermill", "ipython", "ipywidgets", "nbclient",
    "nbformat", "soundfile", "soxr", "captum", "pytest", "pytest-xdist",
}  # fmt: skip
EXTRAS = {
    "cluster": {"distributed"},
    "export": {"onnx", "onnxscript", "onnxruntime"},
    "site": {"sphinx", "docutils", "myst-nb", "sphinx-book-theme"},
    "browser": {"playwright"},
    "dev": {"ruff", "mypy", "pandas-stubs", "types-requests", "types-tqdm"},
}
INSTALLED = sorted(EXTRAS.keys() - {"site", "browser"})  # by `make` and conda; `make site` adds its own
DISTRIBUTION = {"sklearn": "scikit-learn", "IPython": "ipython"}  # where the import's name is another
LATE = [
    "torchaudio", "dask", "distributed", "sklearn", "scipy", "joblib", "matplotlib", "IPython", "requests", "captum",
    "onnx", "onnxscript", "onnxruntime",
]  # fmt: skip
FILES = sorted(LIBRARY.rglob("*.py"))


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path, top_level_only=False):
    """Dotted names of all modules that a file imports; for `from a import b`, both `a` and `a.b`."""
    parsed = tree(path)
    names = set()
    for node in parsed.body if top_level_only else ast.walk(parsed):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def wing(path):
    """Which of `WINGS` a file belongs to."""
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def distribution(line):
    """The package that a requirement asks for."""
    return re.match(r"[A-Za-z0-9_.-]+", line)[0].lower().replace("_", "-")


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def test_the_house_has_these_wings():
    assert {wing(path) for path in FILES} == {*WINGS, "__init__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(LIBRARY)))
def test_no_wing_imports_a_later_one(path):
    parts = [name.split(".") for name in imports(path)]
    used = {part[1] for part in parts if part[0] == "esc_lib" and len(part) > 1 and part[1] in WINGS}
    if path == LIBRARY / "__init__.py":
        return
    place = WINGS.index(wing(path))
    later = {name for name in used if WINGS.index(name) > place}
    assert not later, f"{wing(path)} imports {', '.join(later)}, which come after it"


def test_the_public_face_is_small():
    assert esc_lib.__all__ == sorted(esc_lib.__all__) and set(esc_lib.__all__) == {
        "prepare", "load_clips", "build_model", "recipe", "train", "evaluate", "cross_validate", "predict", "load_run",
        "calibrate", "export", "fetch_run",
    }  # fmt: skip
    for name in WINGS[WINGS.index("data") :]:
        package = importlib.import_module(f"esc_lib.{name}")
        assert all(hasattr(package, public) for public in package.__all__)
        assert len(package.__doc__.splitlines()) <= 6, f"esc_lib.{name} says in three sentences what it holds"


def test_public_functions_of_many_arguments_explain_them():
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = [a.arg for a in node.args.args + node.args.kwonlyargs if a.arg not in ("self", "cls")]
                text = ast.get_docstring(node)
                assert len(arguments) < 3 or text is None or "Args:" in text, f"{path}: {node.name}"
                assert text or node.name == "forward" or len(arguments) < 3, f"{path}: {node.name}"


def test_what_is_put_on_from_outside_is_not_known_inside():
    """Networks are plain PyTorch, and nobody but `esc_lib` itself knows the older project."""
    for path in FILES:
        if wing(path) == "models" and path.stem not in ("cpu", "cpu_operations"):
            assert not {name for name in imports(path) if name.startswith("esc_lib.models.cpu")}, path
        if wing(path) not in ("esclearner", "__init__"):
            assert not {name for name in imports(path) if name.startswith("esc_lib.esclearner")}, path


def test_imports_form_no_circle():
    graph = {}
    for path in FILES:
        name = ".".join(["esc_lib", *path.relative_to(LIBRARY).with_suffix("").parts]).removesuffix(".__init__")
        graph[name] = imports(path)
    done = set()

    def visit(name, above):
        assert name not in above, f"circle: {' -> '.join([*above, name])}"
        if name in done:
            return
        for other in graph[name] & set(graph) - {name}:
            visit(other, [*above, name])
        done.add(name)

    for name in graph:
        visit(name, [])
    assert len(done) == len(FILES)


def test_modules_import_from_modules_not_from_the_package():
    """`esc_lib.train` the function hides `esc_lib.train` the module; only users of the library meet that."""
    for path in FILES:
        if path != LIBRARY / "__init__.py":
            from_package = [
                node for node in ast.walk(tree(path)) if isinstance(node, ast.ImportFrom) and node.module == "esc_lib"
            ]
            assert not from_package, path


def test_importing_the_library_imports_late_what_few_need():
    """`import esc_lib` shall cost little more than `import torch`; and whoever needs no log-mel spectrogram, no cluster
    and no download must not meet what those need (torchaudio refuses a torch that was built for another CUDA)."""
    code = "import torch, sys; before = set(sys.modules); import esc_lib; new = set(sys.modules) - before\n"
    code += f"print(*[name for name in {LATE} if name in new])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split() == [], done.stderr or done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_no_other_program_is_called_and_torchaudio_reads_no_file(path):
    if path.stem != "compute":  # it asks git for the commit
        assert not {name.split(".")[0] for name in imports(path)} & {"subprocess", "pty", "commands"}
    assert not [name for name in imports(path, top_level_only=True) if name.split(".")[0] == "torchaudio"]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute):
            used = ast.unparse(node)
            assert used not in ("torchaudio.load", "torchaudio.info", "torchaudio.save", "os.system", "os.popen"), used
            assert not used.startswith(("os.exec", "os.spawn", "os.posix_spawn")), used
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            assert "ffmpeg" not in node.value.lower(), "FFmpeg is not to be needed"


def test_the_project_depends_on_these_and_no_others(project):
    assert {distribution(line) for line in project["dependencies"]} == REQUIRED
    extras = project["optional-dependencies"]
    assert {extra: {distribution(line) for line in lines} for extra, lines in extras.items()} == EXTRAS


def test_torch_and_torchaudio_are_of_one_version(project):
    bounds = {distribution(line): re.sub(r"^[A-Za-z0-9_.-]+", "", line) for line in project["dependencies"]}
    assert bounds["torch"] == bounds["torchaudio"] != ""


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_whatever_is_imported_is_a_dependency(path):
    used = {name.split(".")[0] for name in imports(path)} - {"esc_lib"} - set(sys.stdlib_module_names)
    missing = {DISTRIBUTION.get(name, name) for name in used} - REQUIRED - EXTRAS["export"]
    assert not missing


def test_what_is_installed_for_the_tests_has_the_extras():
    assert f"--editable '.[{','.join(INSTALLED)}]'" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_environment_installs_the_project_and_states_no_version_twice(environment, project):
    assert environment["name"]
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert [re.sub(r"\s+", " ", line.strip()) for line in pip] == [f"--editable .[{','.join(INSTALLED)}]"]
    bounds = {distribution(line): re.sub(r"^[A-Za-z0-9_.-]+", "", line).strip() for line in conda}
    assert bounds.pop("python") == project["requires-python"]
    assert bounds == {"pip": ""}, "every other version stands in pyproject.toml"
