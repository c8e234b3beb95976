"""Kernels in one process for tests of the pump: a socket for a TAP, and links as the test wishes."""

import contextlib
import itertools
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from popnet.core.addresses import mac
from popnet.core.limits import VNET_HEADER_SIZE
from popnet.transport._native import Link, Pump, Window
from popnet.transport.doorbell import create_doorbell
from popnet.transport.window import attach_window, create_window

NO_OFFLOAD = bytes(VNET_HEADER_SIZE)
BROADCAST = b"\xff" * 6
ALIEN = b"\x02\x00\x00\x00\x00\x01"
PATIENCE_S = 60
"""How long a test waits for what must come: far longer than any schedule of a busy machine."""


def ethernet(to: int | bytes, payload: bytes = b"payload", source: int = 200) -> bytes:
    """A frame to a kid or a MAC, without vnet header."""
    return (mac(to) if isinstance(to, int) else to) + mac(source) + b"\x88\xb5" + payload


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what only counters tell. Each look at a pump's counters stops its thread, so do not hurry."""
    deadline = threading.Event()
    timer = threading.Timer(PATIENCE_S, deadline.set)
    timer.start()
    try:
        while not condition():
            assert not deadline.is_set(), "it never came to that"
            time.sleep(0.0002)
    finally:
        timer.cancel()


class Kernel:
    """A guest, its NIC, and links. Without a thread of its own pump, the test plays it by its links."""

    def __init__(
        self,
        kid: int,
        relay: bool = False,
        poll_us: int = 20,
        budget: int = 64,
        mtu: int = 0,
        plain: bool = False,
    ) -> None:
        self.kid = kid
        self.guest, tap = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.guest.settimeout(PATIENCE_S)
        for end in (self.guest, tap):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.bell, self.upcall = create_doorbell(), create_doorbell()
        self.pump = Pump(tap.fileno(), self.bell, self.upcall, kid, relay, budget, poll_us, mtu, plain)
        tap.close()
        self.windows: dict[int, tuple[Window, int]] = {}
        self.links: dict[int, Link] = {}
        self.thread = threading.Thread(target=self.pump.run, name=f"pump {kid}")

    def send(self, to: int | bytes, payload: bytes = b"payload", vnet: bytes = NO_OFFLOAD) -> bytes:
        """The guest sends a frame; returns it as the other guest gets it."""
        record = vnet + ethernet(to, payload, self.kid)
        self.guest.send(record)
        return record

    def receive(self) -> bytes:
        """What the guest gets next, vnet header first."""
        return self.guest.recv(1 << 17)

    def has_frame(self) -> bool:
        return bool(select.select([self.guest], [], [], 0)[0])

    def count(self, name: str) -> int:
        return self.pump.counters()[name]

    def upcalled(self) -> bool:
        try:
            return os.eventfd_read(self.upcall) > 0
        except BlockingIOError:
            return False

    def stop(self) -> None:
        if self.thread.ident is not None:
            self.pump.stop()
            self.thread.join()
        self.guest.close()
        for fd in (self.bell, self.upcall, *(fd for _, fd in self.windows.values())):
            os.close(fd)


class Lab:
    """Kernels by kid. Those in *bare* have no thread, nor attached links: the test plays them."""

    def __init__(
        self,
        kids: range | tuple[int, ...],
        bare: tuple[int, ...] = (),
        poll_us: int = 20,
        mtu: Mapping[int, int] | None = None,
        plain: tuple[int, ...] = (),
    ) -> None:
        mtus = mtu or {}
        self.kernels = {
            kid: Kernel(kid, kid == 0, poll_us, mtu=mtus.get(kid, 0), plain=kid in plain) for kid in kids
        }
        self.bare = bare

    def __getitem__(self, kid: int) -> Kernel:
        return self.kernels[kid]

    def connect(self, one: int, other: int) -> None:
        """Link two kernels, and attach the link to the pumps that run."""
        for kid, peer in ((one, other), (other, one)):
            kernel = self[kid]
            if peer in kernel.windows:
                os.close(kernel.windows[peer][1])
            kernel.windows[peer] = create_window(kid, 1, peer)
        for kid, peer in ((one, other), (other, one)):
            (window, _), (_, fd) = self[kid].windows[peer], self[peer].windows[kid]
            link = Link(window, attach_window(fd), -1, self[peer].bell)
            self[kid].links[peer] = link
            if kid not in self.bare:
                self[kid].pump.attach(peer, link)

    def connect_all(self) -> None:
        for one, other in itertools.combinations(self.kernels, 2):
            self.connect(one, other)


@contextlib.contextmanager
def running(
    kids: range | tuple[int, ...],
    bare: tuple[int, ...] = (),
    poll_us: int = 20,
    mtu: Mapping[int, int] | None = None,
    plain: tuple[int, ...] = (),
) -> Iterator[Lab]:
    """A lab whose pumps run until the end of the block.

    Args:
        mtu: what kernels show their peers, by kid.
        plain: kids whose guests have no offloads.
    """
    lab = Lab(kids, bare, poll_us, mtu, plain)
    try:
        for kid, kernel in lab.kernels.items():
            if kid not in bare:
                kernel.thread.start()
        yield lab
    finally:
        for kernel in lab.kernels.values():
            kernel.stop()
