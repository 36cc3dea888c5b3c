"""``hardviews report --watch``: a page that follows a run, for this machine alone."""

import http.client
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest


class Watched:
    """A run folder whose report is watched by a process of its own."""

    def __init__(self, run: Path) -> None:
        # A shell that starts the tests in the background lets them ignore SIGINT.
        code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        code += "import hardviews.runs.watch as w, sys; w.EVERY = 0.2; w.SHARE = 0; from hardviews.cli import main; "
        code += "sys.exit(main(['report', sys.argv[1], '--watch']))"
        self.run = run
        self.process = subprocess.Popen([sys.executable, "-c", code, str(run)], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr
        line = self.process.stderr.readline()
        self.address = next(word for word in line.split() if word.startswith("http://127.0.0.1:"))

    def get(self, path: str = "") -> str:
        with urllib.request.urlopen(self.address + path, timeout=30) as answer:
            text: str = answer.read().decode()
        return text

    def wait_for_another(self, version: int) -> None:
        for _ in range(600):
            if int(self.get("version")) > version:
                return
            time.sleep(0.1)
        raise AssertionError("the page was not made anew")


@pytest.fixture
def watched(strange_run: Path, tmp_path: Path) -> Iterator[Watched]:
    run = tmp_path / "run"
    shutil.copytree(strange_run, run, ignore=shutil.ignore_patterns("checkpoints"))
    found = Watched(run)
    yield found
    found.process.kill()
    found.process.wait()


def append_step(run: Path) -> None:
    rows = (run / "metrics.csv").read_text().splitlines()
    last = rows[-1].split(",")
    (run / "metrics.csv").write_text("\n".join([*rows, ",".join([str(int(last[0]) + 1), *last[1:]])]) + "\n")


def test_the_page_follows_the_run_and_ends_by_ctrl_c(watched: Watched) -> None:
    assert "location.reload" in watched.get()
    assert "Waiting for" not in watched.get()
    version = int(watched.get("version"))
    append_step(watched.run)
    watched.wait_for_another(version)
    for _ in range(60):  # one may come while the page is made and be lost in a library
        watched.process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            assert watched.process.wait(2) in (0, 130, -signal.SIGINT)
            return
    raise AssertionError("it did not end")


def test_only_this_machine_is_answered(watched: Watched) -> None:
    port = int(watched.address.rstrip("/").rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/", headers={"Host": "evil.example"})  # a name that leads here, of another site
    assert connection.getresponse().status == 403
    for path, status in (("/../config.yaml", 404), ("/config.yaml", 404)):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", path)
        assert connection.getresponse().status == status


def test_an_open_page_loads_itself_anew(watched: Watched, browser: Any) -> None:
    page = browser.new_page()
    page.goto(watched.address)
    page.evaluate("window.old = true")
    append_step(watched.run)
    page.wait_for_function("() => !window.old", timeout=60_000)
    page.close()


def test_what_can_never_be_shown_is_said(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hardviews.cli", "report", str(tmp_path), "--watch"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("hardviews: error: ")
