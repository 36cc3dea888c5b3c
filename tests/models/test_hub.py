"""An export is uploaded to a fake hub on loopback, which gets the very files that were written."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hardviews.cli import main


class Hub(ThreadingHTTPServer):
    """What huggingface_hub asks for to make a repository and to commit files to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, bytes] = {}
        self.made: list[dict[str, Any]] = []
        self.fails = False


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, content: Any, code: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == "Bearer good"
        if self.path.startswith("/api/whoami"):
            self.answer({"name": "me", "type": "user"} if known else {"error": "bad token"}, 200 if known else 401)
        else:
            self.answer({"id": "me/net", "sha": "0" * 40, "siblings": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = f"http://127.0.0.1:{self.server.server_port}/me/net"
        if self.path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            self.answer({"url": address, "name": "me/net", "id": "me/net"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.answer({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif "/commit/" in self.path:
            if self.server.fails:
                return self.answer({"error": "out of space"}, 507)
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"success": True, "commitUrl": f"{address}/commit/0", "commitOid": "0" * 40})
        return None


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def export(hub: Hub, out: Path, *more: str, token: str | None = "good") -> subprocess.CompletedProcess[str]:
    """In a process of its own, since huggingface_hub reads its settings when it is imported."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(out.parent / "home")}
    env |= {"HF_TOKEN": token} if token else {}
    line = f"export resnet10t --pretrained false --format timm --out {out} --push-to-hub".split()
    command = [sys.executable, "-m", "hardviews.cli", *line, *more]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)


def test_the_hub_gets_what_was_written(hub: Hub, tmp_path: Path) -> None:
    done = export(hub, tmp_path / "out", "me/net", "--private", "true")
    assert done.returncode == 0, done.stderr
    assert f"uploaded to http://127.0.0.1:{hub.server_port}/me/net" in done.stdout
    assert hub.made[0].get("visibility") == "private" or hub.made[0]["private"]  # by the version of huggingface_hub
    assert hub.files == {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert '"hf-hub:me/net"' in hub.files["README.md"].decode()


def test_a_failed_upload_keeps_the_export(hub: Hub, tmp_path: Path) -> None:
    hub.fails = True
    done = export(hub, tmp_path / "out", "me/net")
    assert done.returncode == 1
    assert "hf upload me/net" in done.stderr.splitlines()[-1]
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "token", "says"),
    [("net", "good", "is not USER/NAME"), ("me/net", None, "not logged in"), ("me/net", "bad", "hf auth login")],
)
def test_nothing_is_exported_where_nothing_can_be_uploaded(
    hub: Hub, tmp_path: Path, name: str, token: str | None, says: str
) -> None:
    done = export(hub, tmp_path / "out", name, token=token)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("hardviews: error: push-to-hub: ")
    assert says in line
    assert not (tmp_path / "out").exists()


def test_no_hub(hub: Hub, tmp_path: Path) -> None:
    hub.shutdown()
    hub.server_close()
    done = export(hub, tmp_path / "out", "me/net")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("hardviews: error: push-to-hub: the hub can't be reached")


def test_the_name_is_checked_without_a_hub(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["export", "resnet10t", "--pretrained", "false", "--format", "timm", "--out", str(tmp_path / "out")]
    assert main([*argv, "--push-to-hub", "a/b/c"]) == 2
    assert "USER/NAME" in capsys.readouterr().err
