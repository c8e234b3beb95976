"""The ring and its doorbell (`native/ring.h`), in both directions, as two programs of a machine.

The producer writes records, publishes them and waits for room; the consumer reads them, releases them and
waits for data. Names and order of the operations are those of the native file: producer_publish,
producer_arm, consumer_release, consumer_arm. A record's bytes are one word a unit, `byte0`, `byte1`, ...;
each must be read as it was written: neither before it is there nor after the producer has gone on over it.
`Rules` can leave out one of the things that make it work.
"""

from dataclasses import dataclass, replace

from tests.model.machine import Fence, Kick, Load, Operation, Read, Store, Wait


@dataclass(frozen=True, slots=True)
class Rules:
    capacity: int = 4
    """Units (cache lines) of the ring."""

    fence_after_publish: bool = True
    fence_after_release: bool = True
    fence_after_arming: bool = True
    fence_after_arming_for_room: bool = True
    look_again: bool = True
    look_again_for_room: bool = True
    new_sequence: bool = True
    new_sequence_for_room: bool = True
    publish_releases: bool = True
    release_releases: bool = True
    look_acquires: bool = True
    look_for_room_acquires: bool = True
    arming_orders: bool = True
    """Armed words are stored with release and loaded with acquire."""

    @property
    def wake_free(self) -> int:
        """Free units at which the consumer wakes a waiting producer: half the ring and one."""
        return self.capacity // 2 + 1

    def byte_at(self, position: int) -> str:
        return f"byte{position % self.capacity}"


@dataclass(frozen=True, slots=True)
class Producer:
    """Sends records of the given sizes, in units."""

    rules: Rules
    sizes: tuple[int, ...]
    at: str = "write"
    written: int = 0
    sent: int = 0
    produced: int = 0
    consumed: int = 0
    sequence: int = 0
    kicked_for: int = 0

    def __post_init__(self) -> None:
        if self.at == "write" and not self._fits():
            object.__setattr__(self, "at", "look")
        if self.sent == len(self.sizes) and self.at in ("write", "look"):
            object.__setattr__(self, "at", "end")

    def _fits(self) -> bool:
        if self.sent == len(self.sizes):
            return True
        return self.rules.capacity - (self.produced - self.consumed) >= self.sizes[self.sent]

    @property
    def operation(self) -> Operation | None:
        match self.at:
            case "write":
                return Store(self.rules.byte_at(self.produced + self.written), self.sent + 1, release=False)
            case "publish":
                return Store("produced", self.produced + self.sizes[self.sent], self.rules.publish_releases)
            case "look" | "look again":
                return Load("consumed", self.rules.look_for_room_acquires)
            case "fence after publish" | "fence after arming":
                return Fence()
            case "look at armed":
                return Load("armed_data", self.rules.arming_orders)
            case "kick":
                return Kick("consumer")
            case "arm":
                return Store("armed_room", self._next_sequence(), self.rules.arming_orders)
            case "sleep":
                return Wait("producer")
            case "disarm" | "disarm after sleep":
                return Store("armed_room", 0, self.rules.arming_orders)
        return None

    def _next_sequence(self) -> int:
        return self.sequence + 1 if self.rules.new_sequence_for_room else 1

    def after(self, value: int) -> "Producer":
        rules = self.rules
        match self.at:
            case "write":
                written = self.written + 1
                at = "publish" if written == self.sizes[self.sent] else "write"
                return replace(self, at=at, written=written)
            case "publish":
                at = "fence after publish" if rules.fence_after_publish else "look at armed"
                size = self.sizes[self.sent]
                return replace(self, at=at, sent=self.sent + 1, produced=self.produced + size, written=0)
            case "fence after publish":
                return replace(self, at="look at armed")
            case "look at armed":
                if value in (0, self.kicked_for):
                    return replace(self, at="write")
                return replace(self, at="kick", kicked_for=value)
            case "kick" | "disarm":
                return replace(self, at="write")
            case "look":
                seen = replace(self, consumed=value)
                return replace(seen, at="write" if seen._fits() else "arm")
            case "arm":
                at = "look again" if rules.look_again_for_room else "sleep"
                at = "fence after arming" if rules.fence_after_arming_for_room else at
                return replace(self, at=at, sequence=self._next_sequence())
            case "fence after arming":
                return replace(self, at="look again" if rules.look_again_for_room else "sleep")
            case "look again":
                seen = replace(self, consumed=value)
                return replace(seen, at="disarm" if seen._fits() else "sleep")
            case "sleep":
                return replace(self, at="disarm after sleep")
        return replace(self, at="look")  # disarmed after sleep


@dataclass(frozen=True, slots=True)
class Consumer:
    """Takes the same records, one at a time."""

    rules: Rules
    sizes: tuple[int, ...]
    at: str = "look"
    read: int = 0
    taken: int = 0
    consumed: int = 0
    sequence: int = 0
    kicked_for: int = 0
    armed: int = 0

    @property
    def operation(self) -> Operation | None:
        match self.at:
            case "look" | "look again" | "look how full":
                return Load("produced", self.rules.look_acquires)
            case "read":
                return Read(self.rules.byte_at(self.consumed + self.read), self.taken + 1)
            case "release":
                return Store("consumed", self.consumed + self.sizes[self.taken], self.rules.release_releases)
            case "fence after release" | "fence after arming":
                return Fence()
            case "look at armed":
                return Load("armed_room", self.rules.arming_orders)
            case "kick":
                return Kick("producer")
            case "arm":
                return Store("armed_data", self._next_sequence(), self.rules.arming_orders)
            case "sleep":
                return Wait("consumer")
            case "disarm" | "disarm after sleep":
                return Store("armed_data", 0, self.rules.arming_orders)
        return None

    def _next_sequence(self) -> int:
        return self.sequence + 1 if self.rules.new_sequence else 1

    def _next(self) -> "Consumer":
        return replace(self, at="end" if self.taken == len(self.sizes) else "look", armed=0)

    def after(self, value: int) -> "Consumer":
        rules = self.rules
        match self.at:
            case "look":
                return replace(self, at="read" if value > self.consumed else "arm")
            case "read":
                read = self.read + 1
                return replace(self, at="release" if read == self.sizes[self.taken] else "read", read=read)
            case "release":
                at = "fence after release" if rules.fence_after_release else "look at armed"
                size = self.sizes[self.taken]
                return replace(self, at=at, taken=self.taken + 1, consumed=self.consumed + size, read=0)
            case "fence after release":
                return replace(self, at="look at armed")
            case "look at armed":
                if value in (0, self.kicked_for):
                    return self._next()
                return replace(self, at="look how full", armed=value)
            case "look how full":
                if value - self.consumed > rules.capacity - rules.wake_free:
                    return self._next()
                return replace(self, at="kick", kicked_for=self.armed)
            case "kick":
                return self._next()
            case "arm":
                at = "look again" if rules.look_again else "sleep"
                at = "fence after arming" if rules.fence_after_arming else at
                return replace(self, at=at, sequence=self._next_sequence())
            case "fence after arming":
                return replace(self, at="look again" if rules.look_again else "sleep")
            case "look again":
                return replace(self, at="disarm" if value > self.consumed else "sleep")
            case "disarm":
                return replace(self, at="read")
            case "sleep":
                return replace(self, at="disarm after sleep")
        return replace(self, at="look")  # disarmed after sleep
