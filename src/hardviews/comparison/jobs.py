"""The runs of a comparison: each is trained and measured by processes of its own, so that one which fails takes no
other with it, and by whoever holds its lock, so that several may share the work."""

import fcntl
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardviews.errors import RunError, StoppedError
from hardviews.launch.signals import StopRequest

POLL = 0.5  # seconds between two looks at a run


@dataclass(frozen=True)
class Job:
    """One run of an arm.

    Args:
        arm: whose.
        seed: of weights, order and views.
        epochs: of this run.
        steps: of this run.
        folder: of this run.
        training: its command line of ``hardviews pretrain``.
        measuring: its command line of ``hardviews evaluate``.
    """

    arm: str
    seed: int
    epochs: int
    steps: int
    folder: Path
    training: tuple[str, ...]
    measuring: tuple[str, ...]

    @property
    def log(self) -> Path:
        """What its processes said."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def _measured(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.json")

    def figures(self) -> dict[str, Any] | None:
        """What was measured by this command line; None: not yet."""
        try:
            found = json.loads(self._measured.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found["figures"] if found["command"] == list(self.measuring) else None

    def summary(self) -> dict[str, Any] | None:
        """Of the finished training; None: not yet."""
        try:
            return dict(json.loads((self.folder / "summary.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None

    def done(self) -> int:
        """Steps of which metrics are there."""
        try:
            with (self.folder / "metrics.csv").open("rb") as file:
                file.seek(max(file.seek(0, 2) - 4096, 0))
                return int(file.read().splitlines()[-1].split(b",")[0]) + 1
        except (OSError, ValueError, IndexError):
            return 0

    def carry_out(self, show: Callable[[int], None]) -> bool:
        """Trains, resuming where it stopped, and measures, if either is not done.

        Args:
            show: called from time to time with the number of steps done since the last call.

        Returns:
            Whether it is done; False: another process is at it.

        Raises:
            RunError: either failed; says what its last line was.
            StoppedError: this process was asked to stop, and so was the run.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with self.folder.with_name(f"{self.folder.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if self.summary() is None:
                self._process("pretrain", self.training, lock.fileno(), show)
            if self.figures() is None:
                printed = self._process("evaluate", self.measuring, lock.fileno(), show)
                whole = json.dumps({"command": self.measuring, "figures": json.loads(printed)}, indent=2)
                beside = self._measured.with_suffix(".part")
                beside.write_text(whole + "\n", encoding="utf-8")
                beside.replace(self._measured)
        return True

    def _process(self, verb: str, argv: Sequence[str], lock: int, show: Callable[[int], None]) -> str:
        """What a command prints; all else that it says goes to the log. It holds the lock too, so that nobody takes up
        its run while it lives, whatever became of this process. A terminal's Ctrl-C does not reach it, but from here:
        once, since a second one would not let it save."""
        command = [sys.executable, "-m", "hardviews.cli", verb, *argv]
        with self.log.open("a", encoding="utf-8") as log, StopRequest() as stop:
            log.write(f"$ hardviews {verb} {shlex.join(argv)}\n")
            log.flush()
            shown, asked = 0, False
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, pass_fds=(lock,), process_group=0
            )
            try:
                while True:
                    try:
                        printed, _ = process.communicate(timeout=POLL)
                        break
                    except subprocess.TimeoutExpired:
                        if stop.signal and not asked:
                            process.send_signal(stop.signal)
                            asked = True
                        done = self.done()
                        show(done - shown)
                        shown = done
            except KeyboardInterrupt:  # the second
                process.send_signal(signal.SIGINT)
                process.wait()
                raise
        if stop.signal:
            raise StoppedError("stopped; the same command resumes where it stopped", stop.signal)
        if process.returncode:
            raise RunError(f"{self.folder.name}: {self._last_words()} ({self.log} has all of it)")
        return printed

    def _last_words(self) -> str:
        lines = [line for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return lines[-1].removeprefix("hardviews: error: ")[:200] if lines else "it said nothing"
