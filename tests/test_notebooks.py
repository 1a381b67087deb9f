"""The notebooks: stripped in the repository, and each runs in a fresh kernel, away from it."""

import os
import re
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LONGEST_S, STUCK_S = 60, 150
"""Of processor time, which others on the machine do not change; and of waiting for a cell."""
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def seconds_of_children() -> float:
    """Processor time of the kernels that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def faults(notebook: NotebookNode) -> list[str]:
    """What does not belong into the repository, or is missing there."""
    found = [
        f"cell {n} has no id" for n, cell in enumerate(notebook.cells, 1) if not cell.get("id")
    ]
    if not found:  # else it would warn, and give ids
        try:
            nbformat.validate(notebook)
        except nbformat.ValidationError as error:
            found.append(f"not valid: {error.message}")
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
        found.append("older than nbformat 4.5: cells have no ids")
    if notebook.metadata.get("kernelspec") != KERNEL:
        found.append(f"kernelspec {notebook.metadata.get('kernelspec')}")
    if set(notebook.metadata) - {"kernelspec", "language_info"}:
        found.append(f"metadata {sorted(notebook.metadata)}")
    for number, cell in enumerate(notebook.cells, 1):
        if cell.get("outputs"):
            found.append(f"cell {number} has outputs")
        if cell.get("execution_count") is not None:
            found.append(f"cell {number} has an execution count")
        if cell.metadata:
            found.append(f"cell {number} has metadata")
    return found


def broken_links(notebook: NotebookNode, folder: Path) -> list[str]:
    """Relative links of its texts that lead nowhere."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    targets = re.findall(r"\]\(([^)#\s]+)", "\n".join(texts))
    return [one for one in targets if "://" not in one and not (folder / one).exists()]


def executed(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """The notebook with its outputs, run in a fresh kernel in that folder.

    A client that waits for the answer of an idle kernel has lost a message: it is run once more.

    Raises:
        CellExecutionError: a cell failed.
    """
    resources = {"metadata": {"path": str(folder)}}
    options = {"timeout": STUCK_S, "kernel_name": "python3", "resources": resources}
    try:
        return NotebookClient(deepcopy(notebook), **options).execute()
    except CellTimeoutError:
        return NotebookClient(notebook, **options).execute()


def complaints(notebook: NotebookNode) -> list[str]:
    """What an executed notebook says on stderr, and errors that its widgets swallowed."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    found = [output.text for output in outputs if output.get("name") == "stderr"]
    widgets = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json")
    for widget in (widgets or {}).get("state", {}).values():
        shown = widget["state"].get("outputs", ())
        found += [one["evalue"] for one in shown if one["output_type"] == "error"]
    return found


def mimes(notebook: NotebookNode) -> list[set[str]]:
    """The forms in which each result of a cell is given."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [set(output.get("data", ())) for output in outputs]


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No settings of the machine, and no network for models."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_there_are_six_in_order():
    assert [path.name[:3] for path in NOTEBOOKS] == ["01_", "02_", "03_", "04_", "05_", "06_"]
    listed = (FOLDER / "README.md").read_text()
    assert re.findall(r"\]\((\d\d_\w+\.ipynb)\)", listed) == [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stripped_and_valid(path):
    notebook = nbformat.v4.reads(path.read_text())  # as it is: `nbformat.read` mends
    assert faults(notebook) == []
    assert broken_links(notebook, FOLDER) == []
    assert notebook.cells[0].source.startswith(f"# {int(path.name[:2])}. ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_in_a_fresh_kernel(path, tmp_path):
    notebook = nbformat.read(path, 4)
    if "transformers" in path.read_text() and find_spec("transformers") is None:
        pytest.skip("needs transformers: pip install 'lp-routing[notebooks]'")
    began = seconds_of_children()
    notebook = executed(notebook, tmp_path)
    assert 0 < seconds_of_children() - began < LONGEST_S
    assert complaints(notebook) == []
    given = mimes(notebook)
    assert sum("image/svg+xml" in forms for forms in given) >= 2, "pictures"
    findings = [cell for cell in notebook.cells if "**Finding.**" in str(cell.get("outputs"))]
    assert len(findings) >= 3


def test_budgets_can_be_stepped_through_without_a_kernel():
    source = nbformat.read(FOLDER / "04_budget_trade_offs.ipynb", 4)
    code = "\n".join(cell.source for cell in source.cells if cell.cell_type == "code")
    assert "interact(" in code
    assert '<input type="radio"' in code
    assert "<script" not in code


def clean(*cells: NotebookNode) -> NotebookNode:
    """A notebook without faults."""
    language = {"name": "python"}
    return new_notebook(
        cells=list(cells), metadata={"kernelspec": KERNEL, "language_info": language}
    )


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda n: n.cells[0].outputs.append(new_output("stream", text="1")), "cell 1 has outputs"),
        (lambda n: n.cells[0].update(execution_count=3), "cell 1 has an execution count"),
        (lambda n: n.cells[1].pop("id"), "cell 2 has no id"),
        (lambda n: n.cells[1].metadata.update(tags=["x"]), "cell 2 has metadata"),
        (lambda n: n.metadata.kernelspec.update(name="mine"), "kernelspec"),
        (lambda n: n.metadata.update(widgets={}), "metadata"),
        (lambda n: n.update(nbformat_minor=4), "older than nbformat 4.5"),
        (lambda n: n.cells[0].pop("source"), "not valid"),
    ],
)
def test_a_notebook_that_is_not_stripped_is_found(spoil, fault):
    notebook = nbformat.from_dict(clean(new_code_cell("1"), new_markdown_cell("a")))
    notebook.metadata.kernelspec = nbformat.from_dict(dict(KERNEL))
    assert faults(notebook) == []
    spoil(notebook)
    assert any(found.startswith(fault) for found in faults(notebook))


def test_links_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "there.md").touch()
    text = "[a](there.md) [b](there.md#x) [c](https://x.org/y) [d](gone.md)"
    assert broken_links(clean(new_markdown_cell(text)), tmp_path) == ["gone.md"]


def test_a_cell_that_fails_fails_the_notebook(tmp_path):
    with pytest.raises(CellExecutionError, match="a finding that is stale"):
        executed(clean(new_code_cell("assert 1 + 1 == 3, 'a finding that is stale'")), tmp_path)


def test_warnings_and_errors_in_widgets_are_heard(tmp_path):
    warns = new_code_cell("import sys; print('beware', file=sys.stderr)")
    slider = new_code_cell("from ipywidgets import interact\ninteract(lambda x: 1 / x, x=0);")
    assert complaints(executed(clean(warns, slider), tmp_path)) == ["beware\n", "division by zero"]
