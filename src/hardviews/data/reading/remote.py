"""Files read from front to back, from a web server or a command, and taken up again where they broke off."""

import http.client
import os
import select
import signal
import subprocess
import time
from typing import Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from hardviews.data.reading.decode import printable
from hardviews.errors import InputError, RunError

PIPE = "pipe:"
STREAMS = ("http://", "https://", PIPE, "hf-stream:")  # what data begins with that is read from front to back only
TIMEOUT = 60.0  # seconds without a byte after which a connection or command is taken for dead
PAUSES = (1.0, 4.0, 16.0, 64.0)  # seconds before every further try
BLOCK = 1 << 20  # bytes asked for at a time


def check(address: str) -> None:
    """Raises InputError for what no server could be asked for."""
    strange = next((sign for sign in address if not "!" <= sign <= "~"), None)  # before urlsplit, which drops some
    try:
        if strange is not None:
            raise ValueError(f"{strange!r} must be percent-encoded")
        parts = urlsplit(address)
        if not parts.hostname or parts.username is not None:
            raise ValueError("a name or password can't be given" if parts.hostname else "there is no host in it")
        _ = parts.port, parts.hostname.encode("idna")
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"data: {printable(address)} is no web address: {reason}; give it as http://HOST/FILE"
        ) from None


class Remote:
    """The bytes of a web address, or of a command's output (``pipe:COMMAND``, which a shell runs).

    What breaks off or stalls is tried again from where it stood: of a server by a range, or, where it takes none and of
    commands, from the start, passing over what was read.

    Raises:
        RunError: (while reading) it is not there, or every try has failed.
    """

    def __init__(self, address: str) -> None:
        self.address, self._at = address, 0
        self._open: _Attempt | None = None

    def read(self, count: int, /) -> bytes:
        """As many bytes, fewer only at the end."""
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
        """At least one byte, but at the end none."""
        for pause in (*PAUSES, None):
            try:
                if self._open is None:
                    self._open = _Command(self.address) if self.address.startswith(PIPE) else _Answer(self.address)
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
    """One connection or run of a command; any ``OSError`` or ``HTTPException`` ends it."""

    def start(self, at: int) -> None: ...
    def read(self, count: int) -> bytes: ...
    def close(self) -> None: ...


class _Answer:
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
        data = self._answer.read1(count)  # what is there: a stall loses none of it
        if self._left is not None:
            self._left -= len(data)
            if not data and self._left:  # http.client does not mind
                raise ConnectionError("the connection ended early")
        return data

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()


class _Command:
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
    """Whether another try would come to the same: the server knows no such file, does not let us have it, or names no
    address where it is."""
    if isinstance(error, HTTPError):
        return 400 <= error.code < 500 and error.code not in (408, 429)
    return isinstance(error, ValueError)


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"the server says {error.code} {error.reason}"
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return f"nothing came for {TIMEOUT:g} s"
    return " ".join(str(getattr(cause, "strerror", None) or cause).split()) or type(cause).__name__
