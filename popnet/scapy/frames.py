"""The NIC of a kernel, or a link between two, as a scapy socket.

Theory of operation. Frames come as a pcapng stream. A thread takes it apart and puts each packet, as one
message, into a socket pair, whose other end is what scapy's select and recv see. When scapy is slow the
thread waits, then the stream does, and then the kernel's capture drops frames and counts them: nothing
piles up here. Frames to send go through the service `inject`, a stream for each way, opened with the first of
them, and are all sent when the socket is closed.
"""

import socket
import struct
import threading
from pathlib import Path
from typing import Any, Final, cast

from scapy.compat import raw
from scapy.layers import inet, inet6, l2
from scapy.packet import Packet
from scapy.supersocket import SuperSocket

from popnet.control import wire
from popnet.control.blocking import BlockingStream, connect
from popnet.control.capturetargets import ANY, Target, parse_targets
from popnet.control.client import Client
from popnet.control.pcapng_reader import Reader
from popnet.core.errors import PopnetError, Refused

_DISSECTORS: Final = (inet, inet6)  # loaded, so that scapy knows what is in a frame

_HEAD: Final = struct.Struct("<QB")  # time in ns, direction

OUTGOING: Final = 4
"""PACKET_OUTGOING of packet(7), which scapy has in a packet's `direction`."""

_CLOSE_S: Final = 5.0
"""Seconds that the last frames sent may take until they are out of the NIC."""


class KernelSocket(SuperSocket):
    """Frames of a NIC or a link, both ways, for `sniff(opened_socket=...)` and `sendp(..., socket=...)`.

    Frames that pass from its making on are received, those sent here too, until it is closed.

    Attributes:
        iface: what it shows: `k1/eth0` or `k1-k2`.
        mac, ipv4: of the kernel, as text.
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
        direction: str = "out",
        divert: str = "",
        receive: str = "both",
    ) -> None:
        """Args:
            kernel: its name; or `k1-k2`, the link of two. What is sent on a link leaves the kernel whose
                address is its source.
            machine: name of the machine; by default $POPNET_MACHINE, or the only one that runs.
            filter: what to receive, in tcpdump's language; empty: everything.
            run_dir: where machines are, if not in the usual run directory.
            listen: False for a socket that only sends.
            direction: of what is sent: "out", as if the kernel had; "in", to it, as if it came from the wire.
            divert: "in", "out" or "both": such frames that the filter accepts end here, and neither the
                kernel nor the wire gets them. What is sent here is never diverted.
            receive: "in", "out" or "both": the way of the frames to receive.

        Raises NoSuchMachine, NoSuchKernel, Refused (a bad filter).
        """
        self.closed = True  # until it is open, in the eyes of SuperSocket.__del__
        _check("direction", direction, ("in", "out"))
        _check("divert", divert, ("", "in", "out", "both"))
        _check("receive", receive, ("in", "out", "both"))
        client = Client(machine, run_dir=run_dir)
        self._address = client.socket
        self._kernels = {row["name"]: row for row in client.get("/v1/kernels")}
        self._target = _one_target(kernel, list(self._kernels))
        self.iface = self._target.interface
        self.mac: str = self._kernels[self._target.kernel]["mac"]
        self.ipv4: str = self._kernels[self._target.kernel]["ipv4"]
        self.promisc = True
        self.outs = None
        self._direction = direction
        self._wanted = {"in": (0,), "out": (1,), "both": (0, 1)}[receive]
        self._error: PopnetError | None = None
        self._injects: dict[tuple[str, str], BlockingStream] = {}
        self._capture: BlockingStream | None = None
        if listen:
            self._capture = self._open_capture(filter, divert)
        self.ins, self._feeding = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._thread = threading.Thread(target=self._feed, name=f"popnet {self.iface}", daemon=True)
        self._thread.start()
        self.closed = False

    def send(self, x: Packet, direction: str = "") -> int:
        """Sends a frame, from its Ethernet header on; how many bytes it has.

        Args:
            direction: as at its making, for this frame.
        """
        frame = raw(x)
        inject = self._inject(self._sender(frame), direction or self._direction)
        inject.send(frame)
        return len(frame)

    def recv(self, x: int = 0, **kwargs: Any) -> Packet | None:
        """The next packet. Raises EOFError once the capture has ended, or what it failed with."""
        message = self.ins.recv(_HEAD.size + (1 << 17))
        if not message:
            raise self._error or EOFError
        time_ns, direction = _HEAD.unpack_from(message)
        packet = cast(Packet, l2.Ether(message[_HEAD.size :], **kwargs))
        packet.time = time_ns / 1e9
        packet.direction = OUTGOING if direction else 0
        return packet

    def close(self) -> None:
        """What was sent is out of the NIC when this returns. Idempotent."""
        if self.closed:
            return
        self.closed = True
        for inject in self._injects.values():
            _finish(inject)
        if self._capture is not None:
            self._capture.close()
        self.ins.close()
        self._thread.join()

    def _open_capture(self, filter: str, divert: str) -> BlockingStream:
        params: dict[str, Any] = {"filter": filter}
        if self._target.peer is not None:
            params["peer"] = self._kernels[self._target.peer]["kid"]
        if divert:
            params["divert"] = divert
        return connect(self._address, wire.stream_path(self._target.kernel, "capture", params))

    def _sender(self, frame: bytes) -> str:
        """The kernel that *frame* passes through: on a link, the one whose address it comes from."""
        peer = self._target.peer
        from_peer = peer is not None and frame[6:12].hex(":") == self._kernels[peer]["mac"]
        return peer if peer is not None and from_peer else self._target.kernel

    def _inject(self, kernel: str, direction: str) -> BlockingStream:
        if (kernel, direction) not in self._injects:
            path = wire.stream_path(kernel, "inject", {"direction": direction})
            self._injects[kernel, direction] = connect(self._address, path)
        return self._injects[kernel, direction]

    def _feed(self) -> None:
        """The thread: from the capture into the socket pair, until either ends."""
        reader = Reader()
        try:
            while self._capture is not None and (received := self._capture.receive()) is not None:
                for packet in reader.feed(received[1]):
                    if packet.direction in self._wanted:
                        self._feeding.send(_HEAD.pack(packet.time_ns, packet.direction) + packet.data)
        except PopnetError as error:
            self._error = error
        except OSError:
            return  # the socket was closed
        finally:
            self._feeding.close()


def _one_target(text: str, kernels: list[str]) -> Target:
    if text == ANY or "," in text:
        raise Refused(f"{text!r} is not one NIC or link", "Open a socket for each.")
    return parse_targets(text, kernels)[0]


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise Refused(f"{name} is {', '.join(filter(None, allowed))}; got {value!r}")


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
