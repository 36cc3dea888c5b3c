"""Every notebook of the documentation runs, with what takes long cut short, and shows what it promises."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs/notebooks"
SHORT = {"EPOCHS": "1", "STEPS": "2", "SEEDS": "1", "DATA": '"shapes:320"'}


# Comparisons have tests of their own.
LONG = {"does-it-pay": pytest.mark.endure}


@pytest.mark.parametrize(
    "file", [pytest.param(file, marks=LONG.get(file.stem, ()), id=file.stem) for file in sorted(FOLDER.glob("*.ipynb"))]
)
def test_it_runs(file: Path, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    book = nbformat.read(file, 4)
    stored = [cell for cell in book.cells if cell.cell_type == "code" and cell.outputs]
    assert any("image/png" in output.get("data", {}) for cell in stored for output in cell.outputs), "make notebooks"
    for cell in book.cells:
        for name, value in SHORT.items():
            cell.source = re.sub(rf"^{name} = [^ \n]*", f"{name} = {value}", cell.source, flags=re.MULTILINE)
    nbclient.NotebookClient(book, timeout=400, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = [output.text for cell in book.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"]
    # tqdm asks for a package of notebooks that this kernel lacks.
    assert [text for text in said if "Warning" in text and "IProgress" not in text] == []
