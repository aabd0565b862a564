"""examples/pixaff.ipynb runs, and shows what it says, on a smaller working size than in the notebook."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs the extra site")
nbclient = pytest.importorskip("nbclient", reason="needs the extra site")
pytest.importorskip("ipykernel", reason="needs the extra site")

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "pixaff.ipynb"


def test_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # stripped: results are made, not kept
    shutil.copytree(ROOT / "examples" / "photos", tmp_path / "photos")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for cell in notebook.cells:
        cell.source = cell.source.replace('load("lite")', 'load("lite", size=192)').replace("size=256", "size=192")
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources={})
    client.resources["metadata"] = {"path": str(tmp_path)}
    client.execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 4
    assert [output.name for output in shown if output.output_type == "stream"] == []
    assert "'chelsea.jpg'" in shown[-1]["data"]["text/plain"]
    assert (tmp_path / "masks" / "overlays" / "chelsea.jpg").is_file()
    assert (tmp_path / "astronaut.png").is_file()
