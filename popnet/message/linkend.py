"""The links of one kernel, and the loop that moves messages between them: what an endpoint stands on.

Theory of operation. All of it runs on one thread, in the event loop. Every peer kicks the same doorbell; a
kick says only "look at your rings". `_turn` gives each link one budget; if any link used it up, or has
something again when armed, there is another turn after everybody else in the loop had theirs; otherwise every
ring is armed and the endpoint sleeps at its doorbell. Before it sleeps it may `look` for a short while; but
not in a turn that has handled something: whoever waited for that has its turn first, because what we would
look for may be the answer to what it has yet to send. The doorbell is drained before the rings are: a kick
that comes between the two costs an empty turn, where the other order would lose it.

Tasks, of handlers and of calls, belong to the endpoint and end with it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine
from functools import partial
from typing import Any

from popnet.core.errors import PeerDied
from popnet.message.codec import Record
from popnet.message.form import FORMS, Form
from popnet.message.kinds import Ring
from popnet.message.memory import MemoryLink
from popnet.message.peer import Peer, Turn
from popnet.message.port import LinkPort
from popnet.message.streamshell import LinkStream
from popnet.message.trace import Sink, Tracer
from popnet.transport import doorbell

log = logging.getLogger(__name__)


class LinkEnd:
    """One end of each link of a kernel, and one of its link to itself; `Endpoint` says what is made of it.

    Args:
        kid, generation: who this is; what is addressed to another generation is refused.
        bell_fd: this kernel's message doorbell, which its peers kick. Not owned.
        connect: makes a link to a kernel that has none, and returns once `add_link` was called; raises
            PopnetError when it cannot.
        forms: what bodies look like, by kind and flags.

    Attributes:
        on_violation: told (kid, text) when a link is dropped because its peer spoke nonsense.
        look: called before every sleep; may wait a short while for records, and tells whether there are some.
        looks: whether `look` would wait at all, if it were called now.
    """

    def __init__(
        self,
        kid: int,
        generation: int,
        bell_fd: int,
        connect: Callable[[int], Awaitable[None]],
        forms: dict[tuple[int, int], Form] = FORMS,
    ) -> None:
        self.kid = kid
        self.generation = generation
        self.forms = forms
        self.on_violation: Callable[[int, str], None] = lambda kid, text: None
        self.look: Callable[[], bool] = lambda: False
        self.looks: Callable[[], bool] = lambda: False
        self.counters_total: Counter[str] = Counter()
        self._bell_fd = bell_fd
        self._connect = connect
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn_coming = False
        self._peers: dict[int, Peer] = {}
        self._connecting: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._up: list[Callable[[int, int], None]] = []
        self._down: list[Callable[[int, str], None]] = []
        self._tracer = Tracer()

    # What an endpoint makes of what comes

    def offered(self, peer: Peer, stream: LinkStream) -> None:
        """The peer opened a stream."""
        raise NotImplementedError

    def dispatch(self, peer: Peer, ring: Ring, message: Record) -> None:
        """A whole message came. May raise LinkViolation."""
        raise NotImplementedError

    # Life

    def start(self) -> None:
        """Listen at the doorbell; from inside the loop, before anything else."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._bell_fd, self._rung)
        self._peers[self.kid] = Peer(self, self.kid, self.generation, MemoryLink.to_itself(self.wake))
        self.wake()

    async def stop(self) -> None:
        """End every handler, stream and call; a handler may ask for it. Links stay: they are not owned."""
        if self._loop is None:
            return
        self._loop.remove_reader(self._bell_fd)
        own = {asyncio.current_task()}
        while tasks := {*self._tasks, *self._connecting.values()} - own:  # a last turn may start some more
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for peer in self._peers.values():
            peer.end(PeerDied(f"kernel {self.kid} stops"))
        self._peers.clear()
        self._loop = None

    @property
    def running(self) -> bool:
        return self._loop is not None

    # Links

    def has_link(self, kid: int) -> bool:
        return kid in self._peers

    def add_link(self, kid: int, generation: int, link: LinkPort) -> None:
        """There is a link to kernel *kid* in *generation*. One to an earlier generation ends."""
        assert self._loop is not None, "add_link before start"
        assert kid != self.kid, "a kernel's link to itself is built in"
        if kid in self._peers:
            self.remove_link(kid, f"kernel {kid} runs in generation {generation} now")
        peer = self._peers[kid] = Peer(self, kid, generation, link)
        self._tracer.add(peer)
        log.info("kernel %d: link up (generation %d)", kid, generation)
        for callback in self._up:
            self.later(partial(callback, kid, generation))
        self.wake()

    def remove_link(self, kid: int, reason: str) -> None:
        """The link to *kid* is gone: its streams and calls end with PeerDied(*reason*). Nothing happens if
        there is none."""
        assert kid != self.kid, "a kernel's link to itself stays"
        peer = self._peers.pop(kid, None)
        if peer is None:
            return
        peer.end(PeerDied(reason))
        self.counters_total.update(peer.hub.machine.counters)
        log.info("kernel %d: link down (%s)", kid, reason)
        for callback in self._down:
            self.later(partial(callback, kid, reason))

    def on_peer_up(self, callback: Callable[[int, int], None]) -> None:
        """Call *callback* (kid, generation) once for every link, those that are there already included.

        Ups and downs come from the loop, in the order in which they happened.
        """
        self._up.append(callback)
        for peer in self._peers.values():
            if peer.kid != self.kid:
                self.later(partial(callback, peer.kid, peer.generation))

    def on_peer_down(self, callback: Callable[[int, str], None]) -> None:
        """Call *callback* (kid, reason) once for every link that goes."""
        self._down.append(callback)

    def generations(self) -> dict[int, int]:
        """The generation of every kernel that there is a link to, by kid."""
        return {kid: peer.generation for kid, peer in self._peers.items() if kid != self.kid}

    async def linked(self, kid: int) -> Peer:
        """The peer *kid*, after connecting if need be; those who want the same link wait for the same
        connect."""
        if kid not in self._peers:
            task = self._connecting.get(kid)
            if task is None:
                task = self._connecting[kid] = asyncio.ensure_future(self._connected(kid))
                task.add_done_callback(lambda _: self._connecting.pop(kid, None))
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                if task.cancelled():
                    raise PeerDied(f"kernel {self.kid} stops") from None
                raise
        peer = self._peers.get(kid)
        if peer is None:
            raise PeerDied(f"there is no link to kernel {kid}")
        return peer

    async def _connected(self, kid: int) -> None:
        await self._connect(kid)

    # Tracing

    def start_trace(self, sink: Sink) -> None:
        """Let *sink* have its half of every record of every link, links to come included; see
        `popnet.message.trace`."""
        self._tracer.start(sink, self._peers.values())

    def stop_trace(self, sink: Sink) -> None:
        """Once the last sink is gone, all links are as they were before the first. Idempotent."""
        self._tracer.stop(sink, self._peers.values())

    # The loop

    def wake(self) -> None:
        """See to it that there is a turn soon."""
        if self._loop is not None and not self._turn_coming:
            self._turn_coming = True
            self._loop.call_soon(self._turn)

    def _rung(self) -> None:
        doorbell.drain(self._bell_fd)
        self.count("rings")
        if not self._turn_coming:
            self._turn()

    def _turn(self) -> None:
        self._turn_coming = False
        self.count("turns")
        peers = list(self._peers.values())
        handled = max([peer.turn() for peer in peers], default=Turn.NONE)
        if handled is Turn.FULL:
            self.count("budget_exhausted")
            self.wake()
        elif (
            (handled and self.looks())
            or self.look()
            or not all(peer.arm() for peer in peers)
            or any(peer.polled for peer in peers)
        ):
            self.wake()

    def poll(self, kid: int, rings: Collection[Ring]) -> None:
        """Look at these rings of the link to *kid* at every turn of the event loop from now on, which then
        never sleeps, instead of being kicked."""
        if kid in self._peers:
            self._peers[kid].polled = frozenset(rings)
            self.wake()

    # What peers ask of their host

    def count(self, name: str) -> None:
        self.counters_total[name] += 1

    def later(self, function: Callable[[], None]) -> object:
        if self._loop is None:
            raise RuntimeError("the endpoint has stopped")
        return self._loop.call_soon_threadsafe(function)

    def lost(self, peer: Peer, text: str, violation: bool) -> None:
        def remove() -> None:
            if self._peers.get(peer.kid) is not peer:
                return
            if violation:
                self.count("violations")
                log.warning("kernel %d: nonsense on its link: %s", peer.kid, text)
            self.remove_link(peer.kid, text)
            if violation:
                self.on_violation(peer.kid, text)

        self.later(remove)

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        assert self._loop is not None
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
