"""The quickstart notebook runs from its first cell to its last, without a network."""

from __future__ import annotations

import pytest
from docs.pages import DOCS

NOTEBOOK = DOCS / "quickstart.ipynb"
OFFLINE = "http://127.0.0.1:9"  # no server listens there: whatever asks for a page fails


@pytest.fixture
def notebook():
    """The notebook as it is in the documentation."""
    import nbformat

    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_valid_and_holds_no_paths_of_a_machine(notebook):
    import nbformat

    nbformat.validate(notebook)
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "/home/" not in text
    assert "/tmp/" not in text  # noqa: S108 — nothing is written there


@pytest.mark.e2e
@pytest.mark.slow
def test_the_notebook_runs_offline_and_shows_tables_and_a_figure(notebook, tmp_path, monkeypatch):
    import tlx

    if not hasattr(tlx, "run"):
        pytest.skip("tlx.run is not in this version of the package")
    from nbclient import NotebookClient

    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, OFFLINE)
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    resources = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", resources=resources)
    client.execute()  # an error in a cell is raised here, with its traceback

    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    shown = [output.get("data", {}) for cell in cells for output in cell.outputs]
    assert any("image/png" in data for data in shown)
    assert sum("text/html" in data for data in shown) >= 3  # pandas tables
    assert (tmp_path / "quickstart-runs" / "studies").is_dir()
