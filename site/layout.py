"""Lays the course's pages out for Sphinx, side by side as in the repository, so that their links work unchanged."""

import shutil
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "site" / "_build" / "source"
PICTURES = ROOT / "site" / "_build" / "pictures"
OF_THE_COURSE = [
    "*.md", "LICENSE", "CITATION.cff", "environment.yml", "data/README.md", "docs/**/*", "notebooks/**/*.ipynb",
    "notebooks/**/*.yaml", "notebooks/**/*.png",
]  # fmt: skip
OF_THE_SITE = ["*.md", "reference/*.md"]


def pages() -> dict[Path, Path]:
    """Every file that the site is made from, by its place in the layout."""
    return {
        file.relative_to(folder): file
        for folder, patterns in ((ROOT, OF_THE_COURSE), (ROOT / "site", OF_THE_SITE))
        for pattern in patterns
        for file in sorted(folder.glob(pattern))
        if file.is_file() and ".ipynb_checkpoints" not in file.parts
    }


def lay_out() -> None:
    """Copies them afresh, so that what was removed is gone from the site too."""
    for folder in (SOURCE, PICTURES):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for place, file in pages().items():
        (SOURCE / place).parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".ipynb":
            copy_notebook(file, SOURCE / place)
        else:
            shutil.copy(file, SOURCE / place)
        if file.suffix in (".png", ".svg"):
            (PICTURES / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, PICTURES / place)


def copy_notebook(file: Path, target: Path) -> None:
    """Copies a notebook as a page shows it: no sliders, and folded sources where JupyterLab hides them."""
    notebook = nbformat.read(file, as_version=4)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            cell.metadata.setdefault("tags", []).append("hide-input")
        for output in cell.get("outputs", []):
            if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
                output.data = {"text/markdown": "*Here, in a running notebook, are sliders.*"}
    nbformat.write(notebook, target)


if __name__ == "__main__":
    lay_out()
