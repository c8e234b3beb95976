"""Traced messages as files of others: pcapng for Wireshark, trace events for Perfetto and Chrome. Pure: bytes
out.

pcapng: one interface a kernel, link type 147 (USER0); a packet is PSEUDO_HEADER and what was kept of the
message, at the time of its enqueue, on the interface of its sender. `tools/wireshark/popnet.lua` reads it.

Trace events (https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU): a process a
kernel, a thread a ring. Processes are numbered from 1, since Perfetto takes 0 for the idle one; no thread has
the number of a process, since Perfetto takes that for the main thread. On its sender a message is a slice
around its publish, on its receiver one around its handler, and an arrow goes from the first to the second.
What waited for room is an asynchronous slice.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from popnet.cli.traceviews import RINGS, kind_name, micros
from popnet.message.tracejoin import Traced
from popnet.net import pcapng

LINK_TYPE: Final = 147
"""LINKTYPE_USER0: for private use, so a reader must be told what it is."""

VERSION: Final = 1

PSEUDO_HEADER: Final = struct.Struct("<BBBBHHIIIIQ4q")
"""version u8, its own length u8, ring u8, flags u8 (1: kicked, 2: the receiver was awake), sender u16,
receiver u16, the sender's generation u32, the receiver's u32, tag u32, size of the payload u32, number u64,
and enqueue, kick, wake, handle i64: ns since 1970, 0 for what is not known or was not. Little endian."""

KICKED: Final = 1
AWAKE: Final = 2

SNAP_MAX: Final = 1 << 18


class TraceFile(Protocol):
    """A kind of file, as bytes: its beginning, its messages in any number of pieces, its end."""

    def head(self) -> bytes: ...

    def messages(self, messages: Iterable[Traced]) -> bytes: ...

    def end(self) -> bytes: ...


class PcapngFile:
    """For Wireshark."""

    def __init__(self, names: Mapping[int, str], wall_offset_ns: int) -> None:
        self._offset_ns = wall_offset_ns
        self._names = dict(names)
        self._interfaces: dict[int, int] = {}

    def head(self) -> bytes:
        return pcapng.section_header() + b"".join(map(self._described, sorted(self._names)))

    def messages(self, messages: Iterable[Traced]) -> bytes:
        parts = []
        for traced in messages:
            if traced.sender not in self._interfaces:
                parts.append(self._described(traced.sender))
            data = pseudo_header(traced, self._offset_ns) + traced.payload
            frame = (
                traced.start_ns + self._offset_ns,
                pcapng.OUTBOUND,
                PSEUDO_HEADER.size + traced.size,
                data,
            )
            parts.append(pcapng.packets((frame,), self._interfaces[traced.sender]))
        return b"".join(parts)

    def end(self) -> bytes:
        return b""

    def _described(self, kid: int) -> bytes:
        self._interfaces[kid] = len(self._interfaces)
        return pcapng.interface(self._names.get(kid, f"#{kid}"), SNAP_MAX, link_type=LINK_TYPE)


def pseudo_header(traced: Traced, offset_ns: int) -> bytes:
    times = (traced.enqueue_ns, traced.kick_ns, traced.wake_ns, traced.handle_ns)
    return PSEUDO_HEADER.pack(
        VERSION,
        PSEUDO_HEADER.size,
        traced.ring,
        KICKED * bool(traced.kick_ns) | AWAKE * traced.awake,
        traced.sender,
        traced.receiver,
        traced.sender_generation,
        traced.receiver_generation,
        traced.tag,
        traced.size,
        traced.number,
        *(time_ns and time_ns + offset_ns for time_ns in times),
    )


class ChromeFile:
    """For ui.perfetto.dev and chrome://tracing."""

    def __init__(self, names: Mapping[int, str], wall_offset_ns: int) -> None:
        self._names = dict(names)
        self._offset_ns = wall_offset_ns
        self._count = 0
        self._woken: dict[int, int] = {}

    def head(self) -> bytes:
        about = {"clock": "CLOCK_MONOTONIC", "wall_offset_ns": self._offset_ns}
        first = {"ph": "M", "name": "trace", "pid": 1, "args": about}
        events = [event for kid in sorted(self._names) for event in self._process(kid)]
        return b'{"displayTimeUnit":"ns","traceEvents":[\n' + _json(first) + _joined(events)

    def messages(self, messages: Iterable[Traced]) -> bytes:
        return _joined([event for traced in messages for event in self._events(traced)])

    def end(self) -> bytes:
        return b"\n]}\n"

    def _process(self, kid: int) -> list[dict[str, Any]]:
        about: list[dict[str, Any]] = [{"name": "process_name", "args": {"name": self._names[kid]}}]
        about.append({"name": "process_sort_index", "args": {"sort_index": kid}})
        for ring, name in enumerate(RINGS):
            about.append({"name": "thread_name", "tid": _thread(kid, ring), "args": {"name": f"{name} ring"}})
        return [{"ph": "M", "pid": kid + 1, **event} for event in about]

    def _events(self, traced: Traced) -> list[dict[str, Any]]:
        self._count += 1
        events: list[dict[str, Any]] = []
        for kid in (traced.sender, traced.receiver):
            if kid not in self._names:
                self._names[kid] = f"#{kid}"
                events += self._process(kid)
        who, whom = self._names[traced.sender], self._names[traced.receiver]
        name, args = kind_name(traced.kind), _arguments(traced)
        common = {"cat": "message", "name": name}
        arrow = {"cat": "message", "name": "message", "id": self._count}
        out = {"pid": traced.sender + 1, "tid": _thread(traced.sender, traced.ring)}
        into = {"pid": traced.receiver + 1, "tid": _thread(traced.receiver, traced.ring)}
        if traced.publish_ns:
            if traced.enqueue_ns and traced.enqueue_ns < traced.publish_ns:
                wait = {"cat": "wait", "name": f"{name} waits for room", "id": self._count, **out}
                events.append({"ph": "b", "ts": traced.enqueue_ns / 1000, **wait})
                events.append({"ph": "e", "ts": traced.publish_ns / 1000, **wait})
            duration = (traced.sent_ns - traced.publish_ns) / 1000
            sending = {"ph": "X", "ts": traced.publish_ns / 1000, "dur": duration, **common, **out}
            events.append({**sending, "args": {"to": whom, **args}})
        if traced.handle_ns:
            if not traced.awake and self._woken.get(traced.receiver) != traced.wake_ns:
                self._woken[traced.receiver] = traced.wake_ns
                events.append({"ph": "i", "s": "p", "name": "wake", "ts": traced.wake_ns / 1000, **into})
            duration = (traced.handle_ns - traced.begin_ns) / 1000
            handling = {"ph": "X", "ts": traced.begin_ns / 1000, "dur": duration, **common, **into}
            events.append({**handling, "args": {"from": who, **args}})
        if traced.whole:
            events.append({"ph": "s", "ts": traced.publish_ns / 1000, **arrow, **out})
            events.append({"ph": "f", "bp": "e", "ts": traced.begin_ns / 1000, **arrow, **into})
        return events


def _thread(kid: int, ring: int) -> int:
    return 1000 * (kid + 1) + ring


def _arguments(traced: Traced) -> dict[str, Any]:
    return {
        "id": traced.id,
        "flags": traced.flags,
        "size": traced.size,
        "number": traced.number,
        "kick_us": micros(traced, traced.kick_ns),
        "wake_us": micros(traced, traced.wake_ns),
        "handle_us": micros(traced, traced.handle_ns),
        "awake": traced.awake,
    }


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _joined(events: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(b",\n" + _json(event) for event in events)


FILES: Final[dict[str, type[PcapngFile] | type[ChromeFile]]] = {".pcapng": PcapngFile, ".json": ChromeFile}
"""Kinds of files by the ends of their names."""
