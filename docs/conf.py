"""How Sphinx builds the documentation: `make docs`, with warnings as errors and no network."""

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))

project = "lp_routing"
author = "the lp_routing authors"
copyright = author  # noqa: A001, Sphinx's name for it
html_title = "lp_routing"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
    "docstrings",
    "live",
]
exclude_patterns = ["_build", "README.md"]
nitpicky = True
nitpick_ignore = [
    ("py:class", "Figure"),  # matplotlib, imported where it draws
    ("py:class", "TrainerCallback"),  # transformers, imported where it is used
    ("py:class", "lp_routing.routers.base.State"),  # a type variable
]

html_theme = "furo"
html_copy_source = False
html_show_sphinx = False

# Google style; what a call gives back is prose, not "type: description"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [(name, "prose") for name in ("Returns", "Yields", "Source", "Cost")]
default_role = "py:obj"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

# `make docs` turns execution on; outputs are not kept in the repository
nb_execution_mode = "off"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}


NOTEBOOKS = """# Notebooks

A question, a picture, a sentence of finding. Each runs in less than a minute on the sample
that ships with the package: `jupyter lab notebooks/`.
"""
MOVED = {
    "](../docs/": "](../",
    "](../README.md": "](../index.md",
    "](../benchmarks/README.md": "](../benchmarks.md",
    "](../CONTRIBUTING.md": "](../contributing.md",
}
"""Links out of the folder notebooks/ -> the same from its copy."""


def _notebooks() -> None:
    """Sphinx reads what is below its own folder, so the notebooks are copied into it."""
    target = HERE / "notebooks"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    found = sorted(HERE.parent.glob("notebooks/[0-9]*.ipynb"))
    for notebook in found:
        text = notebook.read_text()
        for there, here in MOVED.items():
            text = text.replace(there, here)
        (target / notebook.name).write_text(text)
    entries = "\n".join(notebook.stem for notebook in found)
    toctree = f"\n```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n" if found else ""
    (target / "index.md").write_text(NOTEBOOKS + toctree)


_notebooks()
