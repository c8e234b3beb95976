"""Traces as Wireshark sees them, with the dissector of tools/wireshark: all fields, and nothing malformed."""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from popnet.cli.tracefiles import PcapngFile
from popnet.message import codec, lane, membership
from popnet.message.kinds import STREAM_KINDS, Flag, Kind
from popnet.message.tracejoin import Traced

SCRIPT = Path(__file__).parents[2] / "tools/wireshark/popnet.lua"
NAMES = {0: "primary", 1: "k1"}
OFFSET = 1_700_000_000_000_000_000


def message(kind: int, body: bytes, flags: int = 0, id: int = 0, ring: int = 1) -> Traced:
    """From the primary to k1 (generation 3), with all its times."""
    payload = codec.payload_of(id, 3, body)
    times = {"enqueue_ns": 1_000, "publish_ns": 1_000, "sent_ns": 9_000, "kick_ns": 9_000}
    times |= {"wake_ns": 41_500, "begin_ns": 50_000, "handle_ns": 61_250}
    tag = codec.tag_of(kind, flags)
    return Traced(0, 2, 1, 3, ring, 1 << 40, tag, len(payload), payload, **times)


def shark(path: Path, *words: str) -> str:
    command = ["tshark", "-n", "-X", f"lua_script:{SCRIPT}", "-r", str(path), *words]
    environ = {**os.environ, "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, env=environ)
    assert "Error" not in result.stderr, result.stderr
    return result.stdout


def fields(tmp_path: Path, messages: Sequence[Traced], *names: str) -> list[list[str]]:
    """The values of *names* for each message, none of which is malformed."""
    path = tmp_path / "trace.pcapng"
    file = PcapngFile(NAMES, OFFSET)
    path.write_bytes(file.head() + file.messages(messages) + file.end())
    wanted = [word for name in ("_ws.malformed", "popnet.short", *names) for word in ("-e", name)]
    lines = shark(path, "-T", "fields", "-E", "separator=|", *wanted).splitlines()
    rows = [line.split("|") for line in lines]
    assert [row[:2] for row in rows] == [["", ""]] * len(messages)
    return [row[2:] for row in rows]


def test_the_pseudo_header(tmp_path: Path) -> None:
    [row] = fields(
        tmp_path,
        [message(Kind.DATA, b"hello", flags=2, id=11)],
        "frame.interface_name",
        "frame.time_epoch",
        "popnet.version",
        "popnet.from",
        "popnet.to",
        "popnet.from_generation",
        "popnet.to_generation",
        "popnet.ring",
        "popnet.number",
        "popnet.kicked",
        "popnet.awake",
        "popnet.size",
    )
    assert row == [
        "primary",
        "1700000000.000001000",
        "1",
        "0",
        "1",
        "2",
        "3",
        "1",
        str(1 << 40),
        "1",
        "0",
        "13",
    ]


def test_times(tmp_path: Path) -> None:
    names = [
        f"popnet.{name}" for name in ("enqueue", "kick", "wake", "handle", "kick_us", "wake_us", "handle_us")
    ]
    whole, half = fields(
        tmp_path,
        [
            message(Kind.ACCEPT, b""),
            Traced(
                1, 1, 0, 1, 0, 0, Kind.ACCEPT, 8, bytes(8), wake_ns=5_000, begin_ns=6_000, handle_ns=7_000
            ),
        ],
        *names,
    )
    nanoseconds = [re.findall(r"22:13:20\.(\d{9})", text) for text in whole[:4]]
    assert nanoseconds == [["000001000"], ["000009000"], ["000041500"], ["000061250"]]
    assert whole[4:] == ["8", "40.5", "60.25"]
    assert half[0] == half[1] == "" and half[2] and half[3]
    assert half[4:] == ["", "", ""]


def test_kinds_flags_and_channels(tmp_path: Path) -> None:
    rows = fields(
        tmp_path,
        [
            message(Kind.DATA, b"x", flags=2),
            message(Kind.COUNTERS, b"{}", flags=Flag.ANSWER | Flag.ERROR, id=5),
            message(Kind.COUNTERS, b"", flags=Flag.REQUEST, id=5),
            message(0x8001, b"{not json", flags=Flag.MORE),
        ],
        "popnet.kind",
        "popnet.channel",
        "popnet.flags.more",
        "popnet.flags.request",
        "popnet.flags.answer",
        "popnet.flags.error",
        "popnet.id",
    )
    assert rows == [
        [str(int(Kind.DATA)), "2", "", "", "", "", "0"],
        [str(int(Kind.COUNTERS)), "", "0", "0", "1", "1", "5"],
        [str(int(Kind.COUNTERS)), "", "0", "1", "0", "0", "5"],
        ["32769", "", "1", "0", "0", "0", "0"],
    ]


def test_streams_and_their_openers(tmp_path: Path) -> None:
    rows = fields(
        tmp_path,
        [message(Kind.OPEN, b"{}", id=11), message(Kind.ABORT, b"", id=10), message(Kind.LOG, b"{}", id=11)],
        "popnet.id",
        "popnet.stream",
        "popnet.opener",
        "popnet.generation",
    )
    assert rows == [["11", "5", "1", "3"], ["10", "5", "0", "3"], ["11", "", "", "3"]]


def test_bodies(tmp_path: Path) -> None:
    number = codec.U32.pack(70_000)
    rows = fields(
        tmp_path,
        [
            message(Kind.OPEN, b'{"service":"exec","params":{"argv":["ls"]}}', id=1),
            message(Kind.CREDIT, number, id=1, ring=0),
            message(Kind.UNKNOWN, number),
            message(Kind.STALE, number),
            message(Kind.DATA, b'{"not":"json for us"}'),
        ],
        "popnet.credit",
        "popnet.unknown",
        "popnet.stale",
        "popnet.body",
        "json.key",
    )
    assert rows[0] == [
        "",
        "",
        "",
        b'{"service":"exec","params":{"argv":["ls"]}}'.hex(),
        "service,argv,params",
    ]
    assert rows[1:4] == [["70000", "", "", "", ""], ["", "70000", "", "", ""], ["", "", "70000", "", ""]]
    assert rows[4][4] == ""


def test_cut_messages_are_not_malformed(tmp_path: Path) -> None:
    body = b'{"service":"exec","params":{"argv":["ls"]}}'
    whole = message(Kind.OPEN, body, id=1)
    cut = Traced(0, 1, 1, 1, 1, 0, whole.tag, whole.size, whole.payload[:20], 1, 1, 2)
    head = Traced(0, 1, 1, 1, 1, 0, whole.tag, whole.size, whole.payload[:8], 1, 1, 2)
    rows = fields(
        tmp_path, [cut, head], "popnet.size", "popnet.body", "json.key", "frame.len", "frame.cap_len"
    )
    length = str(64 + whole.size)
    assert rows == [
        [str(whole.size), body[:12].hex(), "", length, "84"],
        [str(whole.size), "", "", length, "72"],
    ]


def test_what_is_no_message_is_said_to_be_short(tmp_path: Path) -> None:
    """The negative control of the tests above, and a version of later days."""
    path = tmp_path / "trace.pcapng"
    file = PcapngFile(NAMES, OFFSET)
    data = file.head() + file.messages([Traced(0, 1, 1, 1, 1, 0, 4, 3, b"abc", 1, 1, 2)])
    path.write_bytes(data)
    assert shark(path, "-Y", "popnet.short", "-T", "fields", "-e", "popnet.size").strip() == ""
    assert len(shark(path, "-Y", "popnet.short").splitlines()) == 1
    later = file.messages([message(Kind.DATA, b"")]).replace(bytes((1, 64, 1, 1)), bytes((9, 64, 1, 1)), 1)
    path.write_bytes(file.head() + later)
    assert len(shark(path, "-Y", "popnet.foreign").splitlines()) == 1


def test_a_kernel_is_found_whatever_it_did(tmp_path: Path) -> None:
    rows = fields(tmp_path, [message(Kind.DATA, b"")], "popnet.kernel", "_ws.col.Info", "frame.protocols")
    assert rows == [["0,1", "DATA, id 0, 0 bytes, normal, handled after 60.2 µs", "popnet"]]


WORDS = {
    membership.HELLO: "hello",
    membership.GO: "go",
    membership.HOLD: "hold",
    membership.GOODBYE: "goodbye",
}
NOTICE = b'{"session":1,"watch":2,"seq":3,"notice":["service-up",1,3,"echo",1,4,""]}'
BODIES = {
    Kind.OPEN: b'{"service":"exec","params":{}}',
    Kind.REFUSE: b'{"code":"refused","message":"no","hint":"","result":null}',
    Kind.DATA: bytes(300),
    Kind.CREDIT: codec.U32.pack(64),
    Kind.CLOSE: b'{"result":null}',
    Kind.UNKNOWN: codec.U32.pack(99),
    Kind.STALE: codec.U32.pack(4),
    Kind.CHECK_IN: b"{}",
    Kind.CONTROL: b'{"op":"shutdown"}',
    Kind.NOTIFY: b'{"down":1,"generation":1,"reason":"killed"}',
    Kind.EVENT: b'{"online":true,"timeline":[]}',
    Kind.LOG: b'{"time_s":1.5,"level":"info","text":"\xc3\xa9"}',
    Kind.SEND: b"\x00\xff{",
    Kind.CALL: codec.U32.pack(4) + b"body",
    Kind.RESOLVE: b"echo",
    Kind.REGISTRY: b'{"generation":1,"session":1,"services":{"echo":[1,1]},"watches":{},"groups":{"g":[1]}}',
    Kind.NOTICE: NOTICE,
    Kind.GROUP: lane.HEADER.pack(7, 2) + b"all",
}
"""Of each kind that has a body."""


def test_every_kind(tmp_path: Path) -> None:
    """Alone, as the first fragment of a longer one, as a call, its answer, and the error that answers it."""
    flags = (0, Flag.MORE, Flag.REQUEST, Flag.ANSWER, Flag.ANSWER | Flag.ERROR)
    sent = [
        (kind, flag, BODIES.get(kind, b"") if flag != flags[-1] else BODIES[Kind.REFUSE])
        for kind in Kind
        for flag in (flags[:1] if kind in STREAM_KINDS else flags)
    ]
    messages = [message(kind, body, flag, id=11, ring=ring) for kind, flag, body in sent for ring in (0, 1)]
    rows = fields(tmp_path, messages, "popnet.kind", "_ws.col.Info", "popnet.flags.more", "_ws.expert")
    assert len(rows) == 2 * len(sent)
    for [number, told, more, expert], traced in zip(rows, messages, strict=True):
        kind = Kind(traced.tag & 0xFFFF)
        assert int(number) == kind and expert == ""
        assert told.startswith(
            f"{kind.name}, id 11, {traced.size - 8} bytes, {('high', 'normal')[traced.ring]}"
        )
        assert more == ("" if kind is Kind.DATA else str(traced.tag >> 16 & 1))


def test_the_fields_of_services_and_groups(tmp_path: Path) -> None:
    words = [message(Kind.GROUP, lane.HEADER.pack(word, 2), id=5) for word in WORDS]
    rows = fields(
        tmp_path,
        [
            message(Kind.SEND, b"body", id=9),
            message(Kind.CALL, codec.U32.pack(9) + b"body", Flag.REQUEST, id=6),
            message(Kind.CALL, b"the answer", Flag.ANSWER, id=6),
            message(Kind.RESOLVE, b"echo", Flag.REQUEST, id=6),
            message(Kind.RESOLVE, codec.U32.pack(9) + codec.U32.pack(1), Flag.ANSWER, id=6),
            message(Kind.UNKNOWN, codec.U32.pack(Kind.SEND) + codec.U32.pack(9)),
            message(Kind.GROUP, lane.HEADER.pack(1, 2) + b"all", id=5),
            message(Kind.NOTICE, NOTICE),
            *words,
        ],
        "popnet.port",
        "popnet.service",
        "popnet.unknown",
        "popnet.member",
        "popnet.group_number",
        "popnet.group_from",
        "json.key",
    )
    assert rows == [
        ["9", "", "", "", "", "", ""],
        ["9", "", "", "", "", "", ""],
        ["", "", "", "", "", "", ""],
        ["", "echo", "", "", "", "", ""],
        ["9", "", "", "", "", "", ""],
        ["9", "", str(int(Kind.SEND)), "", "", "", ""],
        ["", "", "", "5", "1", "2", ""],
        ["", "", "", "", "", "", "session,watch,seq,notice"],
        *(["", "", "", "5", str(word), "2", ""] for word in WORDS),
    ]


def test_what_a_group_says_of_itself_has_a_name(tmp_path: Path) -> None:
    """Words to a member are numbers at the end of their range."""
    messages = [message(Kind.GROUP, lane.HEADER.pack(word, 2), id=5) for word in WORDS]
    rows = fields(tmp_path, messages, "_ws.col.Info")
    assert [row[0].split(", ")[:2] for row in rows] == [[f"GROUP {name}", "id 5"] for name in WORDS.values()]
