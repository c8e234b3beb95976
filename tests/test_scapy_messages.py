"""popnet's messages as scapy layers, held against the codec and the files of the trace."""

import struct
from pathlib import Path

import pytest
from scapy.packet import Raw
from scapy.utils import rdpcap

from popnet.cli.tracefiles import LINK_TYPE, PSEUDO_HEADER, PcapngFile
from popnet.message.kinds import Flag, Kind
from popnet.message.tracejoin import Traced
from popnet.scapy import PopnetBody, PopnetMessage, PopnetTrace, messages


def read(tmp_path: Path, tag: int, body: bytes) -> PopnetTrace:
    """A message, written as the trace does and read by scapy."""
    payload = struct.pack("<II", 77, 3) + body
    traced = Traced(
        sender=1, receiver=2, sender_generation=4, receiver_generation=3, ring=1, number=9, tag=tag,
        size=len(payload), payload=payload, enqueue_ns=100, publish_ns=110, sent_ns=120, kick_ns=120,
        wake_ns=130, begin_ns=140, handle_ns=150,
    )  # fmt: skip
    file = PcapngFile({1: "k1", 2: "k2"}, 10**18)
    path = tmp_path / "x.pcapng"
    path.write_bytes(file.head() + file.messages([traced]) + file.end())
    (packet,) = rdpcap(str(path))
    return packet


def test_the_header_of_the_trace_is_that_of_the_file(tmp_path: Path) -> None:
    packet = read(tmp_path, Kind.LOG, b'{"level": "info"}')
    trace, message = packet[PopnetTrace], packet[PopnetMessage]
    assert (trace.version, trace.header_size, trace.ring) == (1, PSEUDO_HEADER.size, 1)
    assert (trace.sender, trace.receiver, trace.sender_generation, trace.number) == (1, 2, 4, 9)
    assert (trace.enqueue_ns, trace.handle_ns) == (10**18 + 100, 10**18 + 150)
    assert (message.id, message.generation, packet.sprintf("%PopnetMessage.kind%")) == (77, 3, "LOG")
    assert packet[PopnetBody].value == {"level": "info"}
    assert packet.summary().startswith("popnet 1 > 2 / LOG id 77")
    assert messages.LINK_TYPE == LINK_TYPE


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_has_its_name_and_is_built_as_it_was_read(kind: Kind, tmp_path: Path) -> None:
    packet = read(tmp_path, kind, b"0123456789ab")
    assert packet.sprintf("%PopnetMessage.kind%") == kind.name
    assert bytes(packet)[16:20] == struct.pack("<I", kind)
    assert bytes(PopnetTrace(bytes(packet))) == bytes(packet)
    assert (Raw in packet) == (kind is Kind.DATA)


@pytest.mark.parametrize(
    ("tag", "fields"),
    [
        (Kind.CREDIT, {"credit": 5}),
        (Kind.UNKNOWN, {"unknown_kind": 5, "port": 6}),
        (Kind.STALE, {"running": 5}),
        (Kind.CALL | Flag.REQUEST << 16, {"port": 5}),
        (Kind.RESOLVE | Flag.ANSWER << 16, {"port": 5, "version": 6}),
        (Kind.GROUP, {"number": 5}),
        (Kind.CALL | Flag.ANSWER << 16, {}),
        (0x8001, {}),
    ],
)
def test_the_numbers_of_a_body(tag: int, fields: dict[str, int], tmp_path: Path) -> None:
    numbers = struct.pack("<II", 5, 6)
    body = read(tmp_path, tag, numbers)[PopnetBody]
    names = ("credit", "unknown_kind", "running", "number", "port", "version")
    assert {name: getattr(body, name) for name in names if getattr(body, name) is not None} == fields
    assert body.data == numbers[4 * len(fields) :]
    assert body.value is None


def test_flags_and_channels(tmp_path: Path) -> None:
    call = read(tmp_path, Kind.CALL | (Flag.ANSWER | Flag.ERROR) << 16, b'{"code": "refused"}')
    assert str(call[PopnetMessage].flags) == "answer+error"
    assert call[PopnetBody].value == {"code": "refused"}
    assert read(tmp_path, Kind.DATA | 2 << 16, b"x")[PopnetMessage].channel == 2
    made = PopnetTrace(sender=1) / PopnetMessage(kind="OPEN", id=3) / PopnetBody(data=b"{}")
    assert bytes(made)[16:20] == struct.pack("<I", Kind.OPEN)
    assert PopnetTrace(bytes(made))[PopnetBody].value == {}
