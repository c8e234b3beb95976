"""scapy's own verbs on a NIC or a link: the same names and options, with a kernel instead of an interface."""

from collections.abc import Callable
from typing import Any, cast

from scapy import sendrecv
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from popnet.scapy.frames import OUTGOING, KernelSocket

Change = Callable[[Packet], Packet | bool | None]
"""What a bridge makes of a packet: another one, True (as it is), False or None (nothing)."""


def sniff(
    kernel: str, *, machine: str | None = None, filter: str = "", divert: str = "", **options: Any
) -> Any:
    """scapy's sniff on the NIC of *kernel*; *filter* is applied in the kernel. Options: those of scapy."""
    with KernelSocket(kernel, machine, filter, divert=divert) as opened:
        return sendrecv.sniff(opened_socket={opened: opened.iface}, **options)


def sendp(kernel: str, x: Any, *, machine: str | None = None, direction: str = "out", **options: Any) -> Any:
    """scapy's sendp out of the NIC of *kernel*, as if the kernel had sent it; with *direction* "in", to the
    kernel, as if it came from the wire. Options: those of scapy."""
    with KernelSocket(kernel, machine, listen=False, direction=direction) as opened:
        return sendrecv.sendp(x, socket=opened, **{"verbose": False, **options})


def srp(
    kernel: str,
    x: Any,
    *,
    machine: str | None = None,
    filter: str = "",
    direction: str = "out",
    divert: str = "",
    **options: Any,
) -> Any:
    """scapy's srp through the NIC of *kernel*: (answered, unanswered). Options: those of scapy's."""
    with KernelSocket(kernel, machine, filter, direction=direction, divert=divert) as opened:
        return sendrecv.sndrcv(opened, x, **{"verbose": False, **options})


def srp1(kernel: str, x: Any, **options: Any) -> Any:
    """As `srp`, but the first answer, or None."""
    answered, _ = srp(kernel, x, **options)
    return answered[0][1] if answered else None


class AsyncSniffer(sendrecv.AsyncSniffer):
    """scapy's AsyncSniffer on the NIC of *kernel*: it captures from `start` on, until it ends."""

    def __init__(
        self, kernel: str, *, machine: str | None = None, filter: str = "", divert: str = "", **options: Any
    ) -> None:
        super().__init__(**options)
        self._open = lambda: KernelSocket(kernel, machine, filter, divert=divert)
        self._opened: KernelSocket | None = None

    def start(self) -> None:
        """Frames that pass after this has returned are seen. Raises what KernelSocket does."""
        self._opened = self._open()  # type: ignore[no-untyped-call]
        self.kwargs["opened_socket"] = {self._opened: self._opened.iface}
        super().start()

    def _run(self, *args: Any, **options: Any) -> None:
        try:
            super()._run(*args, **options)
        finally:
            if self._opened is not None:
                self._opened.close()


def answer(
    kernel: str,
    answering: Any,
    *,
    machine: str | None = None,
    filter: str = "",
    divert: str = "",
    **options: Any,
) -> Any:
    """Runs one of scapy's answering machines on the NIC of *kernel*, until the sniffing ends.

    Args:
        answering: an AnsweringMachine; its `is_request` and `make_reply` are used. A reply goes back the way
            that the request came: to the kernel if the kernel asked, else out of it. A reply without an
            Ethernet header gets that of the request, turned round.
        divert: "in", "out" or "both": requests of these directions, as the filter says, reach nobody else.
        options: scapy's, for sniff, such as count and timeout.
    """
    with KernelSocket(kernel, machine, filter, divert=divert) as opened:

        def respond(packet: Packet) -> None:
            reply = answering.make_reply(packet) if answering.is_request(packet) else None
            if reply is None:
                return
            if not isinstance(reply, Ether):
                reply = Ether(src=packet.dst, dst=packet.src) / reply
            opened.send(reply, "in" if packet.direction == OUTGOING else "out")

        return sendrecv.sniff(
            opened_socket={opened: opened.iface}, prn=respond, **{"store": False, **options}
        )


def bridge_and_sniff(
    kernel1: str,
    kernel2: str,
    xfrm12: Change | None = None,
    xfrm21: Change | None = None,
    *,
    machine: str | None = None,
    filter: str = "",
    **options: Any,
) -> Any:
    """scapy's bridge_and_sniff between two kernels of a machine: in the middle of their link.

    What one sends to the other, and *filter* accepts, ends here; what *xfrm12* or *xfrm21* make of it goes on
    to the other. Broadcasts and what the filter does not accept take their usual way. When this ends, so does
    all of it: frames go as ever.
    """
    with _half(kernel1, kernel2, machine, filter) as one, _half(kernel2, kernel1, machine, filter) as other:
        return sendrecv.bridge_and_sniff(
            cast(Any, one), cast(Any, other), cast(Any, xfrm12), cast(Any, xfrm21), **options
        )


def _half(kernel: str, peer: str, machine: str | None, filter: str) -> KernelSocket:
    """What *kernel* sends to *peer* comes in, what is sent goes to *kernel*."""
    from popnet.control.client import Client

    macs = {row["name"]: row["mac"] for row in Client(machine).get("/v1/kernels")}
    only = f"ether dst {macs[peer]}" if peer in macs else ""
    both = " and ".join(f"({part})" for part in (only, filter) if part)
    return KernelSocket(kernel, machine, both, direction="in", divert="out", receive="out")
