"""The registry: which kernels are there, what they serve, who watches, who is in which group. Pure.

Theory of operation. It runs at the primary. A kernel tells its *whole* wishes each time one changes (Sync):
what it serves, watches and has joined; the registry compares with what it knew. So no request can be lost,
doubled or overtaken: the last Sync holds.

    unknown --Sync--> up --Sync (other wishes)--> up --Down--> dead --Sync of a newer generation--> up

The first Sync of a generation is the kernel's check-in. One of a dead generation is refused: it was still
under way. A newer generation ends an older one that nobody has reported dead.

*Notices.* Each change has the next number of one sequence, and is told to every watch whose pattern it
matches. A watch begins with a snapshot, then come notices, in order. A client may lose its link, or be too
slow to take a notice (Blocked): it then begins a new *session* and says, for each watch, the number it has
seen last. It gets what came after from the log; or, if the log does not reach back that far, a snapshot,
which the client compares with what it knows. Within a session, watches that are known already go on as they
are: what was told is under way.

A kernel's death takes its services down first, then the kernel itself, then it leaves its groups.

*Groups.* Each change of a membership makes a new view, numbered in the same sequence, and told to all that
are in it and to those that were in the one before.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, assert_never

from popnet.core import limits
from popnet.message.notice import Change, Notice


@dataclass(frozen=True, slots=True)
class Sync:
    """A kernel's wishes, all of them.

    Attributes:
        session: grows when the client no longer knows what has reached it.
        services: name -> (version, port).
        watches: number -> (pattern, sequence number seen last; None: of a watch that has seen nothing).
        groups: name -> numbers of the memberships, which the client never uses again.
    """

    kid: int
    generation: int
    session: int
    services: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    watches: Mapping[int, tuple[str, int | None]] = field(default_factory=dict)
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Down:
    """A generation of a kernel, and all before it, are dead."""

    kid: int
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Changed:
    """A kernel has another partition; the text says what of it changed."""

    kid: int
    text: str


@dataclass(frozen=True, slots=True)
class Blocked:
    """A Tell could not be sent: the kernel has missed something, and is told no more in this session."""

    kid: int


@dataclass(frozen=True, slots=True)
class Resume:
    """Try again with a kernel that was blocked."""

    kid: int


Event: TypeAlias = Sync | Down | Changed | Blocked | Resume


@dataclass(frozen=True, slots=True)
class Tell:
    """Command: send this to a kernel, in order.

    {"watch", "seq", "snapshot": [...]} or {"watch", "seq", "notice": [...]} of a watch, and {"group", "view",
    "members": [[kid, generation, membership], ...]}, all with the "session" they belong to; or {"resync":
    true}: begin a session.
    """

    kid: int
    body: dict[str, Any]


@dataclass(slots=True)
class _Kernel:
    generation: int
    session: int = -1
    services: dict[str, Notice] = field(default_factory=dict)
    watches: dict[int, str] = field(default_factory=dict)
    groups: dict[str, tuple[int, ...]] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    """Groups it has been told a view of: a new session tells them again."""
    blocked: bool = False


class Registry:
    """The machine. `handle` takes an event and returns what to tell whom, in order.

    Args:
        names: of the kernels, by kid; others get a name of their number.
        log_max: notices kept for clients that come back.
    """

    def __init__(self, names: Mapping[int, str], log_max: int = limits.NOTICES_MAX) -> None:
        self._names = names
        self._kernels: dict[int, _Kernel] = {}
        self._dead: dict[int, int] = {}
        self._log: deque[tuple[int, Notice]] = deque(maxlen=log_max)
        self._views: dict[str, int] = {}
        self._forgotten = 0  # the newest number that has fallen out of the log
        self.seq = 0

    def handle(self, event: Event) -> list[Tell]:
        match event:
            case Sync():
                return list(self._sync(event))
            case Down():
                return list(self._down(event.kid, event.generation, event.reason))
            case Changed():
                return list(self._changed(event))
            case Blocked():
                if event.kid in self._kernels:
                    self._kernels[event.kid].blocked = True
                return []
            case Resume():
                kernel = self._kernels.get(event.kid)
                return [Tell(event.kid, {"resync": True})] if kernel is not None and kernel.blocked else []
            case _:
                assert_never(event)

    # What there is

    def services(self) -> list[Notice]:
        """Every service that is up, by kernel and name."""
        return [
            kernel.services[name]
            for _, kernel in sorted(self._kernels.items())
            for name in sorted(kernel.services)
        ]

    def groups(self) -> dict[str, list[int]]:
        """The kids in every group; a kernel that is in it several times is named as often."""
        found: dict[str, list[int]] = {}
        for kid, kernel in sorted(self._kernels.items()):
            for group, numbers in kernel.groups.items():
                found.setdefault(group, []).extend([kid] * len(numbers))
        return found

    def kid_of(self, name: str) -> int | None:
        return next((kid for kid, known in self._names.items() if known == name), None)

    # A kernel's wishes

    def _sync(self, sync: Sync) -> Iterator[Tell]:
        if sync.generation <= self._dead.get(sync.kid, 0):
            return
        known = self._kernels.get(sync.kid)
        if known is not None and known.generation != sync.generation:
            if sync.generation < known.generation:
                return
            yield from self._down(sync.kid, known.generation, f"generation {sync.generation} runs now")
            known = None
        if known is None:
            known = self._kernels[sync.kid] = _Kernel(sync.generation)
            yield from self._change(self._kernel_up(sync.kid, known))
        if sync.session < known.session:
            return
        begins = sync.session > known.session
        known.session = sync.session
        if begins:
            known.blocked = False
            known.watches = {}
        yield from self._sync_services(sync, known)
        yield from self._sync_watches(sync, known)
        yield from self._sync_groups(sync, known, begins)

    def _sync_services(self, sync: Sync, known: _Kernel) -> Iterator[Tell]:
        for name, notice in list(known.services.items()):
            if sync.services.get(name) != (notice.version, notice.port):
                del known.services[name]
                yield from self._change(notice.down("unregistered"))
        for name, (version, port) in sync.services.items():
            if name not in known.services:
                up = Notice(Change.SERVICE_UP, sync.kid, sync.generation, name, version, port)
                known.services[name] = up
                yield from self._change(up)

    def _sync_watches(self, sync: Sync, known: _Kernel) -> Iterator[Tell]:
        before = known.watches
        known.watches = {number: pattern for number, (pattern, _) in sync.watches.items()}
        for number, (pattern, seen) in sync.watches.items():
            if number in before:
                continue
            if seen is None or not self._forgotten <= seen <= self.seq:
                ups = [notice.to_json() for notice in self._ups() if notice.matches(pattern)]
                yield self._tell(sync.kid, {"watch": number, "seq": self.seq, "snapshot": ups})
                continue
            for seq, notice in self._log:
                if seq > seen and notice.matches(pattern):
                    yield self._tell(sync.kid, {"watch": number, "seq": seq, "notice": notice.to_json()})

    def _sync_groups(self, sync: Sync, known: _Kernel, begins: bool) -> Iterator[Tell]:
        if begins:
            for group in sorted(known.told):
                yield self._view(sync.kid, group)
        for group in sorted({*known.groups, *sync.groups}):
            numbers = sync.groups.get(group, ())
            if known.groups.get(group, ()) == numbers:
                continue
            if numbers:
                known.groups[group] = numbers
            else:
                del known.groups[group]
            yield from self._change_view(group, sync.kid)

    def _down(self, kid: int, generation: int, reason: str) -> Iterator[Tell]:
        self._dead[kid] = max(generation, self._dead.get(kid, 0))
        kernel = self._kernels.get(kid)
        if kernel is None or kernel.generation > generation:
            return
        del self._kernels[kid]
        for name in sorted(kernel.services):
            yield from self._change(kernel.services[name].down(reason))
        yield from self._change(self._kernel_up(kid, kernel).down(reason))
        for group in kernel.groups:
            yield from self._change_view(group)

    def _changed(self, event: Changed) -> Iterator[Tell]:
        kernel = self._kernels.get(event.kid)
        if kernel is not None:
            up = self._kernel_up(event.kid, kernel)
            yield from self._change(replace(up, change=Change.KERNEL_CHANGED, reason=event.text))

    # Telling

    def _kernel_up(self, kid: int, kernel: _Kernel) -> Notice:
        return Notice(Change.KERNEL_UP, kid, kernel.generation, self._names.get(kid, str(kid)))

    def _ups(self) -> Iterator[Notice]:
        for kid, kernel in sorted(self._kernels.items()):
            yield self._kernel_up(kid, kernel)
            yield from (kernel.services[name] for name in sorted(kernel.services))

    def _change(self, notice: Notice) -> Iterator[Tell]:
        self.seq += 1
        if len(self._log) == self._log.maxlen:
            self._forgotten = self._log[0][0] if self._log else self.seq
        self._log.append((self.seq, notice))
        body = notice.to_json()
        for kid, kernel in self._kernels.items():
            if kernel.blocked:
                continue
            for number, pattern in kernel.watches.items():
                if notice.matches(pattern):
                    yield self._tell(kid, {"watch": number, "seq": self.seq, "notice": body})

    def _change_view(self, group: str, *before: int) -> Iterator[Tell]:
        self.seq += 1
        self._views[group] = self.seq
        members = {kid for kid, kernel in self._kernels.items() if group in kernel.groups}
        for kid in sorted({*members, *before}):
            self._kernels[kid].told.add(group)
            if not self._kernels[kid].blocked:
                yield self._view(kid, group)
        if not members:
            del self._views[group]

    def _view(self, kid: int, group: str) -> Tell:
        members = [
            [member, kernel.generation, number]
            for member, kernel in sorted(self._kernels.items())
            for number in kernel.groups.get(group, ())
        ]
        view = self._views.get(group, self.seq)
        return self._tell(kid, {"group": group, "view": view, "members": members})

    def _tell(self, kid: int, body: dict[str, Any]) -> Tell:
        return Tell(kid, {"session": self._kernels[kid].session, **body})
