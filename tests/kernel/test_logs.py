"""Where logs go: each form on a real descriptor or socket, with who says it."""

import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from popnet.core.errors import Refused
from popnet.kernel import logs
from tests.core.test_logformat import parse_journal


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """The root logger is as before after each test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level
    logs._allowances.clear()


@pytest.fixture
def pipe() -> Iterator[tuple[int, Any]]:
    """The end to write to, and a file to read lines from."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as file:
        yield writing, file
    os.close(writing)


def test_json_lines_with_the_identity_of_the_daemon(pipe: tuple[int, Any]) -> None:
    writing, file = pipe
    logs.start("json", "info", writing)
    logs.identify("k1", 3)
    logging.getLogger("popnet.message.endpoint").info("kernel %d: link up", 0)
    row = json.loads(file.readline())
    assert (row["kernel"], row["generation"], row["subsystem"]) == ("k1", 3, "message.endpoint")
    assert (row["level"], row["text"]) == ("info", "kernel 0: link up")


def test_events_and_kernels_logs_are_of_their_kernel(pipe: tuple[int, Any]) -> None:
    writing, file = pipe
    logs.start("json", "info", writing)
    logs.identify("primary", 1)
    logs.dmesg("k1", 2, "emerg", "Kernel panic: %s")
    row = json.loads(file.readline())
    assert (row["kernel"], row["generation"], row["subsystem"]) == ("k1", 2, "dmesg")
    assert (row["level"], row["text"]) == ("emerg", "Kernel panic: %s")
    logs.event({"seq": 1, "kind": "kernel.failed", "kernel": "k2", "kid": 2, "generation": 4, "text": "gone"})
    row = json.loads(file.readline())
    assert (row["kernel"], row["generation"], row["event"]) == ("k2", 4, "kernel.failed")
    assert row["level"] == "warning"


def test_the_level_filters(pipe: tuple[int, Any]) -> None:
    writing, file = pipe
    logs.start("text", "warning", writing)
    logging.getLogger("popnet.x").info("left out")
    logging.getLogger("popnet.x").warning("kept")
    assert "kept" in file.readline()


def test_a_traceback_is_part_of_the_text(pipe: tuple[int, Any]) -> None:
    writing, file = pipe
    logs.start("json", "info", writing)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("popnet.x").exception("it broke")
    text = json.loads(file.readline())["text"]
    assert text.startswith("it broke\nTraceback")
    assert text.endswith("ValueError: why")


def test_journald_gets_fields_and_never_holds_a_daemon_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "socket"))
        monkeypatch.setattr(logs.JournalSocket.__init__, "__defaults__", (tmp_path / "socket",))
        logs.start("journal", "info")
        logs.dmesg("k1", 2, "crit", "two\nlines")
        fields = parse_journal(journal.recv(65536))
        assert (fields["POPNET_KERNEL"], fields["PRIORITY"], fields["MESSAGE"]) == (
            b"k1",
            b"2",
            b"two\nlines",
        )
        (handler,) = logging.getLogger().handlers
        assert isinstance(handler, logs.LogHandler)
        for _ in range(10_000):
            if handler.lost:
                break
            logging.getLogger("popnet.x").info("nobody reads this")
        assert handler.lost


def test_bad_words_and_a_missing_journal_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="--log-format: 'xml' is none of auto, text, json, journal"):
        logs.start("xml", "info")
    with pytest.raises(Refused, match="--log-level: 'loud' is none of emerg"):
        logs.start("text", "loud")
    with pytest.raises(Refused, match="no journald listens"):
        logs.JournalSocket(tmp_path / "socket")


def test_auto_finds_the_journal_by_the_stream_that_systemd_made(pipe: tuple[int, Any]) -> None:
    writing, _file = pipe
    status = os.fstat(writing)
    assert logs.leads_to_journal(writing, f"{status.st_dev}:{status.st_ino}")
    assert not logs.leads_to_journal(writing, f"{status.st_dev}:{status.st_ino + 1}")
    assert not logs.leads_to_journal(writing, "")
    assert not logs.leads_to_journal(10_000, "1:1")


def test_a_kernel_that_logs_without_end_is_cut_short(
    pipe: tuple[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, file = pipe
    now_s = 1000.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now_s)  # type: ignore[attr-defined]
    logs.start("json", "info", writing)
    for n in range(logs.LINES_AT_ONCE + 7):
        logs.dmesg("mad", 1, "info", str(n))
        if n < logs.LINES_AT_ONCE:
            assert json.loads(file.readline())["text"] == str(n)
    logs.dmesg("sane", 1, "info", "others are heard")
    assert json.loads(file.readline())["text"] == "others are heard"
    now_s += 1
    logs.dmesg("mad", 1, "info", "later")
    assert json.loads(file.readline())["text"] == "(7 lines before this one are only in popnet dmesg) later"
