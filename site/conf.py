"""Sphinx's settings for the course's site: built from committed outputs, without a network, and readable offline."""

import re
from importlib import import_module, metadata
from pathlib import Path
from pkgutil import iter_modules

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

import esc_lib

project = "esc-course"
author = copyright = "the authors of esc-course"
version = release = metadata.version("esc-course")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["README.md"]  # included by the index

nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables in outputs
nb_ipywidgets_js = {}  # these scripts would come from elsewhere
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

html_theme = "sphinx_book_theme"
html_title = "esc-course"
html_static_path = ["static"]
html_extra_path = ["_build/pictures"]  # Sphinx copies what Markdown shows, and not what `<img>` does
html_css_files = ["course.css"]
html_context = {"default_mode": "auto"}  # the theme reports an error without it
html_theme_options = {
    "use_download_button": True,  # a notebook, or a page's source
    "show_toc_level": 2,
    "navbar_persistent": [],  # the search button stands in the sidebar
}
html_math_renderer = "mathml"

autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False  # PyTorch's say nothing of these networks
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 70
default_role = "py:obj"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Shape"]
toc_object_entries_show_parents = "hide"
# Backticks hold values and shapes too, other projects' names lead nowhere without a network, and `Model` is a type
# variable.
nitpick_ignore_regex = [("py:obj", ".*"), ("py:.*", r"(?!esc_lib\.).*"), ("py:class", r".*\.Model")]

# A name is documented where users import it from: types in signatures lead there.
for package in iter_modules(esc_lib.__path__, "esc_lib."):
    if package.ispkg:
        module = import_module(package.name)
        for public in map(vars(module).get, module.__all__):
            if hasattr(public, "__module__"):
                public.__module__ = package.name

if (Path(__file__).parent / "_build" / "html" / "live" / "index.html").is_file():
    tags.add("live")  # noqa: F821 # Sphinx's own


def note_anchors(app, doctree):
    """Lets links lead to `<a id="...">`, which GitHub and JupyterLab follow and MyST does not know."""
    slugs = app.env.metadata[app.env.docname].setdefault("myst_slugs", {})
    for raw in doctree.findall(nodes.raw):
        for anchor in re.findall(r'<a id="([^"]+)">', raw.astext()):
            slugs[anchor] = (0, anchor, anchor)


def shorten_signature(app, what, name, obj, options, signature, returned):
    """Dataclasses have defaults that Sphinx cannot parse."""
    return signature and signature.replace("<factory>", "..."), returned


def inline_math(translator, node):
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def display_math(translator, node):
    translator.body.append(f'<div class="formula">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app):
    app.connect("doctree-read", note_anchors)
    app.connect("autodoc-process-signature", shorten_signature)
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
