"""The packets of a pcapng stream, as popnet's captures write it: pure, fed with bytes as they come.

Reads section headers of either byte order, interface descriptions and enhanced packet blocks (pcapng, IETF
draft-ietf-opsawg-pcapng); skips every other block, as the format asks for.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from popnet.core.errors import LinkViolation

TYPE_CHECKING = False  # not from typing: that import alone would cost 3 ms
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

_SECTION, _INTERFACE, _PACKET = 0x0A0D_0D0A, 1, 6
_BYTE_ORDER_MAGIC: Final = 0x1A2B_3C4D
_LENGTH_MAX: Final = 1 << 20
_IF_NAME, _IF_TSRESOL, _EPB_FLAGS = 2, 9, 2


@dataclass(frozen=True)
class Packet:
    """One packet.

    Attributes:
        time_ns: since 1970.
        direction: 0 to the guest, 1 from it, as the flags of the block say.
        data: bytes kept.
        original_length: bytes it had.
        interface: name of its interface.
    """

    time_ns: int
    direction: int
    data: bytes
    original_length: int
    interface: str


class Reader:
    """Takes bytes of one stream, and gives out the packets that they complete.

    Attributes:
        position: bytes of the whole blocks so far: what a file may be cut to.
    """

    def __init__(self) -> None:
        self.position = 0
        self._pending = b""
        self._order = "<"
        self._interfaces: list[tuple[str, int]] = []  # name, ticks a second

    def feed(self, data: bytes) -> list[Packet]:
        """Raises LinkViolation for what is no pcapng."""
        buffer = self._pending + data
        packets = []
        start = 0
        while len(buffer) - start >= 12:
            kind, length = self._head(buffer, start)
            if start + length > len(buffer):
                break
            packet = self._block(kind, buffer[start + 8 : start + length - 4])
            if packet is not None:
                packets.append(packet)
            start += length
        self._pending = buffer[start:]
        self.position += start
        return packets

    def _head(self, buffer: bytes, start: int) -> tuple[int, int]:
        if buffer[start : start + 4] == b"\x0a\x0d\x0d\x0a":
            for order in "<>":
                if struct.unpack_from(order + "I", buffer, start + 8)[0] == _BYTE_ORDER_MAGIC:
                    self._order = order
                    break
            else:
                raise LinkViolation("no pcapng: the section has no byte-order magic")
        kind, length = struct.unpack_from(self._order + "II", buffer, start)
        if length % 4 or not 12 <= length <= _LENGTH_MAX:
            raise LinkViolation(f"no pcapng: a block of {length} bytes")
        return kind, length

    def _block(self, kind: int, body: bytes) -> Packet | None:
        try:
            if kind == _SECTION:
                self._interfaces = []
            elif kind == _INTERFACE:
                self._describe(body)
            elif kind == _PACKET:
                return self._packet(body)
        except (struct.error, IndexError) as error:
            raise LinkViolation(
                f"no pcapng: a block of kind {kind} is cut short or refers to nothing"
            ) from error
        return None

    def _describe(self, body: bytes) -> None:
        name, ticks = f"{len(self._interfaces)}", 10**6
        for code, value in self._options(body, 8):
            if code == _IF_NAME:
                name = value.decode(errors="replace")
            elif code == _IF_TSRESOL:
                ticks = 2 ** (value[0] & 0x7F) if value[0] & 0x80 else 10 ** value[0]
        self._interfaces.append((name, ticks))

    def _packet(self, body: bytes) -> Packet:
        interface, high, low, kept, length = struct.unpack_from(self._order + "5I", body)
        name, ticks = self._interfaces[interface]
        data = body[20 : 20 + kept]
        if len(data) < kept:
            raise IndexError
        direction = 0
        for code, value in self._options(body, 20 + (kept + 3) // 4 * 4):
            if code == _EPB_FLAGS:
                direction = int(struct.unpack(self._order + "I", value)[0] & 3 == 2)
        return Packet((high << 32 | low) * 10**9 // ticks, direction, data, length, name)

    def _options(self, body: bytes, start: int) -> Iterator[tuple[int, bytes]]:
        while start + 4 <= len(body):
            code, length = struct.unpack_from(self._order + "HH", body, start)
            if code == 0:
                return
            yield code, body[start + 4 : start + 4 + length]
            start += 4 + (length + 3) // 4 * 4
