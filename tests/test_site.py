"""What the site is laid out from: every page in the table of contents, every link inside, every public name."""

import importlib.util
import posixpath
import re
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path
from pkgutil import iter_modules

import nbformat
import pytest

import esc_lib
from esc_lib.models import ARCHITECTURES

ROOT = Path(__file__).parents[1]
INCLUDED = "README"  # part of the index


@pytest.fixture(scope="module")
def layout():
    spec = importlib.util.spec_from_file_location("layout", ROOT / "site" / "layout.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def texts(layout):
    """The Markdown of every page, by its place without the suffix."""
    found = {}
    for place, file in layout.pages().items():
        if file.suffix == ".ipynb":
            cells = nbformat.read(file, as_version=4).cells
            found[place.with_suffix("").as_posix()] = "\n\n".join(c.source for c in cells if c.cell_type == "markdown")
        elif file.suffix == ".md":
            found[place.with_suffix("").as_posix()] = file.read_text(encoding="utf-8")
    return found


def entries(texts):
    """Every page that a table of contents names, as often as one does."""
    for place, text in texts.items():
        for body in re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for line in filter(None, body.splitlines()):
                if not line.startswith(":"):
                    entry = posixpath.join(posixpath.dirname(place), re.sub(r".*<(.*)>", r"\1", line))
                    yield from [p for p in texts if fnmatch(p, entry) and p.count("/") == entry.count("/")] or [entry]


def test_every_page_stands_in_the_table_of_contents_once(texts):
    assert Counter(entries(texts)) == Counter(place for place in texts if place not in ("index", INCLUDED))


def test_every_link_leads_to_something_that_the_site_has(layout, texts):
    places = {place.as_posix() for place in layout.pages()}
    for place, text in texts.items():
        prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            if not target.startswith(("https:", "http:", "#")):
                file, _, anchor = target.partition("#")
                found = posixpath.normpath(posixpath.join(posixpath.dirname(place), file))
                assert found in places and found != f"{INCLUDED}.md", f"{place}: {target}"
                if anchor:
                    there = texts[posixpath.splitext(found)[0]]
                    headings = re.findall(r"^#+ (.*)$", there, re.MULTILINE)
                    slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
                    assert anchor in slugs | set(re.findall(r'<a id="([^"]+)">', there)), f"{place}: {target}"


def test_html_shows_pictures_of_the_site_and_leads_nowhere_else(layout, texts):
    """Sphinx leaves addresses in HTML as they are: pictures are copied beside pages, and pages renamed."""
    places = {place.as_posix() for place in layout.pages()}
    for place, text in texts.items():
        prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r'\b(?:src|srcset|href)="(?!https?:)([^"]+)"', prose):
            found = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
            assert found in places and found.endswith((".png", ".svg")), f"{place}: {target}: write it in Markdown"


def test_the_reference_has_every_package_and_the_whole_public_face(texts):
    reference = "\n".join(text for place, text in texts.items() if place.startswith("reference/"))
    documented = set(re.findall(r"automodule:: (\S+)", reference))
    packages = {module.name for module in iter_modules(esc_lib.__path__, "esc_lib.") if module.ispkg}
    assert packages <= documented
    for name in documented:
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", ()):
            if callable(getattr(module, public)):
                assert getattr(module, public).__doc__, f"autodoc leaves {name}.{public} out: it has no docstring"
            else:
                assert f".. py:data:: {name}.{public}\n" in reference
    classes = set(re.findall(r"autoclass:: (\S+)", reference)) - {"esc_lib.models.blocks.Network"}
    for name, network in ARCHITECTURES.items():
        assert classes & {f"{base.__module__}.{base.__name__}" for base in network.__mro__[:2]}, name
    for name in esc_lib.__all__:
        used = getattr(esc_lib, name)
        homes = [module for module in map(importlib.import_module, documented) if vars(module).get(name) is used]
        assert homes, f"esc_lib.{name} stands on no page"


def test_hidden_sources_are_folded_and_sliders_left_out(layout, tmp_path):
    cells = [
        nbformat.v4.new_code_cell("hidden", metadata={"jupyter": {"source_hidden": True}}),
        nbformat.v4.new_code_cell("shown"),
    ]
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "interactive()"}
    cells[1].outputs = [nbformat.v4.new_output("display_data", view)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    layout.copy_notebook(tmp_path / "a.ipynb", tmp_path / "b.ipynb")
    hidden, shown = nbformat.read(tmp_path / "b.ipynb", as_version=4).cells
    assert hidden.metadata.tags == ["hide-input"] and "tags" not in shown.metadata
    assert list(shown.outputs[0].data) == ["text/markdown"]
