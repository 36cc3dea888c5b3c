"""Files read from front to back over a network, resumed at the same byte after a failure.

Web servers are read by Python's own ``urllib``: it hands over what has arrived, so a broken connection costs no byte
twice. Object stores and other file systems are read by fsspec, commands by a shell.
"""

import contextlib
import http.client
import importlib
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Generator
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from hardviews.data.reading.decode import printable
from hardviews.errors import InputError, RunError

PIPE = "pipe:"
WEB = ("http://", "https://")
TIMEOUT = 60.0  # seconds without a byte after which a connection or command counts as dead
PAUSES = (1.0, 4.0, 16.0, 64.0)  # seconds before each further try
BLOCK = 1 << 20  # bytes asked for at a time
AHEAD = 8 << 20  # bytes that fsspec asks an object store for at a time
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://")


def is_remote(data: str) -> bool:
    """Whether ``data`` is a command or an address with a scheme, such as ``s3://``."""
    return data.startswith(PIPE) or _ADDRESS.match(data) is not None


def check(address: str) -> None:
    """Raises InputError for an address that can't be asked for, before anything is asked for."""
    scheme = address.partition("://")[0]
    try:
        if address.startswith(WEB):
            strange = next((sign for sign in address if not "!" <= sign <= "~"), None)  # urlsplit drops some of them
            if strange is not None:
                raise ValueError(f"{strange!r} must be percent-encoded")
        parts = urlsplit(address)
        if parts.password is not None or (address.startswith(WEB) and parts.username is not None):
            raise ValueError("a name or password can't be given")
        if address.startswith(WEB):
            if not parts.hostname:
                raise ValueError("there is no host in it")
            _ = parts.port, parts.hostname.encode("idna")
            return
    except ValueError as error:
        reason = " ".join(str(error).split())
        what, form = ("web address", "http://HOST") if address.startswith(WEB) else ("address", f"{scheme}://BUCKET")
        raise InputError(f"data: {printable(address)} is no {what}: {reason}; give it as {form}/FILE") from None
    registry: Any = importlib.import_module("fsspec.registry")
    try:
        registry.get_filesystem_class(scheme)
    except ValueError:
        raise InputError(f"data: {printable(address)}: fsspec knows no addresses that begin with {scheme}://") from None
    except ImportError as error:
        package = registry.known_implementations[scheme]["class"].partition(".")[0]
        what = f"pip install {package}" if package != "fsspec" else " ".join(str(error).split())
        raise InputError(f"data: {scheme}:// needs a package that is not installed: {what}") from None


class Remote:
    """The bytes of an address, or of a command's output (``pipe:COMMAND``, which a shell runs).

    After a failure or stall it tries again from the byte where it stood. A server without ranges, and a command, start
    from the beginning again, and what was read is skipped.

    Raises:
        RunError: (while reading) there is no such file, or every try has failed.
    """

    def __init__(self, address: str) -> None:
        self.address, self._at = address, 0
        self._open: _Attempt | None = None

    def read(self, count: int, /) -> bytes:
        """``count`` bytes, fewer only at the end."""
        parts = []
        while count:
            part = self._some(min(count, BLOCK))
            if not part:
                break
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def skip(self, count: int) -> None:
        while count:
            part = self._some(min(count, BLOCK))
            if not part:
                break
            count -= len(part)

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open = None

    def _some(self, count: int) -> bytes:
        """At least one byte; none at the end."""
        for pause in (*PAUSES, None):
            try:
                if self._open is None:
                    self._open = _attempt(self.address)
                    self._open.start(self._at)
                data = self._open.read(count)
            except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a redirection to no address
                self.close()
                if pause is None or _final(error):
                    tries = "" if _final(error) else f", after {len(PAUSES) + 1} tries"
                    raise RunError(
                        f"{printable(self.address)}: {_reason(error)} at byte {self._at}{tries}; the same command goes "
                        "on once it can be read"
                    ) from None
                time.sleep(pause)
            else:
                self._at += len(data)
                return data
        raise AssertionError


class _Attempt(Protocol):
    """One connection, or one run of a command. It ends with an ``OSError`` or ``HTTPException``."""

    def start(self, at: int) -> None: ...
    def read(self, count: int) -> bytes: ...
    def close(self) -> None: ...


def _attempt(address: str) -> _Attempt:
    if address.startswith(PIPE):
        return _Command(address)
    return _Answer(address) if address.startswith(WEB) else _Stored(address)


class _Answer:
    """Of a web server."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._answer: http.client.HTTPResponse | None = None

    def start(self, at: int) -> None:
        asked = Request(self._address, headers={"User-Agent": "hardviews", **({"Range": f"bytes={at}-"} if at else {})})
        self._answer = urlopen(asked, timeout=TIMEOUT)
        length = self._answer.headers["Content-Length"]
        self._left = int(length) if length and length.isdecimal() else None
        if at and self._answer.status != http.client.PARTIAL_CONTENT:
            _pass_over(self, at)

    def read(self, count: int) -> bytes:
        assert self._answer is not None
        data = self._answer.read1(count)  # what has arrived: a stall loses none of it
        if self._left is not None:
            self._left -= len(data)
            if not data and self._left:  # http.client raises nothing then
                raise ConnectionError("the connection ended early")
        return data

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()


class _Stored:
    """A file of an object store, or of any file system that fsspec opens."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._file: Any = None

    def start(self, at: int) -> None:
        core: Any = importlib.import_module("fsspec.core")
        with _as_os_error():
            files, path = core.url_to_fs(self._address)
            self._file = files.open(path, "rb", block_size=AHEAD, cache_type="readahead")
            self._file.seek(at)

    def read(self, count: int) -> bytes:
        with _as_os_error():
            return bytes(self._file.read(count))

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(Exception):
                self._file.close()


@contextlib.contextmanager
def _as_os_error() -> Generator[None, None, None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # an object store's library has errors of its own
        raise ConnectionError(str(error) or type(error).__name__) from error


class _Command:
    """A shell's output."""

    def __init__(self, address: str) -> None:
        self._command = address.removeprefix(PIPE)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, at: int) -> None:
        self._process = subprocess.Popen(
            self._command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )
        _pass_over(self, at)

    def read(self, count: int) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        if not select.select([output], [], [], TIMEOUT)[0]:
            raise TimeoutError
        data = os.read(output, count)
        if not data and self._ended():
            raise ConnectionError(f"the command ended with code {self._process.returncode}")
        return data

    def _ended(self) -> int:
        """The exit code, once there is one."""
        assert self._process is not None
        try:
            return self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    def close(self) -> None:
        if self._process is not None:
            with self._process:  # closes its output and waits
                if self._process.poll() is None:
                    os.killpg(self._process.pid, signal.SIGKILL)


def _pass_over(attempt: _Attempt, count: int) -> None:
    while count:
        data = attempt.read(min(count, BLOCK))
        if not data:
            raise ConnectionError("it has become shorter")
        count -= len(data)


def _final(error: Exception) -> bool:
    """Whether another try would end the same way: there is no such file, it may not be read, or a server redirects to
    no address."""
    if isinstance(error, HTTPError):
        return 400 <= error.code < 500 and error.code not in (408, 429)
    return isinstance(error, ValueError | FileNotFoundError | PermissionError | IsADirectoryError)


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"the server says {error.code} {error.reason}"
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return f"nothing came for {TIMEOUT:g} s"
    if isinstance(cause, FileNotFoundError):  # fsspec gives the name alone
        return "no such file"
    return " ".join(str(getattr(cause, "strerror", None) or cause).split()) or type(cause).__name__
