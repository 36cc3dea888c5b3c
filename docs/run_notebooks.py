"""Runs the notebooks and stores what they show: ``make notebooks``, after a change of them or of what they use."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent / "notebooks"

for file in sorted(FOLDER.glob("*.ipynb")):
    print(file.name, flush=True)
    book = nbformat.read(file, 4)  # type: ignore[no-untyped-call]
    NotebookClient(book, timeout=1800).execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # times, which differ with every run
        if cell.cell_type == "code":  # warnings of the kernel this happened to run in
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(book, file)  # type: ignore[no-untyped-call]
