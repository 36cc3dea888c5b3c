"""Every block of docs/python.md runs, one after the other, in one process."""

import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.api.small import Pictures
from tests.docs.test_blocks import pictures

ROOT = Path(__file__).parents[2]
# What takes the reader hours is cut short here.
SHORT = {
    "epochs=20": "epochs=1, image_size=32, batch_size=16, workers=0",
    "seeds=2": "seeds=1, timed_steps=1, equal_time=False",
}


def test_every_block_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/python.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 7
    code = "\n".join(blocks)
    for long, short in SHORT.items():
        assert long in code
        code = code.replace(long, short)
    for name in ("pictures", "labelled", "labelled_test"):
        pictures(tmp_path / name)
    Image.fromarray(Pictures().pixels[0]).save(tmp_path / "a.jpg")
    (tmp_path / "page.py").write_text(code)
    command = [sys.executable, "page.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    assert "unknown option epoks; did you mean epochs?" in done.stdout
    assert (tmp_path / "report.html").exists()
