"""One kernel stripped to its NIC: a process with its own network namespace, a TAP and a frame pump.

Run as `python -m tests.live.pump_host FD`, FD being its end of a handover socket. The other end calls its
methods by name, one at a time: `{"call": name, "args": [...]}` and descriptors -> `{"result": ...}` or
`{"error": text}` and descriptors. The namespace, and all in it, dies with the process; the process dies with
its parent.
"""

import base64
import ctypes
import fcntl
import hashlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from popnet.core.addresses import ipv4, mac, mac_text
from popnet.core.limits import BUDGET, POLL_US, VNET_HEADER_SIZE
from popnet.transport._native import RING_OFFSETS, WORD_OFFSETS, Link, Pump, Window
from popnet.transport.doorbell import create_doorbell
from popnet.transport.handover import receive_packet, send_packet
from popnet.transport.window import attach_window, create_window
from tests.transport.pcap import compile_filter

CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
PR_SET_PDEATHSIG = 1
TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
OFFLOADS = 0x01 | 0x02 | 0x04 | 0x08, 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40
"""TUN_F_CSUM, TSO4, TSO6, TSO_ECN; and the same with USO4, USO6, which Linux has since 6.2."""

FRAMES = 2

libc = ctypes.CDLL(None, use_errno=True)


def frame_of(length: int, seed: int, to_kid: int) -> bytes:
    """A frame of *length* bytes that no protocol stack understands (EtherType 88b5, local experimental)."""
    header = mac(to_kid) + mac(255) + b"\x88\xb5"
    return header + random.Random(seed).randbytes(length - len(header))


def digest(frame: bytes) -> str:
    return hashlib.sha256(frame).hexdigest()


def enter_namespace() -> None:
    """Be alone in a new network namespace; without root, also in a user namespace, as its root."""
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWNET | (CLONE_NEWUSER if user else 0)):
        raise OSError(ctypes.get_errno(), "unshare")
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def open_tap(name: str, offload: bool = True) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_SIZE))
    if not offload:
        return fd
    try:
        fcntl.ioctl(fd, TUNSETOFFLOAD, OFFLOADS[1])
    except OSError:
        fcntl.ioctl(fd, TUNSETOFFLOAD, OFFLOADS[0])
    return fd


class Host:
    def __init__(self) -> None:
        self.windows: dict[int, Window] = {}
        self.links: dict[int, Link] = {}
        self.attached: set[int] = set()

    def start(
        self,
        kid: int,
        relay: bool,
        poll_us: int = POLL_US,
        mtu: int = 0,
        offload: bool = True,
        held: bool = False,
    ) -> tuple[None, list[int]]:
        """Build the namespace with a NIC `p0`, run the pump, unless it is *held*; hands out both doorbells.

        Without an MTU the interface has 1500, and the pump does not know: peers may send what they like.
        """
        self.kid = kid
        enter_namespace()
        self.tap = open_tap("p0", offload)
        self.message_bell, self.frame_bell, self.upcall = (create_doorbell() for _ in range(3))
        self.pump = Pump(
            self.tap, self.frame_bell, self.upcall, kid, relay, BUDGET, poll_us, mtu, not offload
        )
        self.thread = threading.Thread(target=self.pump.run, name="pump")
        if not held:
            self.go()
        for command in (
            "link set lo up",
            f"link set p0 address {mac_text(kid)} mtu {mtu or 1500}",
            f"addr add {ipv4(kid)}/24 dev p0",
            "link set p0 up",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        return None, [self.message_bell, self.frame_bell]

    def go(self) -> None:
        self.thread.start()

    def neighbour(self, kid: int) -> None:
        """Know the MAC of *kid* without asking for it."""
        command = f"neigh replace {ipv4(kid)} lladdr {mac_text(kid)} dev p0"
        subprocess.run(["ip", *command.split()], check=True)

    def make_window(self, peer: int, generation: int = 1) -> tuple[None, list[int]]:
        self.windows[peer], fd = create_window(self.kid, generation, peer)
        return None, [fd]

    def join(self, peer: int, *, fds: list[int]) -> None:
        """Make the link to *peer* out of its window and doorbells, and attach it to the pump."""
        self.links[peer] = Link(self.windows[peer], attach_window(fds[0]), fds[1], fds[2])
        self.pump.attach(peer, self.links[peer])
        self.attached.add(peer)

    def leave(self, peer: int) -> None:
        self.pump.detach(peer)
        self.links.pop(peer).close()
        del self.windows[peer]

    def inject(self, frames: list[tuple[int, int]], to_kid: int) -> int:
        """Inject test frames (length, seed), waiting for room in the queue."""
        for length, seed in frames:
            frame = frame_of(length, seed, to_kid)
            while not self.pump.inject(frame):
                time.sleep(0)
        return len(frames)

    def inject_raw(self, frame: str) -> bool:
        return self.pump.inject(bytes.fromhex(frame))

    def forge(self, peer: int, records: list[str]) -> None:
        """Be a mad peer: with the pump stopped, put *records* (hex) into our ring for *peer*, and publish."""
        at = int(self.windows[peer].words()["produced_frames"])
        for record in map(bytes.fromhex, records):
            self.windows[peer].poke(RING_OFFSETS[FRAMES] + at, struct.pack("=II", len(record), 0) + record)
            at += -(-(len(record) + 8) // 64) * 64
        self.windows[peer].poke(WORD_OFFSETS["produced_frames"], at.to_bytes(8, "little"))

    def backlog(self, peer: int, size: int, count: int) -> None:
        """With the pump stopped, put *count* frames of *size* bytes for *peer* into our ring."""
        frame = mac(peer) + mac(self.kid) + b"\x88\xb5" + bytes(size - 14)
        self.forge(peer, [(bytes(VNET_HEADER_SIZE) + frame).hex()] * count)

    def sniff(self) -> None:
        """Keep what comes to the guest's interface, as a program inside sees it."""
        self.sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        self.sniffer.bind(("p0", 0))
        self.sniffer.setblocking(False)

    def sniffed(self) -> dict[str, Any]:
        """The IPv4 TCP segments that came to us: how many, the longest, and some of them in hex."""
        segments = []
        with self.sniffer:
            while True:
                try:
                    data, address = self.sniffer.recvfrom(1 << 17)
                except BlockingIOError:
                    break
                if address[2] == socket.PACKET_HOST and data[12:14] == b"\x08\x00" and data[23] == 6:
                    segments.append(data)
        some = segments[:: len(segments) // 15 + 1]
        return {"count": len(segments), "longest": max(map(len, segments)), "some": [x.hex() for x in some]}

    def send_raw(self, frame: str) -> None:
        """As a program of the guest that makes its own frames."""
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind(("p0", 0))
            sock.send(bytes.fromhex(frame))

    def snmp(self, protocol: str, name: str) -> int:
        """A counter of the namespace's own stack, as in /proc/net/snmp."""
        lines = Path("/proc/self/net/snmp").read_text().splitlines()
        names, values = (line.split() for line in lines if line.startswith(protocol + ":"))
        return int(values[names.index(name)])

    def receive_udp(self, port: int, group: str = "") -> None:
        self.receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.receiver.bind(("0.0.0.0", port))
        self.receiver.settimeout(60)
        if group:
            member = socket.inet_aton(group) + socket.inet_aton(str(ipv4(self.kid)))
            self.receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)

    def received_udp(self) -> str:
        return digest(self.receiver.recv(1 << 17))

    def send_udp(self, address: str, port: int, size: int) -> str:
        """Send one datagram; returns what it was."""
        data = random.Random(size).randbytes(size)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(str(ipv4(self.kid))))
            sock.sendto(data, (address, port))
        return digest(data)

    def capture_open(self, size: int, snap_length: int, text: str | None) -> int:
        code, address = compile_filter(text) if text is not None else (None, 0)
        self.notify = create_doorbell()
        return self.pump.capture_open(size, snap_length, code, address, self.notify)

    def capture_wait(self, capture: int, count: int, timeout_s: float) -> list[tuple[int, int, int, str]]:
        """(direction, original length, length, digest) of the next *count* frames, or fewer in time."""
        frames: list[tuple[int, int, int, str]] = []
        deadline = time.monotonic() + timeout_s
        while len(frames) < count and time.monotonic() < deadline:
            some = self.pump.capture_read(capture, count - len(frames))
            frames += [(way, length, len(data), digest(data)) for _, way, length, data in some]
            if not some:
                time.sleep(0.001)
        return frames

    def capture_raw(self, capture: int, budget: int) -> list[tuple[int, int, int, str]]:
        some = self.pump.capture_read(capture, budget)
        return [(ns, way, length, base64.b64encode(data).decode()) for ns, way, length, data in some]

    def capture_dropped(self, capture: int) -> int:
        return self.pump.capture_dropped(capture)

    def capture_close(self, capture: int) -> int:
        return self.pump.capture_close(capture)

    def set_link_up(self, up: bool) -> None:
        self.pump.set_link_up(up)

    def wanted(self) -> list[int]:
        return self.pump.wanted()

    def violations(self) -> list[int]:
        return self.pump.violations()

    def violation(self, peer: int) -> str | None:
        return self.links[peer].violation

    def counters(self) -> dict[str, int]:
        return self.pump.counters()

    def poke(self, peer: int, offset: int, data: str) -> None:
        """Be a mad peer: write *data* (hex) into our own window for *peer*."""
        self.windows[peer].poke(offset, bytes.fromhex(data))

    def run(self, argv: list[str], timeout_s: float = 30) -> dict[str, Any]:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False)
        return {"status": done.returncode, "output": done.stdout[-60000:], "errors": done.stderr[-2000:]}

    def serve_tcp(self, port: int) -> None:
        """Take one connection, read it to its end, and answer with the digest of what came."""
        listener = socket.create_server(("0.0.0.0", port))

        def serve() -> None:
            with listener, listener.accept()[0] as connection:
                seen = hashlib.sha256()
                while data := connection.recv(1 << 20):
                    seen.update(data)
                connection.sendall(seen.hexdigest().encode())

        threading.Thread(target=serve, daemon=True).start()

    def send_tcp(self, address: str, port: int, size: int) -> bool:
        """Send *size* bytes over one connection: did they arrive as they were?"""
        data = random.Random(size).randbytes(size)
        with socket.create_connection((address, port), timeout=30) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(100), b""))
        return answer.decode() == digest(data)

    def spawn(self, argv: list[str]) -> int:
        """Start *argv* in the namespace; it dies with us."""
        process = subprocess.Popen(
            argv,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
        )
        self.spawned = process
        return process.pid

    def stop(self) -> None:
        self.pump.stop()
        self.thread.join()


def serve(sock: socket.socket) -> None:
    host = Host()
    while packet := receive_packet(sock):
        message, fds = packet
        try:
            extra = {"fds": fds} if fds else {}
            result = getattr(host, message["call"])(*message["args"], **extra)
        except Exception as error:  # noqa: BLE001 (the caller raises it)
            send_packet(sock, {"error": f"{type(error).__name__}: {error}"})
            continue
        value, handed = result if isinstance(result, tuple) else (result, [])
        send_packet(sock, {"result": value}, handed)


if __name__ == "__main__":
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)
