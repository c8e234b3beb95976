"""A fake machine: what the control API is served over in tests, with services that behave in all ways.

Streams are those of `popnet.message.stream.pair`, terminals those of `popnet.tty.hub`: both have tests of
their own.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from popnet.control.server import ControlServer, serve
from popnet.core.errors import (
    BootFailed,
    IllegalState,
    NoSuchKernel,
    NoSuchProgram,
    NoSuchService,
    NoSuchTerminal,
    PeerDied,
    PopnetError,
    Refused,
)
from popnet.message.stream import Stream, pair
from popnet.net import pcapng
from popnet.tty.hub import Terminal
from tests.control.fake_links import FakeLinks

Handler = Callable[[Stream], Awaitable[dict[str, Any] | None]]


@dataclass(frozen=True)
class Served:
    """A fake service and where it is served."""

    service: "FakeService"
    server: ControlServer
    run_dir: Path

    @property
    def socket(self) -> Path:
        return self.server.path


@asynccontextmanager
async def serving(run_dir: Path) -> AsyncIterator[Served]:
    """A fake machine `m`, served in *run_dir*."""
    (run_dir / "m").mkdir()
    service = FakeService()
    server = await serve(service, run_dir / "m" / "control.sock")
    yield Served(service, server, run_dir)
    await server.close()


class FakeService(FakeLinks):
    """Kernels `primary`, `k1` (online) and `k2` (offline). Fails to boot a kernel that is in `broken`."""

    def __init__(self) -> None:
        self.states = {"primary": "online", "k1": "online", "k2": "offline"}
        super().__init__(list(self.states))
        self.broken: set[str] = set()
        self.opened: list[tuple[str, str, dict[str, Any]]] = []
        self.ended: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.handlers: dict[str, Handler] = dict(HANDLERS)
        self.network = Network()
        self.handlers |= {"capture": self.network.capture, "inject": self.network.inject}
        self.terminals = {("k1", 0): Terminal("k1"), ("k1", 1): Terminal("k1")}
        self.went_down = asyncio.Event()
        self.may_boot = asyncio.Event()
        self.may_boot.set()
        self.booting = asyncio.Event()
        self.followers = 0
        self._events: list[dict[str, Any]] = []
        self._news = asyncio.Condition()
        self._changed = asyncio.Event()

    # What a machine is asked

    def machine(self) -> dict[str, Any]:
        return {"name": "m", "uptime_s": 1.0, "file": "/m.yaml", "state": "online", "subnet": "10.1.2.0/24"}

    def kernels(self) -> list[dict[str, Any]]:
        return [
            {
                "kid": kid,
                "name": name,
                "state": state,
                "generation": 1,
                "ttys": 2,
                "ipv4": "10.1.2.2",
                "mac": f"02:70:6f:70:6e:{kid:02x}",
            }
            for kid, (name, state) in enumerate(self.states.items())
        ]

    async def boot(self, name: str) -> dict[str, Any]:
        if self._state(name) == "online":
            raise IllegalState(f"{name} is online", "kill it first")
        self.booting.set()
        await self.may_boot.wait()
        if name in self.broken:
            raise BootFailed(f"{name}: step init: no such file")
        self.states[name] = "online"
        self._changed.set()
        return {"name": name, "state": "online", "timeline": self.timeline(name)}

    async def kill(self, name: str) -> dict[str, Any]:
        self._state(name)
        self.states[name] = "offline"
        return {"name": name, "state": "offline"}

    def load(self, name: str, image: str | None, append: str | None) -> dict[str, Any]:
        if self.states.setdefault(name, "offline") != "offline":
            raise IllegalState(f"cannot load kernel {name}: it is {self.states[name]}")
        self.states[name] = "loaded"
        return {"name": name, "state": "loaded", "image": image, "append": append}

    def unload(self, name: str) -> dict[str, Any]:
        self._state(name)
        self.states[name] = "offline"
        return {"name": name, "state": "offline"}

    async def reboot(self, name: str) -> dict[str, Any]:
        await self.kill(name)
        return await self.boot(name)

    async def panic(self, name: str) -> dict[str, Any]:
        self._state(name)
        self.states[name] = "failed"
        return {"name": name, "state": "failed"}

    def hang(self, name: str) -> dict[str, Any]:
        return {"name": name, "state": self._state(name), "hung": False}

    async def down(self) -> None:
        self.went_down.set()

    def timeline(self, name: str) -> list[dict[str, Any]]:
        self._state(name)
        return [{"step": "fork", "start_ms": 0.0, "took_ms": 1.5}]

    async def events(self, since: int, follow: bool) -> AsyncIterator[dict[str, Any]]:
        async for event in self._follow(since, follow):
            yield event

    async def log(self, name: str, follow: bool, previous: bool = False) -> AsyncIterator[dict[str, Any]]:
        self._state(name)
        async for event in self._follow(0, follow):
            yield {"seq": event["seq"], "time_s": 0.0, "level": "info", "text": event["text"]}

    async def open(self, name: str, service: str, params: dict[str, Any]) -> Stream:
        self.opened.append((name, service, params))
        self._changed.set()
        self._state(name)
        if service not in self.handlers:
            raise NoSuchService(f"{name} serves no {service!r}")
        if "refuse" in params:
            refusal = Refused("refused, as asked")
            refusal.code = params["refuse"]
            raise refusal
        if service == "dial" and params["port"] == 9:
            raise Refused("cannot reach 127.0.0.1 port 9: Connection refused")
        if service == "exec" and params["argv"][0] == "nonesuch":
            raise NoSuchProgram("cannot execute 'nonesuch'")
        opener, accepter = pair(service, params)
        if service == "dies":
            return _Dying(opener)
        task = asyncio.create_task(self._serve(service, accepter))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return opener

    def terminal(self, name: str, n: int) -> Terminal:
        self._state(name)
        if (name, n) not in self.terminals:
            raise NoSuchTerminal(f"{name} has no terminal {n}")
        return self.terminals[name, n]

    def ssh_config(self) -> str:
        return "Host k1\n  User root\n"

    def services(self) -> list[dict[str, Any]]:
        return [{"service": "exec", "kernel": "k1", "kid": 1, "generation": 1, "version": 1, "port": 2}]

    async def counters(self) -> dict[str, Any]:
        return {"kernels": {"k1": {"nic": {"tx_frames": 7}}}}

    # What tests do

    async def happen(self, text: str) -> None:
        """Something happens: an event, and a line in every log."""
        async with self._news:
            self._events.append({"seq": len(self._events) + 1, "kind": "test", "text": text})
            self._news.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Until *condition* on this fake holds: of its states, followers, or ended handlers."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def wait_ended(self, service: str) -> None:
        """Until a handler of *service* has ended."""
        await self.until(lambda: service in self.ended)

    async def wait_followers(self, count: int) -> None:
        await self.until(lambda: self.followers == count)

    async def _follow(self, since: int, follow: bool) -> AsyncIterator[dict[str, Any]]:
        self.followers += 1
        self._changed.set()
        try:
            while True:
                for event in self._events[since:]:
                    since = event["seq"]
                    yield event
                if not follow:
                    return
                async with self._news:
                    while len(self._events) <= since:
                        await self._news.wait()
        finally:
            self.followers -= 1
            self._changed.set()

    async def _serve(self, service: str, stream: Stream) -> None:
        try:
            result = await self.handlers[service](stream)
            await stream.close(result)
        except PopnetError:
            stream.abort()
        finally:
            self.ended.append(service)
            self._changed.set()

    def _state(self, name: str) -> str:
        if name not in self.states:
            raise NoSuchKernel(f"no kernel is named {name!r}")
        return self.states[name]


class Network:
    """Where `inject` puts frames, and `capture` finds them; each has a time a second after the last."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.captures = 0
        self.params: dict[str, Any] = {}  # of the last capture
        self.changed = asyncio.Event()

    def _change(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def inject(self, stream: Stream) -> dict[str, Any]:
        injected = 0
        while (received := await stream.receive()) is not None:
            self.frames.append(received[1])
            injected += 1
        self._change()
        return {"injected": injected, "dropped": 0}

    async def capture(self, stream: Stream) -> dict[str, Any]:
        self.params = dict(stream.params)
        wanted = stream.params.get("filter", "").encode()
        start = len(self.frames)
        stopping = asyncio.create_task(self._until_closed(stream))
        captured = 0
        await stream.send(pcapng.section_header() + pcapng.interface("k1/eth0", 65550, wanted.decode()))
        self.captures += 1
        self._change()
        try:
            while True:
                for number, frame in enumerate(self.frames[start:], start):
                    start = number + 1
                    if wanted in frame:
                        captured += 1
                        block = pcapng.packets([(number * 10**9, number & 1, len(frame), frame)])
                        await stream.send(block[:7])
                        await stream.send(block[7:])
                if stopping.done():
                    await stopping
                    return {"captured": captured, "dropped": 3}
                changed = asyncio.create_task(self.changed.wait())
                await asyncio.wait([changed, stopping], return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
        finally:
            stopping.cancel()
            self.captures -= 1
            self._change()

    @staticmethod
    async def _until_closed(stream: Stream) -> None:
        while await stream.receive() is not None:
            pass


async def dial(stream: Stream) -> dict[str, Any]:
    """A port that says what it was asked for, and then what it is told."""
    await stream.send(json.dumps(stream.params).encode())
    return await echo(stream)


async def echo(stream: Stream) -> dict[str, Any]:
    """Sends back what comes, on the channel it came on."""
    count = 0
    while (received := await stream.receive()) is not None:
        channel, data = received
        count += len(data)
        await stream.send(data, channel)
    return {"echoed": count}


async def sink(stream: Stream) -> dict[str, Any]:
    """Takes everything."""
    count = 0
    while (received := await stream.receive()) is not None:
        count += len(received[1])
    return {"received": count}


async def source(stream: Stream) -> dict[str, Any]:
    """Sends *size* bytes in pieces of *chunk*, each filled with its number."""
    size, chunk = stream.params["size"], stream.params["chunk"]
    for number, start in enumerate(range(0, size, chunk)):
        await stream.send(bytes((number & 0xFF,)) * min(chunk, size - start))
    return {"sent": size}


async def stuck(stream: Stream) -> None:
    """Takes nothing; a byte now and then tells it whether the stream is still there."""
    while True:
        await stream.send(b".", 1)
        await asyncio.sleep(0.005)


async def execute(stream: Stream) -> dict[str, Any]:
    """A few programs, as `exec` runs them."""
    argv = stream.params["argv"]
    match argv:
        case ["uname", "-n"]:
            await stream.send(b"k1\n")
        case ["env"]:
            await stream.send(json.dumps(stream.params).encode())
        case ["cat"] | ["sleep"]:
            while (received := await stream.receive()) is not None:
                channel, data = received
                control = json.loads(data) if channel == 2 else {}
                if "signal" in control:
                    return {"signal": control["signal"]}
                if argv == ["cat"] and channel == 0:
                    await stream.send(data)
                if argv == ["cat"] and control.get("eof"):
                    break
        case ["false"]:
            await stream.send(b"it is \xff false\n", 1)
            return {"status": 1}
        case ["exit", status]:
            await stream.send(b"out")
            await stream.send(b"err\n", 1)
            return {"status": int(status)}
    return {"status": 0}


HANDLERS: dict[str, Handler] = {
    "echo": echo,
    "sink": sink,
    "source": source,
    "stuck": stuck,
    "exec": execute,
    "dial": dial,
    "dies": stuck,
}


class _Dying:
    """A stream to a kernel that dies once it has sent something."""

    def __init__(self, stream: Stream) -> None:
        self.result: dict[str, Any] | None = None
        self._stream = stream
        self._count = 0

    async def send(self, data: bytes, channel: int = 0) -> None:
        raise PeerDied("k1 died")

    async def receive(self) -> tuple[int, bytes] | None:
        self._count += 1
        if self._count == 1:
            return 0, b"last words"
        raise PeerDied("k1 died")

    async def close(self, result: dict[str, Any] | None = None) -> None: ...

    def abort(self) -> None: ...
