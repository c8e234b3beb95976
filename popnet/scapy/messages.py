"""popnet's messages as scapy layers, so that `rdpcap` understands what `popnet trace -w x.pcapng` wrote.

    packet = rdpcap("x.pcapng")[0]
    packet[PopnetTrace].sender, packet[PopnetMessage].kind, packet[PopnetBody].value

PopnetTrace is the header of the trace (docs/tracing.md), PopnetMessage the record on its ring
(docs/messages.md), PopnetBody what is known of the body of its kind. Names of kinds and flags are those of
`popnet.message.kinds`, so they cannot differ.

The tag of a message is in the middle of the trace's header; here it is where it is on the ring, at the
beginning of PopnetMessage.
"""

import json
import struct
from typing import Any, Final

from scapy.config import conf
from scapy.fields import (
    ByteEnumField,
    ByteField,
    ConditionalField,
    FlagsField,
    LEIntField,
    LELongField,
    LEShortEnumField,
    LEShortField,
    LESignedLongField,
    StrField,
)
from scapy.packet import Packet, Raw, bind_layers

from popnet.message.kinds import Flag, Kind, Ring

LINK_TYPE: Final = 147
"""LINKTYPE_USER0, as the trace writes it."""

_TAG: Final = slice(16, 20)
"""Where the tag is in the trace's header."""

_JSON: Final = frozenset(
    {Kind.OPEN, Kind.REFUSE, Kind.CLOSE, Kind.CHECK_IN, Kind.CONTROL, Kind.NOTIFY, Kind.EVENT, Kind.LOG}
    | {Kind.COUNTERS, Kind.REGISTRY, Kind.NOTICE}
)

_NUMBERS: Final[dict[tuple[Kind, Flag], tuple[str, ...]]] = {
    (Kind.CREDIT, Flag(0)): ("credit",),
    (Kind.UNKNOWN, Flag(0)): ("unknown_kind", "port"),
    (Kind.STALE, Flag(0)): ("running",),
    (Kind.CALL, Flag.REQUEST): ("port",),
    (Kind.RESOLVE, Flag.ANSWER): ("port", "version"),
    (Kind.GROUP, Flag(0)): ("number",),
}
"""The u32 that a body begins with, by its kind and which of REQUEST and ANSWER it has."""


class PopnetTrace(Packet):
    """What the trace tells of a message. Times in ns since 1970; 0: not known, or it was not.

    `size` is of the payload on the ring, of which the file may hold only the beginning.
    """

    name = "popnet trace"
    fields_desc = [
        ByteField("version", 1),
        ByteField("header_size", 64),
        ByteEnumField("ring", Ring.NORMAL, {ring.value: ring.name.lower() for ring in Ring}),
        FlagsField("seen", 0, 8, ["kicked", "awake"]),
        LEShortField("sender", 0),
        LEShortField("receiver", 0),
        LEIntField("sender_generation", 0),
        LEIntField("receiver_generation", 0),
        LEIntField("tag", 0),
        LEIntField("size", 0),
        LELongField("number", 0),
        LESignedLongField("enqueue_ns", 0),
        LESignedLongField("kick_ns", 0),
        LESignedLongField("wake_ns", 0),
        LESignedLongField("handle_ns", 0),
    ]

    def do_dissect_payload(self, s: bytes) -> None:
        self.raw_packet_cache = None  # it is built anew, with the tag put back
        super().do_dissect_payload(struct.pack("<I", self.tag) + s)

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        return PopnetMessage

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        tag = pay[:4] if isinstance(self.payload, PopnetMessage) else pkt[_TAG]
        body = pay[4:] if isinstance(self.payload, PopnetMessage) else pay
        return pkt[: _TAG.start] + tag + pkt[_TAG.stop :] + body

    def mysummary(self) -> str:
        return str(self.sprintf("popnet %sender% > %receiver%"))


class PopnetMessage(Packet):
    """A record on a ring: tag and payload."""

    name = "popnet message"
    fields_desc = [
        LEShortEnumField("kind", Kind.DATA, {kind.value: kind.name for kind in Kind}),
        ConditionalField(LEShortField("channel", 0), lambda packet: packet.kind == Kind.DATA),
        ConditionalField(
            FlagsField("flags", 0, -16, [flag.name.lower() for flag in Flag if flag.name]),
            lambda packet: packet.kind != Kind.DATA,
        ),
        LEIntField("id", 0),
        LEIntField("generation", 0),
    ]

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        return Raw if self.kind == Kind.DATA else PopnetBody

    def mysummary(self) -> tuple[str, list[type[Packet]]]:  # type: ignore[override]
        """With the layers whose own summary goes before it, as scapy has it."""
        return self.sprintf("%kind% id %id%"), [PopnetTrace]


def _begins_with(name: str) -> Any:
    """Whether the body of a packet's message begins with the number *name*, and is long enough for it."""

    def there(packet: Packet) -> bool:
        names = _numbers(packet.underlayer)
        return name in names

    return there


def _numbers(message: Packet | None) -> tuple[str, ...]:
    if not isinstance(message, PopnetMessage) or message.kind == Kind.DATA:
        return ()
    flags = Flag(int(message.flags) & (Flag.REQUEST | Flag.ANSWER))
    if int(message.flags) & Flag.ERROR:
        return ()
    try:
        return _NUMBERS.get((Kind(message.kind), flags), ())
    except ValueError:
        return ()  # a kind of users


class PopnetBody(Packet):
    """The body of a message: the numbers it begins with, by its kind, then the rest, as bytes."""

    name = "popnet body"
    fields_desc = [
        *(
            ConditionalField(LEIntField(name, 0), _begins_with(name))
            for name in ("credit", "unknown_kind", "running", "number", "port", "version")
        ),
        StrField("data", b""),
    ]

    @property
    def value(self) -> Any:
        """The JSON of the body, decoded; None if it is none, or not all of it is here."""
        message = self.underlayer
        if not isinstance(message, PopnetMessage):
            return None
        if message.kind not in _JSON and not int(message.flags) & Flag.ERROR:
            return None
        try:
            return json.loads(self.data)
        except ValueError:
            return None


bind_layers(PopnetTrace, PopnetMessage)
conf.l2types.register(LINK_TYPE, PopnetTrace)
