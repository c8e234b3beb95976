"""Types of the native file; the theory of operation is at the top of `native/ring.h` and `native/pump.h`.

Rings are named by their index: 0 high, 1 normal, 2 frames.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias, final

from typing_extensions import Buffer

from popnet.transport.modes import Mode

Payload: TypeAlias = Buffer | tuple[Buffer, Buffer]

WINDOW_SIZE: Final[int]
"""Bytes of a window's memfd."""

RING_SIZES: Final[tuple[int, int, int]]
RING_OFFSETS: Final[tuple[int, int, int]]
"""Where each ring's data starts in the memfd."""

PAYLOAD_MAX: Final[tuple[int, int, int]]
"""Bytes of the largest payload of each ring: half the ring for messages, a frame with its vnet header for
frames."""

WORD_OFFSETS: Final[dict[str, int]]
"""Where each word is in the memfd: `produced_high`, ..., `heartbeat`; 8 bytes each, little endian."""

def look(links: Sequence[Link], spin_us: int, /) -> bool:
    """True as soon as a high or normal ring of any link has data (or its link is closed or violated).

    For loops that serve many links: spins, without the GIL, for the longest window that any of the rings has
    learnt (poll: for *spin_us*), at most *spin_us*. After False, arm the rings and sleep.

    Raises:
        RuntimeError: a thread waits at one of the rings. ValueError: more than 256 links.
    """

def looks(links: Sequence[Link], /) -> bool:
    """Whether `look` would spin at these links, as far as they have learnt."""

def anchor(flags: int, /) -> tuple[int, int]:
    """A child in the new namespaces *flags* (CLONE_NEW…), which shares this process's memory and runs nothing
    of it: (pid, fd). It ends when *fd* is closed; reap it then. One at a time. OSError: the host refuses."""

def fates(config: Buffer, table: Buffer, frames: list[tuple[int, int]], /) -> list[tuple[int, ...]]:
    """What (now_ns, size) frames meet, one after the other: lost, reordered, copies, dropped by the rate, the
    bit that is turned, and when both copies are due. For tests."""

def jitter(wake_ns: int, interval_ns: int, noise_ns: int, threshold_ns: int, /) -> dict[str, Any]:
    """How punctual the caller's CPU is: timers every *interval_ns* for *wake_ns*, then gaps longer than
    *threshold_ns* in *noise_ns* of looking at the clock.

    `wakeups` (how late) and `noise` (the gaps) have count, total_ns, min_ns, max_ns and buckets of (from, to,
    count); `missed` intervals, `looked_ns` for gaps, and whether memory was `locked` meanwhile.
    """

def learn(
    spin: tuple[int, int, int, int, int, int], event: Literal["hit", "missed", "slept", "reset"], ns: int, /
) -> tuple[int, int, int, int, int, int]:
    """One step of what an adaptive ring learns, for tests: (max_ns, window_ns, mean_ns, patience, countdown,
    forgiving) after *event*; *ns* is the gap, for `reset` the new max_ns."""

class Violation(Exception):
    """The peer wrote nonsense into its window; the link does nothing any more."""

class LinkClosed(Exception):
    """This end closed the link."""

@final
class Window:
    """The mapping of one window, each ring twice back to back. The descriptor stays the caller's.

    Raises:
        ValueError: the memfd is no window: wrong size, seals, magic or version (the last three only if
        read-only).
        OSError: it cannot be mapped so.
    """

    def __new__(cls, fd: int, writable: bool) -> Window: ...
    def initialise(self, kid: int, generation: int, peer_kid: int) -> None:
        """Write the header; before the window is shown to anybody."""

    def beat(self) -> None:
        """Count one heartbeat."""

    def words(self) -> dict[str, int]:
        """Every word, by name, as it is now."""

    def poke(self, offset: int, data: Buffer, /) -> None:
        """Write *data* at byte *offset* of the memfd: for tests that play a mad peer. ValueError on a
        read-only window."""

    @property
    def heartbeat(self) -> int: ...
    @property
    def kid(self) -> int: ...
    @property
    def generation(self) -> int: ...
    @property
    def peer_kid(self) -> int: ...

@final
class Link:
    """Both windows of a link, and the doorbells of the peer (eventfds, duplicated; -1 if the peer never
    sleeps).

    Every method but `close` and `counters` raises LinkClosed after `close()`, and Violation once the peer
    misbehaved. While the link is attached to a pump, the frames ring raises ValueError here.

    Each side of a ring (sending, receiving) has one waiter at a time: while a thread is in `receive_wait`,
    `send_wait` or `look`, every other call for that side, from another thread, raises RuntimeError. Waiters
    of one link may share a doorbell; those of different links must not, nor may an event loop read it
    meanwhile.
    """

    def __new__(cls, own: Window, peer: Window, message_bell: int, frame_bell: int) -> Link: ...
    def send(self, ring: int, data: Payload, /, tag: int = 0) -> bool:
        """Send one record and kick the peer if it is armed; False if there is no room. ValueError if it never
        fits. A payload in two pieces becomes one in the ring."""

    def stage(self, ring: int, data: Payload, /, tag: int = 0) -> bool:
        """Write one record, invisible to the peer until the next `publish` (or `send`, `arm_room`, ...);
        False if there is no room. ValueError if it never fits."""

    def publish(self, ring: int, /) -> None:
        """Show the peer all that was staged, at once, and kick it if it is armed."""

    def send_many(self, ring: int, items: Sequence[tuple[int, Payload]], /) -> int:
        """Send (tag, payload) records, published together; returns how many went before the ring was full."""

    def receive(self, ring: int, /) -> tuple[int, bytes] | None:
        """The next record as (tag, payload), or None."""

    def receive_many(self, ring: int, budget: int, /) -> list[tuple[int, bytes]]:
        """At most *budget* records, their space released together. After a bad record the good ones before it
        are returned."""

    def receive_wait(
        self, ring: int, budget: int, timeout_s: float | None, bell_fd: int, /
    ) -> list[tuple[int, bytes]]:
        """At most *budget* records, as soon as there is one; [] after *timeout_s* (None: never; 0: at once).

        Waits as the ring's mode says, without the GIL; a signal's handler runs meanwhile, and may raise.

        Args:
            bell_fd: our doorbell for this ring's kicks, non-blocking; -1: there is none, so it polls.

        Raises:
            LinkClosed, Violation: also if it happens during the wait.
            RuntimeError: another thread waits here already.
        """

    def send_wait(self, ring: int, data: Buffer, tag: int, timeout_s: float | None, bell_fd: int, /) -> bool:
        """Send one record as soon as there is room; False after *timeout_s*. Otherwise as `receive_wait`."""

    def plain(self, ring: int, tag: int = 0, /) -> Plain:
        """*ring* as a pipe of payloads; what is sent there has *tag*."""

    def set_mode(self, ring: int, mode: Mode, spin_max_us: int = 20) -> None:
        """Wait so at *ring* from now on, for data and for room; also those that wait now do.

        Args:
            spin_max_us: the longest an adaptive ring spins; 0: never, as befits less than a core.
        """

    def mode(self, ring: int, /) -> Mode: ...
    def position(self, ring: int, /) -> tuple[int, int]:
        """Bytes (modulo 2^64) that were staged by us, and taken by us. A record is named by where it begins:
        the first just before it is staged is the peer's second just before it takes it."""

    def arm(self, ring: int, /) -> bool:
        """Ask for a kick when there is data. True: sleep now, and after any wake-up look, and arm again
        before sleeping again.

        False: there is data already; the ring is left disarmed.
        """

    def disarm(self, ring: int, /) -> None: ...
    def arm_room(self, ring: int, size: int, /) -> bool:
        """Ask for a kick when half of the ring is free. True: sleep now; False: a payload of *size* bytes has
        room already.

        Like `arm`: try again after any wake-up, and arm again before sleeping again.
        """

    def disarm_room(self, ring: int, /) -> None: ...
    def close(self) -> None:
        """Refuse all further work. The windows are unmapped when the last reference to the link goes."""

    def counters(self) -> dict[str, int]:
        """`violations` (0 or 1), and of each ring (`high_`, `normal_`, `frames_`):

        sent, sent_bytes, received, received_bytes: records and bytes of payload.
        full: a record found no room.
        kicks, kicks_suppressed: publications that kicked the receiver, and that spared it.
        room_kicks: kicks to the sender, for room.
        budget_exhausted: batches that ended by their budget, with more records there.
        armed, armed_for_room: times we went to sleep for data, and for room.
        kicks_spurious: times we were woken and there was nothing.
        spin_hits, spin_misses: spins that found something, and that did not.
        nudges: waiters that were woken by another of this link, or by a call.
        """

    @property
    def closed(self) -> bool: ...
    @property
    def violation(self) -> str | None:
        """What the peer did wrong, or None."""

@final
class Plain:
    """One ring of a link for those who need no tags: fewer objects a record, or none. Made by `Link.plain`;
    the records are those of the link, whose other calls go on working, and so are the errors."""

    def send(self, data: Buffer, /) -> bool:
        """As `Link.send`."""

    def receive(self) -> bytes | None:
        """The payload of the next record, whatever its tag, or None."""

    def send_many(self, payloads: Sequence[Buffer], /) -> int:
        """Send a record for each, published together; returns how many went before the ring was full."""

    def receive_many(self, budget: int, /) -> list[bytes]:
        """The payloads of at most *budget* records, their space released together."""

    def send_packed(self, records: Buffer, size: int, /) -> int:
        """Send a buffer of records of *size* bytes each, back to back, published together; returns how many
        went before the ring was full. ValueError if the buffer is no multiple of *size*, or if one never
        fits."""

    def receive_packed(self, room: Buffer, size: int, /) -> int:
        """Take records of *size* bytes each into the writable buffer *room*, back to back, until it is full,
        the ring is empty, or the next record has another size (`receive` has it); returns how many.
        ValueError as `send_packed`."""

@final
class Pump:
    """The frame pump: moves frames between a TAP with a 12-byte vnet header and the frames rings of links.

    Everything but `run` may be called at any time from any thread, also while the pump runs; a call waits for
    at most one round of the pump, without the GIL. The descriptors are duplicated; the TAP is made
    non-blocking. The TAP interface lives until the pump, too, is gone.

    Args:
        tap_fd: the NIC's kernel end.
        bell_fd: this kernel's own frame doorbell, which peers kick.
        upcall_fd: eventfd, rung when `wanted` or `violations` has news.
        kid: this kernel; its MAC is core.addresses.mac(kid).
        relay: forward the frames of other kernels and flood theirs: the primary's task.
        budget: frames a link, or the TAP, may move before the others get their turn.
        poll_us: the longest an idle pump polls, yielding its core, before it sleeps: spin_max_us of the
            adaptive mode that all start in.
        mtu: of the guest's interface, shown to all peers, who send no larger packets; 0: unknown.
        plain: the guest has no offloads: large frames are cut and checksums finished before it gets them.
    """

    def __new__(
        cls,
        tap_fd: int,
        bell_fd: int,
        upcall_fd: int,
        kid: int,
        relay: bool,
        budget: int = 64,
        poll_us: int = 50,
        mtu: int = 0,
        plain: bool = False,
    ) -> Pump: ...
    def run(self) -> None:
        """The body of the pump's thread: returns after `stop`. RuntimeError if it runs already."""

    def stop(self) -> None:
        """Make `run` return soon; for good: a stopped pump does not run again."""

    def attach(self, kid: int, link: Link, /) -> None:
        """Send frames for *kid* over *link* from now on, instead of what was attached there before.

        Raises:
            ValueError: the link is attached already, here or elsewhere.
            LinkClosed, Violation: the link is not usable any more.
        """

    def detach(self, kid: int, /) -> None:
        """Let go of the link to *kid*; nothing happens if there is none."""

    def wanted(self) -> list[int]:
        """Kids that frames went to by way of the relay for want of a link; each at most once a second."""

    def violations(self) -> list[int]:
        """Kids whose link was retired because of a violation since the last call; detach them."""

    def inject(self, frame: Buffer, to_guest: bool = False) -> bool:
        """Send *frame* (Ethernet header first, 14 to 65550 bytes) as if the guest had; False: queue full.

        With *to_guest*, hand it to the guest as if it had come over a link; no queue, so never False.
        Captures see it either way, and none diverts it.
        """

    def set_mode(self, kid: int | None, mode: Mode, spin_max_us: int = 20) -> None:
        """Wait so for frames of *kid*, attached or not; None: of every kernel, and of the guest.

        An idle pump polls for as long as any of them asks for; see `Link.set_mode`.
        """

    def impair(
        self,
        place: int,
        kid: int,
        config: Buffer | None,
        table: Buffer,
        program: Buffer | None,
        bpf_filter_address: int,
        /,
    ) -> None:
        """Impair frames from now on, instead of what was set before; figures and chances begin anew.

        Args:
            place: 0: those that come from kernel *kid*; 1: all that come; 2: all that leave.
            config: `struct impair_config` of native/impair.h; None: no impairment.
            table: of the jitter's distribution, numbers of 4 bytes; may be empty.
            program: only frames that this filter matches; None: all. bpf_filter_address: of libpcap.
        """

    def impair_down(self, place: int, kid: int, down: bool, /) -> None:
        """Let no frame pass, or let them pass again, impaired or not."""

    def impair_figures(self, place: int, kid: int, /) -> dict[str, int]:
        """What came of it since it was set; {} if nothing ever was."""

    def set_link_up(self, up: bool, /) -> None:
        """Carrier: while down, frames of the guest and for the guest are dropped and counted."""

    def set_mtu(self, mtu: int, /) -> None:
        """The guest's interface has a new MTU. ValueError: it is not 68 to 65535, or 0 for unknown."""

    def counters(self) -> dict[str, int]:
        """By name: `tx_` (from the guest) and `rx_` (to it) frames and bytes, `injected_frames`,
        `injected_to_guest`, `relayed_frames`, `flooded_frames`, every `drop_<reason>`, `ring_full`, `stalls`,
        `slows`, `too_big_answers`, `cut_frames`, `wrong_guesses`, `violations`, `upcalls`, `sleeps`,
        `kicks_spurious`, `spin_hits`, `spin_misses`, `rounds`, and `kicks` and `kicks_suppressed` of all its
        links."""

    def capture_open(
        self,
        size: int,
        snap_length: int,
        filter: Buffer | None,
        bpf_filter_address: int,
        notify_fd: int,
        /,
    ) -> int:
        """Copy frames of this NIC from now on; returns the capture's id.

        Args:
            size: bytes of buffer; at least two frames of *snap_length* are made room for.
            snap_length: bytes kept of each frame; 0: all.
            filter: array of struct bpf_insn that pcap_compile made, or None for every frame.
            bpf_filter_address: of libpcap's bpf_filter(); 0 without a filter.
            notify_fd: eventfd, rung when an empty buffer gets a frame (read until nothing comes), or -1.

        Raises:
            RuntimeError: 16 captures are open already.
        """

    def capture_divert(self, id: int, to_guest: bool, from_guest: bool, /) -> None:
        """From now on frames that this capture accepts end in it, those of the directions given; counted as
        `drop_diverted`, and lost if it has no room. KeyError: no such capture."""

    def capture_whole(self, id: int, whole: bool, /) -> None:
        """Whether it keeps super-frames as guests hand them over, up to 64 KiB; else it cuts them, in its
        copy, into what a wire would carry. It cuts unless told. KeyError: no such capture."""

    def capture_read(self, id: int, budget: int, /) -> list[tuple[int, int, int, bytes]]:
        """At most *budget* frames: (CLOCK_REALTIME ns, 0 to the guest or 1 from it, original length, bytes).

        A checksum that was left to the NIC is completed. KeyError: no such capture; RuntimeError: another
        thread is reading it.
        """

    def capture_blocks(self, id: int, interface_id: int, size: int, /) -> tuple[bytes, int, int]:
        """The same frames as Enhanced Packet Blocks of pcapng: (blocks, how many, time of the last in ns).

        As many whole ones as *size* bytes hold, but at least one if a frame waits; (b"", 0, 0) if none does.
        Reading again after that has seen every frame that had passed before this call.
        """

    def capture_dropped(self, id: int, /) -> int:
        """Frames that found no room so far."""

    def capture_close(self, id: int, /) -> int:
        """End it; returns how many frames found no room."""
