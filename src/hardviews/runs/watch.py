"""A report that follows a run: a server on this machine alone, whose page is made anew while the run goes on."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from hardviews.errors import InputError

HOST = "127.0.0.1"
EVERY = 5.0  # seconds between looks at the run
SHARE = 20  # the page takes at most this part of the time: 1 / SHARE
WATCHED = ("metrics.csv", "evaluation.csv", "summary.json", "results.jsonl")
# Loads the page anew once there is another. The browser keeps its place.
RELOAD = """<script>
const mine = %d;
setInterval(async () => {
  try { if (Number(await (await fetch("/version")).text()) !== mine) location.reload(); } catch { /* it has ended */ }
}, 2000);
</script>"""
# The page forbids all requests; the watched one asks this server. The first of two equal rules counts.
FORBIDS = "default-src 'none';"
ALLOWS = f"{FORBIDS} connect-src 'self'; script-src 'unsafe-inline';"
WAITING = "<!doctype html><title>hardviews</title><p>Waiting for the first figures of the run."


class Server(ThreadingHTTPServer):
    """Serves one page, and its version."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__((HOST, port), Answers)
        self.page, self.version = WAITING, 0

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def show(self, page: str) -> None:
        self.page, self.version = page.replace(FORBIDS, ALLOWS, 1), self.version + 1


class Answers(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        # A page of another site that names this machine by a name of its own may not read it.
        if self.headers.get("Host", "").partition(":")[0] not in (HOST, "localhost"):
            return self.send_error(403)
        if self.path not in ("/", "/version"):
            return self.send_error(404)
        version = self.server.version
        body = str(version) if self.path == "/version" else self.server.page + RELOAD % version
        content = body.encode("utf-8", errors="backslashreplace")
        self.send_response(200)
        self.send_header("Content-Type", f"text/{'plain' if self.path == '/version' else 'html'}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)
        return None

    def log_message(self, *_: object) -> None:
        pass


def watch(folders: Sequence[str | Path], make: Callable[[], Path], port: int, say: Callable[[str], None]) -> None:
    """Serves the report and makes it anew while the runs go on, until it is interrupted.

    Args:
        folders: of the runs.
        make: writes the page and returns its path; raises InputError while there is nothing to show.
        port: of the server; 0 takes any that is free.
        say: prints a line.

    Raises:
        InputError: a folder is no run, or the port is taken.
    """
    try:
        server = Server(port)
    except OSError as error:
        raise InputError(f"port: {port} can't be had: {error.strerror}; give another, or 0 for any") from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    said = seen = None
    try:
        while True:
            before, state = time.monotonic(), look(folders)
            if state != seen:
                seen = state
                try:
                    server.show(make().read_text(encoding="utf-8"))
                except InputError:
                    if any(not Path(folder, "config.yaml").is_file() for folder in folders):
                        raise  # nothing that will come: the folder is none of a run
            if said is None:
                said = server.address
                say(f"the report is at {said} and follows the run; Ctrl-C ends it")
            time.sleep(max(EVERY, SHARE * (time.monotonic() - before)))
    except KeyboardInterrupt:
        return
    finally:
        server.shutdown()
        server.server_close()


def look(folders: Iterable[str | Path]) -> list[tuple[str, int, int]]:
    """What changes when a run goes on: files, their sizes and times."""
    files = [Path(folder, name) for folder in folders for name in WATCHED]
    files += [file for folder in folders for file in sorted(Path(folder).glob("telemetry/*.npz"))]
    return [(str(file), found.st_size, found.st_mtime_ns) for file in files if file.exists() and (found := file.stat())]
