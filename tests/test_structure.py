"""How the project is put together: who imports whom, what it needs, and what it must never use."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "esc_lib"
# Sound flows one way: a module imports only what comes before it.
ORDER = [
    "datasets", "synthetic", "download", "archives", "audio", "official", "clips", "prepare", "augment", "audit",
    "mixing", "statistics", "machine", "device", "precision", "models", "config", "recipes", "batches", "steps",
    "plots", "inference", "esclearner", "files", "runs", "fetch", "resume", "train", "evaluate", "calibration",
    "cross_validation", "predict", "records", "results", "plain_loop", "bench",
]  # fmt: skip
REQUIRED = {
    "torch", "torchaudio", "numpy", "pandas", "requests", "tqdm", "scikit-learn", "matplotlib", "seaborn",
    "jupyterlab", "nbval", "papermill", "soundfile", "soxr", "pytest", "pytest-xdist",
}  # fmt: skip
EXTRAS = {"cluster": {"distributed"}}
DISTRIBUTION = {"sklearn": "scikit-learn", "IPython": "ipython"}  # where the import's name is another
# What a dependency is sure to bring, and by which way.
BROUGHT = {
    "urllib3": ["requests", "urllib3"],
    "filelock": ["torch", "filelock"],
    "scipy": ["scikit-learn", "scipy"],
    "joblib": ["scikit-learn", "joblib"],
    "nbclient": ["papermill", "nbclient"],
    "nbformat": ["papermill", "nbformat"],
    "ipython": ["jupyterlab", "ipykernel", "ipython"],
}
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


def stage(path):
    """Which of `ORDER` a file belongs to."""
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def library_imports(path):
    """Which of `ORDER` a file imports."""
    parts = [name.split(".") for name in imports(path)]
    return {part[1] for part in parts if part[0] == "esc_lib" and len(part) > 1}


def distribution(line):
    """The package that a requirement asks for."""
    return re.match(r"[A-Za-z0-9_.-]+", line)[0].lower().replace("_", "-")


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def test_every_module_has_its_place():
    stages = {stage(path) for path in FILES} - {"__init__"}
    assert stages == set(ORDER), "a new module must be given its place in ORDER"


@pytest.mark.parametrize("path", [p for p in FILES if p != LIBRARY / "__init__.py"], ids=lambda p: p.stem)
def test_no_module_imports_a_later_one(path):
    place = ORDER.index(stage(path))
    later = {name for name in library_imports(path) if name in ORDER and ORDER.index(name) > place}
    assert not later, f"{stage(path)} imports {', '.join(later)}, which come after it"


def test_imports_within_a_stage_form_no_circle():
    """The networks import one another, and the package's `__init__` all of them."""
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


@pytest.mark.parametrize("package", ["torchaudio", "dask", "distributed"])
def test_importing_the_library_does_not_import(package):
    # torchaudio's wheel refuses a torch that was built for another CUDA: who needs no log-mel must not meet it. Dask is
    # for who has a cluster.
    code = f"import esc_lib, sys; sys.exit({package!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or f"import esc_lib imports {package}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_no_other_program_is_called_and_torchaudio_reads_no_file(path):
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
    missing = {DISTRIBUTION.get(name, name) for name in used} - REQUIRED - set(BROUGHT)
    assert not missing


@pytest.mark.parametrize("way", BROUGHT.values(), ids=BROUGHT)
def test_what_is_imported_without_being_a_dependency_is_brought_by_one(way):
    assert way[0] in REQUIRED
    for package, needed in pairwise(way):
        always = [line for line in requires(package) if "extra ==" not in line]
        assert needed in {distribution(line) for line in always}


def test_what_is_installed_for_the_tests_has_the_extras():
    assert f"--editable '.[{','.join(EXTRAS)}]'" in (ROOT / "Makefile").read_text()


def test_the_environment_installs_the_project_and_states_no_version_twice(environment, project):
    assert environment["name"]
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert [re.sub(r"\s+", " ", line.strip()) for line in pip] == [f"--editable .[{','.join(EXTRAS)}]"]
    bounds = {distribution(line): re.sub(r"^[A-Za-z0-9_.-]+", "", line).strip() for line in conda}
    assert bounds.pop("python") == project["requires-python"]
    assert bounds == {"pip": ""}, "every other version stands in pyproject.toml"
