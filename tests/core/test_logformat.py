"""A line of a log in its three forms."""

import json

import pytest

from popnet.core.logformat import LEVELS, TEXT_MAX, Entry, as_journal, as_json, as_text

TIME_S = 1_700_000_000.25


def parse_journal(data: bytes) -> dict[str, bytes]:
    """The fields of a datagram, read as journald reads them; asserts that nothing is left over."""
    fields = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(data[:8], "little")
            value, end, data = data[8 : 8 + size], data[8 + size : 9 + size], data[9 + size :]
            assert end == b"\n"
        fields[name.decode()] = value
    return fields


def test_text_says_who_and_when() -> None:
    entry = Entry(TIME_S, "info", "message.endpoint", "link up", "k1", 3)
    assert as_text(entry) == b"2023-11-14T22:13:20.250000Z info    k1.3 message.endpoint: link up\n"
    machine = Entry(TIME_S, "warning", "events", "first\nsecond")
    assert as_text(machine).decode().splitlines() == [
        "2023-11-14T22:13:20.250000Z warning - events: first",
        "    second",
    ]


def test_json_is_one_line() -> None:
    entry = Entry(TIME_S, "err", "events", "a\nb", "k1", 3, {"event": "kernel.failed", "peer": 2})
    data = as_json(entry)
    assert data.count(b"\n") == 1
    assert json.loads(data) == {
        "time": "2023-11-14T22:13:20.250000Z",
        "level": "err",
        "kernel": "k1",
        "generation": 3,
        "subsystem": "events",
        "event": "kernel.failed",
        "peer": 2,
        "text": "a\nb",
    }
    assert "kernel" not in json.loads(as_json(Entry(TIME_S, "info", "events", "up")))


def test_journal_has_fields() -> None:
    entry = Entry(TIME_S, "crit", "dmesg", "panic\nMESSAGE=forged", "k1", 3, {"event": "x"})
    assert parse_journal(as_journal(entry)) == {
        "MESSAGE": b"panic\nMESSAGE=forged",
        "PRIORITY": b"2",
        "SYSLOG_IDENTIFIER": b"popnet",
        "POPNET_SUBSYSTEM": b"dmesg",
        "POPNET_KERNEL": b"k1",
        "POPNET_GENERATION": b"3",
        "POPNET_EVENT": b"x",
    }


@pytest.mark.parametrize("level", LEVELS)
def test_priorities_are_those_of_syslog(level: str) -> None:
    fields = parse_journal(as_journal(Entry(TIME_S, level, "events", "")))
    assert fields["PRIORITY"] == str(LEVELS.index(level)).encode()


def test_a_long_text_is_cut_for_the_journal_alone() -> None:
    entry = Entry(TIME_S, "info", "events", "x" * (TEXT_MAX + 1))
    assert parse_journal(as_journal(entry))["MESSAGE"] == b"x" * TEXT_MAX + " …".encode()
    assert as_text(entry).count(b"x") == TEXT_MAX + 1


def test_what_is_no_unicode_is_escaped() -> None:
    entry = Entry(TIME_S, "info", "events", "file \udcff")
    assert rb"file \udcff" in as_text(entry)
    assert parse_journal(as_journal(entry))["MESSAGE"] == rb"file \udcff"
