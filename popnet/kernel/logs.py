"""Where the daemons' logs go: to stderr as text or JSON, or to journald, with who says it in every line.

Theory of operation. `start` is called once, in the primary, before there are namespaces: the journal's socket
is reached from there, and inherited by all that is forked. Each daemon then says whose it is (`identify`).
The primary also logs what kernels tell it, their own logs (`dmesg`) and the events, with the names and
generations of those. A daemon never waits for a journal: what that does not take at once is lost, and counted
(`lost`).
"""

import logging
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final, Protocol

from popnet.core.errors import Refused
from popnet.core.logformat import FORMATS, LEVELS, Entry, as_journal, as_json, as_text

JOURNAL: Final = Path("/run/systemd/journal/socket")

_PYTHON_LEVELS: Final = {
    "emerg": logging.CRITICAL,
    "alert": logging.CRITICAL,
    "crit": logging.CRITICAL,
    "err": logging.ERROR,
    "warning": logging.WARNING,
    "notice": logging.INFO,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}


LINES_A_SECOND: Final = 50
LINES_AT_ONCE: Final = 500
"""Lines of its own log that a kernel may have logged here: it must not fill the disk of its host."""


class Sink(Protocol):
    """Takes lines."""

    def write(self, entry: Entry) -> bool:
        """Whether it was taken."""


class Lines:
    """Writes lines to the descriptor *fd*, as *format* says: text or json."""

    def __init__(self, fd: int, format: str) -> None:
        self._fd = fd
        self._encode = as_json if format == "json" else as_text

    def write(self, entry: Entry) -> bool:
        try:
            os.write(self._fd, self._encode(entry))
        except OSError:
            return False  # nobody reads it any more, or the disk is full: the machine goes on
        return True


class JournalSocket:
    """Sends each line to journald at *path*. Raises Refused if none is there."""

    def __init__(self, path: Path = JOURNAL) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            hint = "use --log-format text or json"
            raise Refused(f"--log-format journal: no journald listens on {path} ({error})", hint) from None
        self._socket.setblocking(False)

    def write(self, entry: Entry) -> bool:
        try:
            self._socket.send(as_journal(entry))
        except OSError:
            return False
        return True


class LogHandler(logging.Handler):
    """Hands what is logged in this process to a sink. Attributes: kernel, generation, lost."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self.kernel: str | None = None
        self.generation: int | None = None
        self.lost = 0
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        more: dict[str, Any] = getattr(record, "popnet", {})
        about = {"kernel": self.kernel, "generation": self.generation} | {
            key: more[key] for key in ("kernel", "generation") if key in more
        }
        entry = Entry(
            record.created,
            more.get("level") or _level(record.levelno),
            record.name.removeprefix("popnet."),
            text,
            about["kernel"],
            about["generation"],
            {k: v for k, v in more.items() if k not in ("kernel", "generation", "level")},
        )
        if not self._sink.write(entry):
            self.lost += 1


def start(format: str, level: str, fd: int = 2) -> None:
    """Log from now on, lines of *level* and worse.

    Args:
        format: text, json, journal; or auto: the journal if *fd* leads there already, else text.
        level: one of `LEVELS`.

    Raises Refused for another word, and if there is no journal.
    """
    if format not in ("auto", *FORMATS):
        raise Refused(f"--log-format: {format!r} is none of auto, {', '.join(FORMATS)}")
    if level not in LEVELS:
        raise Refused(f"--log-level: {level!r} is none of {', '.join(LEVELS)}")
    if format == "auto":
        format = "journal" if leads_to_journal(fd, os.environ.get("JOURNAL_STREAM", "")) else "text"
    handler = LogHandler(JournalSocket() if format == "journal" else Lines(fd, format))
    root = logging.getLogger()
    for other in list(root.handlers):
        root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(_PYTHON_LEVELS[level])
    sys.excepthook = _crashed


def leads_to_journal(fd: int, stream: str) -> bool:
    """Whether *fd* is the stream that systemd made, as $JOURNAL_STREAM (device:inode) says."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"


def identify(kernel: str, generation: int) -> None:
    """Say whose daemon this process is."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogHandler):
            handler.kernel, handler.generation = kernel, generation


class Allowance:
    """A bucket of lines that fills at a steady rate. Attributes: left_out, lines refused since one went."""

    def __init__(self, a_second: float, at_once: int) -> None:
        self.left_out = 0
        self._a_second = a_second
        self._most = self._tokens = float(at_once)
        self._at_s = 0.0

    def take(self, now_s: float) -> bool:
        """Whether a line may go at *now_s*, a time that only grows."""
        self._tokens = min(self._most, self._tokens + (now_s - self._at_s) * self._a_second)
        self._at_s = now_s
        if self._tokens < 1:
            self.left_out += 1
            return False
        self._tokens -= 1
        return True


_allowances: dict[str, Allowance] = {}


def dmesg(kernel: str, generation: int, level: str, text: str) -> None:
    """Log a line of a kernel's own log, unless it logs more than `LINES_A_SECOND`."""
    allowance = _allowances.setdefault(kernel, Allowance(LINES_A_SECOND, LINES_AT_ONCE))
    if not allowance.take(time.monotonic()):
        return
    if allowance.left_out:
        text = f"({allowance.left_out} lines before this one are only in popnet dmesg) {text}"
        allowance.left_out = 0
    level = level if level in LEVELS else "info"
    more = {"kernel": kernel, "generation": generation, "level": level}
    logging.getLogger("popnet.dmesg").log(_PYTHON_LEVELS[level], "%s", text, extra={"popnet": more})


def event(row: dict[str, Any]) -> None:
    """Log an event of the machine, as the journal of events has it."""
    worse = row["kind"].rpartition(".")[2] in ("failed", "closed", "given-up", "hung")
    more: dict[str, Any] = {key: row[key] for key in ("kernel", "generation") if key in row}
    more["event"] = row["kind"]
    level = logging.WARNING if worse else logging.INFO
    logging.getLogger("popnet.events").log(level, "%s", row["text"], extra={"popnet": more})


def _level(number: int) -> str:
    for name, lowest in (("crit", logging.CRITICAL), ("err", logging.ERROR), ("warning", logging.WARNING)):
        if number >= lowest:
            return name
    return "info" if number >= logging.INFO else "debug"


def _crashed(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    logging.getLogger("popnet").critical("%s", error, exc_info=(kind, error, trace))
