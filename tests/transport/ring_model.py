"""What one ring does, in plain Python: the oracle of the native file's tests.

Both ends of one direction, in one thread, without caches: every operation looks at the words themselves. The
data area is what the producer's window must hold, byte for byte; padding keeps what was there.
"""

import struct

ALIGN = 64
HEADER = struct.Struct("<II")
"""Length and tag of a record."""

MODULUS = 2**64


def span_of(size: int) -> int:
    """Bytes a payload of *size* bytes takes in the ring."""
    return -(-(size + HEADER.size) // ALIGN) * ALIGN


class RingModel:
    def __init__(self, size: int, payload_max: int, start: int = 0) -> None:
        self.size = size
        self.payload_max = payload_max
        self.data = bytearray(size)
        self.produced = self.consumed = start
        self.armed_data = self.armed_room = 0
        self.data_sequence = self.room_sequence = 0
        self.data_kicked_for = self.room_kicked_for = 0
        self.consumer_bell = self.producer_bell = 0
        """Kicks that the consumer and the producer got."""

    @property
    def used(self) -> int:
        return (self.produced - self.consumed) % MODULUS

    def has_room(self, size: int) -> bool:
        return self.size - self.used >= span_of(size)

    def send(self, records: list[tuple[int, bytes]]) -> int:
        """Send (tag, payload) records, published together; how many went."""
        sent, staged = 0, self.produced
        for tag, payload in records:
            if self.size - (staged - self.consumed) % MODULUS < span_of(len(payload)):
                break
            self._write(staged, HEADER.pack(len(payload), tag) + payload)
            staged = (staged + span_of(len(payload))) % MODULUS
            sent += 1
        if sent:
            self.produced = staged
            self._kick_for_data()
        return sent

    def receive(self, budget: int) -> list[tuple[int, bytes]]:
        records: list[tuple[int, bytes]] = []
        while self.used and len(records) < budget:
            length, tag = HEADER.unpack(self._read(self.consumed, HEADER.size))
            records.append((tag, self._read(self.consumed + HEADER.size, length)))
            self.consumed = (self.consumed + span_of(length)) % MODULUS
        if records:
            self._kick_for_room()
        return records

    def arm(self) -> bool:
        self.data_sequence += 1
        self.armed_data = 0 if self.used else self.data_sequence
        return not self.used

    def arm_room(self, size: int) -> bool:
        self.room_sequence += 1
        self.armed_room = 0 if self.has_room(size) else self.room_sequence
        return not self.has_room(size)

    def _kick_for_data(self) -> None:
        if self.armed_data not in (0, self.data_kicked_for):
            self.data_kicked_for = self.armed_data
            self.consumer_bell += 1

    def _kick_for_room(self) -> None:
        if self.armed_room not in (0, self.room_kicked_for) and self.used <= self.size // 2 - ALIGN:
            self.room_kicked_for = self.armed_room
            self.producer_bell += 1

    def _write(self, position: int, data: bytes) -> None:
        at = position % self.size
        first = min(len(data), self.size - at)
        self.data[at : at + first] = data[:first]
        self.data[: len(data) - first] = data[first:]

    def _read(self, position: int, size: int) -> bytes:
        at = position % self.size
        whole = self.data[at : at + size]
        return bytes(whole + self.data[: size - len(whole)])
