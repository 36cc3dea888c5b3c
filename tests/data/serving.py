"""A web server on this machine that can be told to misbehave."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread


@dataclass
class Served:
    """What is served, and how.

    Args:
        folder: of the files.
        faults: file → what goes wrong with the first so many answers: ``(kind, answers)``. ``break`` and ``stall``
            send a quarter of what was asked for, ``silence`` and ``500`` nothing, ``no ranges`` always all, ``astray``
            to where no file can be. What stalls or is silent stays so.
    """

    folder: Path
    address: str = ""
    faults: dict[str, tuple[str, int]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    bytes: int = 0


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    served, over = Served(folder), Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            served.asked[name] += 1
            kind, answers = served.faults.get(name, ("", 0))
            fault = kind if served.asked[name] <= answers else ""
            file = folder / name
            if not file.is_file() or fault == "500":
                self.send_error(500 if fault else 404)
                return
            if fault == "astray":
                self.send_response(302)
                self.send_header("Location", "http://[nowhere/")
                self.end_headers()
                return
            data, ranged = file.read_bytes(), re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if ranged and fault != "no ranges":
                data = data[int(ranged[1]) :]
                self.send_response(206)
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            sent = data[: {"break": len(data) // 4, "stall": len(data) // 4, "silence": 0}.get(fault, len(data))]
            try:
                self.wfile.write(sent)
            except OSError:  # the reader had enough
                return
            served.bytes += len(sent)
            if fault in ("stall", "silence"):
                self.wfile.flush()
                over.wait()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    served.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield served
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
