"""A line of a log, and its three forms: text for people, JSON for collectors, journald's own. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

FORMATS: Final = ("text", "json", "journal")

LEVELS: Final = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
"""Names of syslog's priorities, 0 to 7 (RFC 5424), as kernels' logs have them."""

TEXT_MAX: Final = 48 << 10
"""Bytes kept of a text in the journal: a datagram with it and its fields is sure to fit."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a log.

    Attributes:
        time_s: seconds since 1970.
        level: one of LEVELS.
        subsystem: who says it: a package of popnet, `events`, `dmesg`.
        text: may have several lines.
        kernel: the kernel that it is about; None: the machine as a whole.
        generation: that kernel's; None if there is no kernel.
        fields: what else is known, by names in lower case: event, machine, peer.
    """

    time_s: float
    level: str
    subsystem: str
    text: str
    kernel: str | None = None
    generation: int | None = None
    fields: Mapping[str, str | int | float] = field(default_factory=dict)


def as_text(entry: Entry) -> bytes:
    """One line, `TIME LEVEL KERNEL.GENERATION SUBSYSTEM: TEXT`; further lines of the text are indented."""
    who = "-" if entry.kernel is None else f"{entry.kernel}.{entry.generation}"
    text = entry.text.replace("\n", "\n    ")
    return _encoded(f"{_time(entry)} {entry.level:<7} {who} {entry.subsystem}: {text}\n")


def as_json(entry: Entry) -> bytes:
    """One line, a JSON object: time, level, kernel, generation, subsystem, text, and the further fields."""
    row: dict[str, str | int | float | None] = {"time": _time(entry), "level": entry.level}
    if entry.kernel is not None:
        row |= {"kernel": entry.kernel, "generation": entry.generation}
    row |= {"subsystem": entry.subsystem, **entry.fields, "text": entry.text}
    return json.dumps(row).encode() + b"\n"


def as_journal(entry: Entry) -> bytes:
    """A datagram of journald's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): MESSAGE, PRIORITY,
    SYSLOG_IDENTIFIER, and POPNET_KERNEL, POPNET_GENERATION, POPNET_SUBSYSTEM, POPNET_EVENT, ..."""
    text = _encoded(entry.text)
    fields: dict[str, bytes] = {
        "MESSAGE": text if len(text) <= TEXT_MAX else text[:TEXT_MAX] + " …".encode(),
        "PRIORITY": str(LEVELS.index(entry.level)).encode(),
        "SYSLOG_IDENTIFIER": b"popnet",
        "POPNET_SUBSYSTEM": _encoded(entry.subsystem),
    }
    if entry.kernel is not None:
        fields["POPNET_KERNEL"] = _encoded(entry.kernel)
        fields["POPNET_GENERATION"] = str(entry.generation).encode()
    for name, value in entry.fields.items():
        fields[f"POPNET_{name.upper()}"] = _encoded(str(value))
    return b"".join(_journal_field(name, value) for name, value in fields.items())


def _journal_field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return name.encode() + b"=" + value + b"\n"


def _time(entry: Entry) -> str:
    time = datetime.fromtimestamp(entry.time_s, UTC)
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond:06d}Z"


def _encoded(text: str) -> bytes:
    """A name of a file may hold bytes that are no UTF-8, which then are surrogates."""
    return text.encode(errors="backslashreplace")
