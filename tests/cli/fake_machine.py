"""A machine without kernels: the real control server over a Service that runs programs of this host.

Run as a program, `python -m tests.cli.fake_machine RUN_DIR NAME`: prints `ready` once it serves, ends on
SIGTERM or `down`. `exec` runs real programs, so bytes, statuses and signals are real; terminals echo what
they are told.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from popnet.control.server import serve
from popnet.core.errors import (
    IllegalState,
    NoSuchKernel,
    NoSuchService,
    NoSuchTerminal,
    PeerDied,
    PopnetError,
    Refused,
    StreamClosed,
)
from popnet.kernel.trace import TraceRequest
from popnet.message import codec
from popnet.message.kinds import Kind
from popnet.message.stream import Stream, pair
from popnet.message.tracehalf import Received, Sent, pack
from popnet.net import pcapng
from popnet.tty.hub import Terminal
from tests.control.fake_links import FakeLinks

TIMELINE = [
    {"step": "partition", "start_ms": 0.0, "took_ms": 2.0},
    {"step": "namespaces", "start_ms": 2.0, "took_ms": 8.0},
    {"step": "init", "start_ms": 10.0, "took_ms": 30.0},
]

EVENTS = [
    {"seq": 1, "time_s": 0.0, "kind": "machine-up", "kernel": None, "kid": None, "text": "4 CPUs"},
    {
        "seq": 2,
        "time_s": 1.5,
        "kind": "kernel-online",
        "kernel": "k1",
        "kid": 1,
        "generation": 1,
        "text": "40 ms",
    },
]

COUNTERS = {"kernels": {"k1": {"nic": {"tx_frames": 12, "drop_no_link": 0}}}}

LOG = [
    {"seq": 1, "time_s": 0.0, "level": "info", "text": "popnet kernel k1"},
    {"seq": 2, "time_s": 0.04125, "level": "error", "text": "no such device"},
]

PING = bytes.fromhex(
    "02706f706e02" "02706f706e01" "0800"
    "4500001c000100004001629d0a0102020a010203"
    "0800f7fd00010001"
)  # fmt: skip
"""An ICMP echo request from 10.1.2.2 to 10.1.2.3 in an Ethernet frame."""


def kernel_row(kid: int, name: str, state: str = "online") -> dict[str, Any]:
    return {
        "kid": kid,
        "name": name,
        "image": "full",
        "state": state,
        "generation": 1,
        "cpus": "0-1",
        "memory_bytes": 512 << 20,
        "memory_used_bytes": 14 << 20,
        "ipv4": "127.0.0.1" if name == "local" else f"10.1.2.{kid + 1}",
        "ipv6": f"fd70:6f70:6e65:1::{kid + 1:x}",
        "mac": f"02:70:6f:70:6e:{kid:02x}",
        "mtu": 1500,
        "ttys": 2,
        "pid": 1000 + kid,
        "uptime_s": 130.0,
        "reason": None,
    }


class FakeMachine(FakeLinks):
    """The Service. Kernels: primary, k1, k2 (offline), and local, whose address is this host's loopback."""

    def __init__(self, run_dir: Path, name: str) -> None:
        self.name = name
        self.run_dir = run_dir
        self.rows = {
            row["name"]: row
            for row in (
                kernel_row(0, "primary"),
                kernel_row(1, "k1"),
                kernel_row(2, "k2", "offline"),
                kernel_row(3, "local"),
            )
        }
        super().__init__(list(self.rows))
        self.ended = asyncio.Event()
        self.terminals = {(kernel, n): Terminal(kernel) for kernel in self.rows for n in range(2)}
        self.tasks: set[asyncio.Task[None]] = set()
        for (kernel, n), terminal in self.terminals.items():
            hub_end, kernel_end = pair("tty", {"n": n})
            self.start(terminal.run(hub_end))
            self.start(echoing_terminal(kernel_end, f"{kernel} tty{n}"))

    def start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def row(self, name: str) -> dict[str, Any]:
        if name not in self.rows:
            raise NoSuchKernel(f"no kernel {name!r} in machine {self.name!r}", "did you mean 'k1'?")
        return self.rows[name]

    def machine(self) -> dict[str, Any]:
        return {"name": self.name, "pid": os.getpid(), "state": "online", "subnet": "10.1.2.0/24"}

    def kernels(self) -> list[dict[str, Any]]:
        return list(self.rows.values())

    async def boot(self, name: str) -> dict[str, Any]:
        row = self.row(name)
        if row["state"] == "online":
            raise IllegalState(f"kernel {name!r} is online", f"popnet kill {name} stops it")
        row.update(state="online", generation=row["generation"] + 1)
        return {**row, "timeline": TIMELINE}

    async def kill(self, name: str) -> dict[str, Any]:
        self.row(name).update(state="offline")
        return self.row(name)

    def load(self, name: str, image: str | None, append: str | None) -> dict[str, Any]:
        row = self.rows.setdefault(
            name, {**self.rows["k1"], "name": name, "state": "offline", "generation": 0}
        )
        if row["state"] != "offline":
            raise IllegalState(f"cannot load kernel {name}: it is {row['state']}", f"popnet kill {name}")
        row.update(state="loaded", image=image or row["image"], reason=append or "")
        return row

    def unload(self, name: str) -> dict[str, Any]:
        self.row(name).update(state="offline", reason="")
        return self.row(name)

    async def update(self, name: str, request: dict[str, Any]) -> list[dict[str, Any]]:
        """What was asked for shows as its CPUs."""
        return [{**kernel_row(1, name), "cpus": "&".join(f"{key}={value}" for key, value in request.items())}]

    async def plan(self, request: dict[str, Any]) -> dict[str, Any]:
        """One step, unless the text says that there is none; the token is the text's length."""
        step = {"step": "boot", "what": "k3", "why": "it is new", "text": "boot k3: it is new"}
        steps = [] if "done already" in request["text"] else [step]
        return {"steps": steps, "token": f"{len(request['text'])}-0"}

    async def apply(self, request: dict[str, Any]) -> dict[str, Any]:
        plan = await self.plan(request)
        if request["token"] != plan["token"]:
            raise Refused("the file has changed since the plan was made", "Look at the new plan.")
        return plan

    async def reboot(self, name: str) -> dict[str, Any]:
        await self.kill(name)
        return await self.boot(name)

    async def panic(self, name: str) -> dict[str, Any]:
        self.row(name).update(state="failed", reason="panic was asked for")
        return self.row(name)

    def hang(self, name: str) -> dict[str, Any]:
        return self.row(name)

    async def down(self) -> None:
        self.ended.set()

    def timeline(self, name: str) -> list[dict[str, Any]]:
        self.row(name)
        return TIMELINE

    async def events(self, since: int, follow: bool) -> AsyncIterator[dict[str, Any]]:
        for event in EVENTS:
            if event["seq"] > since:  # type: ignore[operator]
                yield event
        if follow:
            await self.ended.wait()

    async def log(self, name: str, follow: bool, previous: bool = False) -> AsyncIterator[dict[str, Any]]:
        for record in LOG:
            yield record
        if follow:
            await self.ended.wait()

    async def open(self, name: str, service: str, params: dict[str, Any]) -> Stream:
        self.row(name)
        match service:
            case "exec":
                server, process = run_exec, await start_exec(params)
                client_end, kernel_end = pair(service, params)
                self.start(server(kernel_end, *process))
                return client_end
            case "dial":
                try:
                    reader, writer = await asyncio.open_connection(params["host"], params["port"])
                except OSError as error:
                    raise Refused(f"{params['host']} port {params['port']}: {error.strerror}") from None
                client_end, kernel_end = pair(service, params)
                self.start(run_dial(kernel_end, reader, writer))
                return client_end
            case "capture":
                if "bogus" in params.get("filter", ""):
                    raise Refused("filter 'bogus': syntax error")
                client_end, kernel_end = pair(service, params)
                self.start(run_capture(kernel_end, params))
                return client_end
            case "modes":
                client_end, kernel_end = pair(service, params)
                self.start(tell_modes(kernel_end, params))
                return client_end
            case "trace":
                client_end, kernel_end = pair(service, params)
                self.start(run_trace(kernel_end, name, self.rows[name]["kid"]))
                return client_end
        raise NoSuchService(f"kernel {name!r} has no service {service!r}")

    def terminal(self, name: str, n: int) -> Terminal:
        self.row(name)
        if (name, n) not in self.terminals:
            raise NoSuchTerminal(f"kernel {name!r} has no tty{n}", "it has tty0 and tty1")
        return self.terminals[name, n]

    def ssh_config(self) -> str:
        return "Host k1\n  HostName 10.1.2.2\n"

    def services(self) -> list[dict[str, Any]]:
        return [{"service": "exec", "kernel": "k1", "kid": 1, "generation": 1, "version": 1, "port": 2}]

    async def counters(self) -> dict[str, Any]:
        return COUNTERS


async def echoing_terminal(stream: Stream, where: str) -> None:
    """A program on a terminal: greets, echoes keys in brackets, tells its size; `flood` writes a megabyte."""
    await stream.send(f"hello from {where}\r\n".encode())
    while (received := await stream.receive()) is not None:
        channel, data = received
        if channel == 2:
            fields = json.loads(data)
            if "resize" in fields:
                await stream.send("(size {}x{})\r\n".format(*fields["resize"]).encode())
        elif data.strip() == b"flood":
            await stream.send(b"x" * (1 << 20) + b"\r\nflooded\r\n")
        else:
            await stream.send(b"[" + data + b"]")


async def tell_modes(stream: Stream, params: dict[str, Any]) -> None:
    """A kernel with links to 0 and 7: what was asked for, at what was asked for; else adaptive."""
    asked = {(str(peer), ring): params["mode"] for peer, ring in WHERE if _asked(params, peer, ring)}
    await stream.close(
        {
            "modes": {
                str(peer): {ring: asked.get((str(peer), ring), "adaptive") for p, ring in WHERE if p == peer}
                for peer, _ in WHERE
            }
        }
    )


WHERE = [(peer, ring) for peer in (0, 7) for ring in ("high", "normal", "frames")]


def _asked(params: dict[str, Any], peer: int, ring: str) -> bool:
    return "mode" in params and params.get("peer", peer) == peer and params.get("ring", ring) == ring


async def start_exec(params: dict[str, Any]) -> tuple[asyncio.subprocess.Process, int | None]:
    """Starts the program of *params*; with a terminal, returns the master end of its pty too."""
    env = {**os.environ, **params.get("env", {})}
    master = slave = None
    if params.get("tty"):
        master, slave = pty.openpty()
        set_size(master, params.get("cols", 80), params.get("rows", 24))
    kind: Any = slave if slave is not None else subprocess.PIPE

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    try:
        process = await asyncio.create_subprocess_exec(
            *params["argv"],
            stdin=kind,
            stdout=kind,
            stderr=kind,
            env=env,
            cwd=params.get("cwd"),
            preexec_fn=take_terminal if slave is not None else os.setsid,
        )
    except OSError as error:
        refusal = Refused(f"{params['argv'][0]}: {error.strerror}")
        refusal.code = "not-found" if isinstance(error, FileNotFoundError) else "not-executable"
        raise refusal from None
    finally:
        if slave is not None:
            os.close(slave)
    return process, master


async def run_exec(stream: Stream, process: asyncio.subprocess.Process, master: int | None) -> None:
    loop = asyncio.get_running_loop()
    outputs: list[tuple[int, asyncio.StreamReader]] = []
    if master is None:
        assert process.stdout and process.stderr
        outputs = [(0, process.stdout), (1, process.stderr)]
    else:
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(master), "rb", 0)
        )
        outputs = [(0, reader)]
    draining = [asyncio.ensure_future(drain(stream, reader, channel)) for channel, reader in outputs]
    feeding = asyncio.ensure_future(feed(stream, process, master))
    status = await process.wait()
    await asyncio.gather(*draining)
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)
    await stream.close({"status": status} if status >= 0 else {"signal": -status})
    if master is not None:
        os.close(master)


async def drain(stream: Stream, reader: asyncio.StreamReader, channel: int) -> None:
    with contextlib.suppress(OSError):  # EIO: the last slave of a pty was closed
        while data := await reader.read(1 << 16):
            await stream.send(data, channel)


async def feed(stream: Stream, process: asyncio.subprocess.Process, master: int | None) -> None:
    while (received := await stream.receive()) is not None:
        channel, data = received
        if channel == 0 and master is not None:
            os.write(master, data)
        elif channel == 0:
            assert process.stdin
            process.stdin.write(data)
            await process.stdin.drain()
        else:
            fields = json.loads(data)
            if "signal" in fields:
                os.killpg(process.pid, fields["signal"])
            elif "resize" in fields and master is not None:
                set_size(master, *fields["resize"])
            elif "eof" in fields and process.stdin:
                process.stdin.close()


def set_size(master: int, cols: int, rows: int) -> None:
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


async def run_dial(stream: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async def upward() -> None:
        while (received := await stream.receive()) is not None:
            writer.write(received[1])
            await writer.drain()
        writer.write_eof()

    async def downward() -> None:
        while data := await reader.read(1 << 16):
            await stream.send(data)
        await stream.close({})

    try:
        await asyncio.gather(upward(), downward())
    except PopnetError:
        return  # the client is gone
    finally:
        writer.close()


async def run_capture(stream: Stream, params: dict[str, Any]) -> None:
    """Sends the head, then five frames one by one; with the filter `endless`, more until the peer closes."""
    snap = params.get("snap_length", 65_535)
    await stream.send(pcapng.section_header() + pcapng.interface("k1/eth0", snap, params.get("filter", "")))
    count = 0

    async def send_frames(number: int) -> None:
        nonlocal count
        await stream.send(
            pcapng.packets(
                [
                    (10**9 * (count + i), (count + i) % 2, len(PING), PING[: snap or None])
                    for i in range(number)
                ]
            )
        )
        count += number

    async def endless() -> None:
        while params.get("filter") == "endless":
            await send_frames(100)

    for _ in range(5):
        await send_frames(1)
    flooding = asyncio.ensure_future(endless())
    with contextlib.suppress(StreamClosed):  # the client is gone
        while await stream.receive() is not None:
            continue
    flooding.cancel()
    await asyncio.gather(flooding, return_exceptions=True)
    await stream.close({"captured": count, "dropped": 2})


TRACE_START_NS = time.monotonic_ns()


def trace_halves() -> dict[str, list[Sent | Received]]:
    """What the primary and k1 see of an OPEN, a DATA back, and of a message to k2 of a user's kind."""
    start = TRACE_START_NS

    def message(kind: int, body: bytes) -> tuple[int, int, bytes]:
        return kind, 8 + len(body), codec.payload_of(11, 1, body)

    opening, data = message(Kind.OPEN, b'{"service":"exec"}'), message(Kind.DATA | 1 << 16, b"hello\n")
    users = message(0x8000, b"x" * 100)
    return {
        "primary": [
            Sent(1, 1, 1, 7, *opening, start, start, start + 9_000, True),
            Received(1, 1, 1, 4, *data, start + 1_000, start + 70_000, start + 71_000, start + 80_500),
            Sent(0, 2, 3, 0, *users, 0, start + 90_000, start + 91_000, False),
        ],
        "k1": [
            Received(1, 0, 1, 7, *opening, start + 40_000, start + 42_000, start + 43_000, start + 50_000),
            Sent(1, 0, 1, 4, *data, start + 51_000, start + 60_000, start + 61_000, False),
        ],
    }


async def run_trace(stream: Stream, name: str, kid: int) -> None:
    """Sends what it saw, and says that it lost two; with the snap length 13 (in all) it dies then."""
    request = TraceRequest.parse(stream.params)
    about = {"kid": kid, "generation": 1, "wall_offset_ns": 0}
    await stream.send(json.dumps(about).encode(), 2)
    halves = [half for half in trace_halves().get(name, []) if request.wants(half, kid)]
    for half in halves:
        await stream.send(pack(replace(half, payload=half.payload[: request.snap_length])))
    if halves:
        await stream.send(json.dumps({"lost": 1}).encode(), 2)
    if name == "k1" and request.snap_length == 13:
        stream.fail(PeerDied("kernel 1 was killed"))  # type: ignore[attr-defined]
        return
    with contextlib.suppress(StreamClosed):  # the client is gone
        while await stream.receive() is not None:
            continue
        await stream.close({"traced": len(halves), "lost": 0})


async def main(run_dir: Path, name: str) -> None:
    directory = run_dir / name
    directory.mkdir(parents=True, exist_ok=True)
    machine = FakeMachine(run_dir, name)
    server = await serve(machine, directory / "control.sock")
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, machine.ended.set)
    print("ready", flush=True)
    await machine.ended.wait()
    await server.close()
    for task in machine.tasks:
        task.cancel()
    await asyncio.gather(*machine.tasks, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
