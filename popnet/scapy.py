"""The NIC of a kernel as a scapy socket: sniff, send and receive with scapy, from the outside.

    from scapy.all import ICMP, IP, Ether
    import popnet.scapy

    popnet.scapy.sniff("k1", filter="icmp", count=2).show()
    popnet.scapy.sendp("k1", Ether() / IP(dst="10.1.2.3") / ICMP())
    answered, unanswered = popnet.scapy.srp("k1", Ether() / ARP(pdst="10.1.2.3"), timeout=2)

This runs in the user's own process, next to scapy, and talks to the machine's control socket; no process of
a machine ever loads scapy, and nothing else in popnet loads this module. scapy is GPL-2.0-only and not part
of popnet (`pip install popnet[scapy]`): what is distributed together with scapy has to follow scapy's
licence.

Theory of operation. Frames come as a pcapng stream. A thread takes it apart and puts each packet, as one
message, into a socket pair, whose other end is what scapy's select and recv see. When scapy is slow the
thread waits, then the stream does, and then the kernel's capture drops frames and counts them: nothing
piles up here. Frames to send go through the service `inject`, opened with the first of them, and are all
sent when the socket is closed.
"""

import socket
import struct
import threading
from pathlib import Path
from typing import Any, Final, cast

from scapy import sendrecv
from scapy.compat import raw
from scapy.layers import inet, inet6, l2
from scapy.packet import Packet
from scapy.supersocket import SuperSocket

from popnet.control import wire
from popnet.control.blocking import BlockingStream, connect
from popnet.control.pcapng_reader import Reader
from popnet.control.rundir import pick_machine, socket_path
from popnet.core.errors import PopnetError

__all__ = ["KernelSocket", "sendp", "sniff", "srp", "srp1"]

_DISSECTORS: Final = (inet, inet6)  # loaded, so that scapy knows what is in a frame

_HEAD: Final = struct.Struct("<QB")  # time in ns, direction

_OUTGOING: Final = 4
"""PACKET_OUTGOING of packet(7), which scapy has in a packet's `direction`."""

_CLOSE_S: Final = 5.0
"""Seconds that the last frames sent may take until they are out of the NIC."""


class KernelSocket(SuperSocket):
    """Frames of the NIC of a kernel, both ways, for `sniff(opened_socket=...)` and `sendp(..., socket=...)`.

    Frames that pass the NIC from its making on are received, those sent here too, until it is closed.
    """

    desc = "frames of a popnet kernel"

    def __init__(
        self,
        kernel: str,
        machine: str | None = None,
        filter: str = "",
        *,
        run_dir: Path | None = None,
        listen: bool = True,
    ) -> None:
        """Args:
            kernel: its name.
            machine: name of the machine; by default $POPNET_MACHINE, or the only one that runs.
            filter: what to receive, in tcpdump's language; empty: everything.
            run_dir: where machines are, if not in the usual run directory.
            listen: False for a socket that only sends.

        Raises NoSuchMachine, NoSuchKernel, Refused (a bad filter).
        """
        self.closed = True  # until it is open, in the eyes of SuperSocket.__del__
        self.iface = f"{kernel}/eth0"
        self.promisc = True
        self._kernel = kernel
        self._address = socket_path(pick_machine(machine, run_dir), run_dir)
        self._error: PopnetError | None = None
        self._inject: BlockingStream | None = None
        self._capture: BlockingStream | None = None
        if listen:
            self._capture = connect(self._address, wire.stream_path(kernel, "capture", {"filter": filter}))
        self.ins, self._feeding = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.outs = None
        self._thread = threading.Thread(target=self._feed, name=f"popnet {self.iface}", daemon=True)
        self._thread.start()
        self.closed = False

    def send(self, x: Packet) -> int:
        """Sends a frame, from its Ethernet header on; how many bytes it has."""
        frame = raw(x)
        if self._inject is None:
            self._inject = connect(self._address, wire.stream_path(self._kernel, "inject", {}))
        self._inject.send(frame)
        return len(frame)

    def recv(self, x: int = 0, **kwargs: Any) -> Packet | None:
        """The next packet. Raises EOFError once the capture has ended, or what it failed with."""
        message = self.ins.recv(_HEAD.size + (1 << 17))
        if not message:
            raise self._error or EOFError
        time_ns, direction = _HEAD.unpack_from(message)
        packet = cast(Packet, l2.Ether(message[_HEAD.size :], **kwargs))
        packet.time = time_ns / 1e9
        packet.direction = _OUTGOING if direction else 0
        return packet

    def close(self) -> None:
        """What was sent is out of the NIC when this returns. Idempotent."""
        if self.closed:
            return
        self.closed = True
        if self._inject is not None:
            _finish(self._inject)
        if self._capture is not None:
            self._capture.close()
        self.ins.close()
        self._thread.join()

    def _feed(self) -> None:
        """The thread: from the capture into the socket pair, until either ends."""
        reader = Reader()
        try:
            while self._capture is not None and (received := self._capture.receive()) is not None:
                for packet in reader.feed(received[1]):
                    self._feeding.send(_HEAD.pack(packet.time_ns, packet.direction) + packet.data)
        except PopnetError as error:
            self._error = error
        except OSError:
            return  # the socket was closed
        finally:
            self._feeding.close()


def sniff(kernel: str, *, machine: str | None = None, filter: str = "", **options: Any) -> Any:
    """scapy's sniff on the NIC of *kernel*; *filter* is applied in the kernel. Options: those of scapy."""
    with KernelSocket(kernel, machine, filter) as opened:
        return sendrecv.sniff(opened_socket={opened: opened.iface}, **options)


def sendp(kernel: str, x: Any, *, machine: str | None = None, **options: Any) -> Any:
    """scapy's sendp out of the NIC of *kernel*, as if the kernel had sent it. Options: those of scapy."""
    with KernelSocket(kernel, machine, listen=False) as opened:
        return sendrecv.sendp(x, socket=opened, **{"verbose": False, **options})


def srp(kernel: str, x: Any, *, machine: str | None = None, filter: str = "", **options: Any) -> Any:
    """scapy's srp through the NIC of *kernel*: (answered, unanswered). Options: those of scapy's."""
    with KernelSocket(kernel, machine, filter) as opened:
        return sendrecv.sndrcv(opened, x, **{"verbose": False, **options})


def srp1(kernel: str, x: Any, *, machine: str | None = None, filter: str = "", **options: Any) -> Any:
    """As `srp`, but the first answer, or None."""
    answered, _ = srp(kernel, x, machine=machine, filter=filter, **options)
    return answered[0][1] if answered else None


def _finish(stream: BlockingStream) -> None:
    """Waits until the service has taken all that was sent, or for _CLOSE_S seconds."""
    limit = threading.Timer(_CLOSE_S, stream.close)
    limit.start()
    try:
        stream.finish()
        while stream.receive() is not None:
            pass
    except PopnetError:
        return  # the kernel is gone, and its NIC too
    finally:
        limit.cancel()
        limit.join()
        stream.close()
