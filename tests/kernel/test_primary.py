"""The primary among liars: a fake loader forks idle processes, and the test is every kernel in them."""

import asyncio
import gc
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from popnet.core.errors import BootFailed, IllegalState, LinkViolation, NoSuchTerminal, PopnetError, Refused
from popnet.kernel import primary as module
from popnet.kernel.cgroup import Tree
from popnet.kernel.configure import boot_config
from popnet.kernel.credentials import Credentials
from popnet.kernel.imageroots import ImageRoots
from popnet.kernel.links import Links
from popnet.kernel.owner import Ownership
from popnet.kernel.primary import Primary
from popnet.kernel.timeline import Timeline
from popnet.machine import file as machine_file
from popnet.machine.host import Host
from popnet.machine.search import image_search_path
from popnet.message.endpoint import Endpoint
from popnet.message.kinds import Kind
from popnet.message.stream import Stream
from popnet.transport.doorbell import create_doorbell
from popnet.transport.handover import create_handover, receive_packet, send_packet

MACHINE = "apiVersion: popnet/v1\nname: test\nkernels:\n  k1: {image: full}\n  k2: {image: full}\n"


class FakeDaemon:
    """Kernel 0 without init and NIC: its endpoint and its links are real."""

    def __init__(
        self, config: Any, prepared: Any, timeline: Any, send_offer: Any, log: Any, on_exit: Any
    ) -> None:
        self.timeline = timeline
        self.bells = (create_doorbell(), create_doorbell())
        self.links = Links(0, 1, self.bells, send_offer, lambda kid, reason: self.on_violation(kid, reason))
        self.endpoint = Endpoint(0, 1, self.bells[0], self.links.connect)
        self.endpoint.on_violation = self.links.violated
        self.links.endpoint = self.endpoint

    def on_violation(self, kid: int, reason: str) -> None: ...

    async def start(self) -> None: ...

    def beat(self) -> None: ...

    async def stop(self, grace_s: float) -> None:
        await self.endpoint.stop()
        for bell in self.bells:
            os.close(bell)


class FakeKernel:
    """A secondary, played by the test: a process that only sleeps, and the links of a kernel."""

    def __init__(self, lab: "Lab", request: dict[str, Any], handover: socket.socket) -> None:
        config = request["config"]
        self.kid, self.generation = config["kernel"]["kid"], config["generation"]
        self.process = subprocess.Popen(["sleep", "1000"])
        self.handover = handover
        self.bells = (create_doorbell(), create_doorbell())
        self.links = Links(self.kid, self.generation, self.bells, self._offer, lambda *_: None)
        self.endpoint = Endpoint(self.kid, self.generation, self.bells[0], self.links.connect)
        self.links.endpoint = self.endpoint
        self.heard: list[Any] = []
        self.partitions: list[dict[str, Any]] = []
        self.refuses = ""
        self.endpoint.serve("partition", self._partition)
        self.playing: asyncio.Task[Any] | None = None
        self._lab = lab

    async def _partition(self, stream: Stream) -> None:
        if self.refuses:
            raise Refused(self.refuses)
        self.partitions.append(dict(stream.params))
        await stream.close({"missing": []})

    async def check_in(self) -> None:
        self.endpoint.start()
        self.endpoint.on(Kind.CONTROL, lambda kid, body: self.die())
        self.endpoint.on(Kind.NOTIFY, lambda kid, body: self.heard.append(json.loads(body)))
        self.handover.setblocking(False)
        asyncio.get_running_loop().add_reader(self.handover, self._receive)
        await self.links.connect(0)
        self.post(Kind.CHECK_IN, {"kid": self.kid, "generation": self.generation, "pid": 1})

    async def boot(self) -> None:
        await self.check_in()
        self.come_online()

    def come_online(self) -> None:
        self.post(Kind.EVENT, {"online": True, "timeline": [{"step": "all", "start_ms": 0, "took_ms": 1}]})

    def post(self, kind: int, message: Any) -> None:
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        assert self.endpoint.post(0, kind, body)

    def _offer(self, peer: int, packet: dict[str, Any], fds: Sequence[int]) -> None:
        send_packet(self.handover, packet, fds)

    def _receive(self) -> None:
        packet = receive_packet(self.handover)
        if packet is None:
            asyncio.get_running_loop().remove_reader(self.handover)
        elif packet[0]["op"] == "offer":
            self.links.receive_offer(packet[0]["from"], packet[0]["generation"], packet[1])
        else:
            self.links.refused(packet[0]["to"], packet[0]["reason"])

    def die(self) -> None:
        self.process.kill()

    async def ended(self) -> None:
        """Tell of the process's end as the loader does."""
        code = await asyncio.to_thread(self.process.wait)
        if self.playing is not None:
            self.playing.cancel()  # it may be waiting for a link that nobody makes with the dead
        await self.endpoint.stop()
        for bell in self.bells:
            os.close(bell)
        if self.handover.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.handover)
            self.handover.close()
        self._lab.tell({"op": "exited", "kid": self.kid, "generation": self.generation, "code": code})


class Lab:
    """A primary, and what its loader would do: *play* is run with each kernel that it forks."""

    def __init__(self, tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp / "machine.yaml"
        path.write_text(MACHINE)
        spec = machine_file.load(path, Host((0,), 1 << 30), image_search_path({}, path))
        images = {kernel.image: machine_file.load_image(kernel.image_path) for kernel in spec.kernels}
        monkeypatch.setattr(module, "Daemon", FakeDaemon)
        ours, self.loader = create_handover()
        keys = {kernel.name: "" for kernel in spec.kernels}
        credentials = Credentials(keys, "", "")
        ownership = Ownership(tmp / "run", "test")
        config = boot_config(spec, spec.primary, 1, credentials, ownership.directory, None)
        monkeypatch.setenv("POPNET_CACHE_DIR", str(tmp / "cache"))
        image_roots = ImageRoots(ownership.directory)
        tree = Tree("test", lambda path: None, tmp / "no-cgroups", "")
        self.primary = Primary(
            spec,
            images,
            ownership,
            credentials,
            tree,
            ours,
            None,
            config,
            Timeline(0.0),  # type: ignore[arg-type]
            image_roots,
        )
        self.kernels: list[FakeKernel] = []
        self.play: Callable[[FakeKernel], Any] = FakeKernel.boot
        self.forks = True
        self.tasks: list[asyncio.Task[Any]] = []
        self.loader.setblocking(False)
        asyncio.get_running_loop().add_reader(self.loader, self._request)

    def _request(self) -> None:
        packet = receive_packet(self.loader)
        if packet is None:
            asyncio.get_running_loop().remove_reader(self.loader)
            return
        request, (handover, directory, told) = packet
        os.close(directory)
        os.close(told)
        kernel = FakeKernel(self, request, socket.socket(fileno=handover))
        self.kernels.append(kernel)
        if self.forks:
            self.fork(kernel)

    def fork(self, kernel: FakeKernel) -> None:
        pidfd = os.pidfd_open(kernel.process.pid)
        answer = {"op": "forked", "kid": kernel.kid, "generation": kernel.generation}
        send_packet(self.loader, {**answer, "pid": kernel.process.pid}, (pidfd,))
        os.close(pidfd)
        kernel.playing = asyncio.create_task(self.play(kernel))
        self.tasks += [asyncio.create_task(kernel.ended()), kernel.playing]

    def tell(self, message: dict[str, Any]) -> None:
        if self.loader.fileno() >= 0:
            send_packet(self.loader, message)

    def row(self, name: str) -> dict[str, Any]:
        return next(row for row in self.primary.kernels() if row["name"] == name)

    async def events(self) -> list[str]:
        return [entry["text"] async for entry in self.primary.events(0, False)]

    async def close(self) -> None:
        for kernel in self.kernels:
            kernel.process.kill()
        async with asyncio.timeout(20):
            await self.primary.down()
            await asyncio.gather(*self.tasks, return_exceptions=True)
        if self.loader.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.loader)
            self.loader.close()


@pytest.fixture
async def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path, monkeypatch)
    yield lab
    await lab.close()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)


async def until(condition: Callable[[], Any]) -> None:
    """Let everything run until *condition* is true."""
    while not condition():  # noqa: ASYNC110  nothing tells of it
        await asyncio.sleep(0)


async def test_start_boots_every_kernel_and_down_ends_them(lab: Lab) -> None:
    await lab.primary.start()
    assert [row["state"] for row in lab.primary.kernels()] == ["online"] * 3
    k1 = lab.kernels[0]
    await lab.primary.down()
    assert [lab.row(name)["state"] for name in ("k1", "k2")] == ["offline"] * 2
    assert k1.process.returncode == -signal.SIGKILL
    assert lab.primary.machine()["state"] == "stopping"


LIES = (
    b"",
    b"\xff\xfe",
    b"null",
    b"[]",
    b'"online"',
    b"{}",
    b'{"online": true}',
    b'{"online": true, "timeline": [1]}',
    b'{"online": true, "timeline": [{"step": "x"}]}',
    b'{"online": 1, "timeline": {}}',
    b'{"violation": 5, "peer": "x"}',
    b'{"seq": 0}',
    b'{"seq": -1, "text": "x"}',
    b'{"time_s": "now", "level": 3, "text": []}',
    b"[" * 100_000,
    b"1" * 10_000,
)


@pytest.mark.parametrize("kind", [Kind.CHECK_IN, Kind.EVENT, Kind.LOG])
async def test_a_lie_costs_a_kernel_its_link_and_nobody_else_anything(lab: Lab, kind: Kind) -> None:
    await lab.primary.start()
    k1, k2 = lab.kernels
    handler = lab.primary._daemon.endpoint._handlers[kind]
    for body in LIES:
        with pytest.raises(LinkViolation):
            handler(1, body)
    k1.post(kind, b"{}")
    await until(lambda: 1 not in lab.primary._daemon.links.linked)
    assert lab.primary._daemon.endpoint.counters()["violations"] == 1
    [text] = [text for text in await lab.events() if "link to kernel 1 closed" in text]
    assert "kernel 1 " in text
    assert await k2.endpoint.open(0, "tty", {"n": 0})
    assert lab.row("k2")["state"] == "online"
    assert lab.row("k1")["state"] == "online", "supervision hears no beats of it, and knows what to do"


async def test_a_lie_ends_a_boot_at_once(lab: Lab) -> None:
    async def lie(kernel: FakeKernel) -> None:
        await kernel.check_in()
        kernel.post(Kind.EVENT, b'{"online": true}')

    lab.play = lie
    with pytest.raises(BootFailed, match="its link to the primary was closed: kernel 1 told an event"):
        await lab.primary.start()


async def test_texts_of_kernels_are_cut(lab: Lab) -> None:
    async def talk(kernel: FakeKernel) -> None:
        await kernel.check_in()
        kernel.post(Kind.LOG, {"seq": 0, "time_s": 0.5, "level": "info" * 100, "text": "x" * 100_000})
        kernel.come_online()

    lab.play = talk
    await lab.primary.start()
    assert [row["state"] for row in lab.primary.kernels()] == ["online"] * 3
    lines = [line async for line in lab.primary.log("k1", False)]
    assert [(line["seq"], len(line["text"]), line["level"][:5]) for line in lines] == [(1, 4096, "infoi")]
    assert lab.primary.timeline("k1") == [{"step": "all", "start_ms": 0, "took_ms": 1}]


async def test_strange_terminals_and_counters(lab: Lab) -> None:
    await lab.primary.start()
    k1, k2 = lab.kernels
    for n in (None, "0", -1, 99, [], {}):
        with pytest.raises(NoSuchTerminal):
            await k1.endpoint.open(0, "tty", {"n": n})
    stream = await k1.endpoint.open(0, "tty", {"n": 0, "generation": ["x"]})
    await stream.send(b"hello")

    async def nonsense(kid: int, body: bytes) -> bytes:
        return b"[1, 2"

    k1.endpoint.answer(Kind.COUNTERS, nonsense)
    counters = (await lab.primary.counters())["kernels"]
    assert "bad JSON" in counters["k1"]["error"]
    assert lab.primary._daemon.endpoint.counters()["violations"] == 1
    assert counters["k1"].keys() == {"error", "usage"}, "the host tells what a kernel uses, whatever it says"
    assert "error" in counters["k2"]
    assert k2.process.poll() is None


async def test_what_is_handed_over_and_nobody_asked_for_ends_that_kernel(lab: Lab) -> None:
    await lab.primary.start()
    k1, k2 = lab.kernels
    gc.collect()  # those of earlier tests
    before = len(list(Path("/proc/self/fd").iterdir()))
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    send_packet(k1.handover, {"op": "failed", "reason": "x", "hint": ""}, fds)
    for fd in fds:
        os.close(fd)
    k2.handover.send(b"no json")
    async with asyncio.timeout(30):
        await until(lambda: {lab.row(name)["state"] for name in ("k1", "k2")} == {"failed"})
    assert "nobody asked for" in lab.row("k1")["reason"]
    assert "not JSON" in lab.row("k2")["reason"]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert lab.row("primary")["state"] == "online"


async def test_an_offer_to_a_kernel_that_takes_none_is_refused(lab: Lab) -> None:
    await lab.primary.start()
    k1, k2 = lab.kernels
    asyncio.get_running_loop().remove_reader(k2.handover)
    incarnation = lab.primary._roster.by_kid[2].incarnation
    assert incarnation is not None
    while incarnation.send({"op": "refused", "to": 9, "reason": "x" * 1000}):
        pass
    async with asyncio.timeout(30):
        with pytest.raises(PopnetError, match="k2 does not take offers"):
            await k1.links.connect(2)
        with pytest.raises(PopnetError, match="there is no kernel 77"):
            await k1.links.connect(77)


async def test_a_kill_before_the_fork_is_told(lab: Lab) -> None:
    await lab.primary.start()
    await lab.primary.kill("k1")
    lab.forks = False
    booting = asyncio.create_task(lab.primary.boot("k1"))
    async with asyncio.timeout(30):
        await until(lambda: len(lab.kernels) == 3)
    killing = asyncio.create_task(lab.primary.kill("k1"))
    with pytest.raises(IllegalState):
        await lab.primary.boot("k1")
    await asyncio.sleep(0)
    lab.fork(lab.kernels[-1])
    async with asyncio.timeout(30):
        assert (await killing)["state"] == "offline"
        with pytest.raises(BootFailed, match="SIGKILL"):
            await booting


async def test_one_who_no_longer_waits_for_a_boot_disturbs_nobody(lab: Lab) -> None:
    await lab.primary.start()
    await lab.primary.kill("k1")

    async def never(kernel: FakeKernel) -> None: ...

    lab.play = never
    booting = asyncio.create_task(lab.primary.boot("k1"))
    async with asyncio.timeout(30):
        await until(lambda: len(lab.kernels) == 3)
        booting.cancel()
        await asyncio.gather(booting, return_exceptions=True)
        assert (await lab.primary.kill("k1"))["state"] == "offline"


async def test_down_during_a_boot_and_no_boot_during_down(lab: Lab) -> None:
    await lab.primary.start()
    await lab.primary.kill("k1")

    async def never(kernel: FakeKernel) -> None: ...

    lab.play = never
    booting = asyncio.create_task(lab.primary.boot("k1"))
    async with asyncio.timeout(30):
        await until(lambda: len(lab.kernels) == 3)
        down = asyncio.create_task(lab.primary.down())
        await asyncio.sleep(0)
        with pytest.raises(IllegalState, match="goes down"):
            await lab.primary.boot("k2")
        await down
        with pytest.raises(BootFailed):
            await booting


async def test_the_loaders_death_takes_the_machine_down(lab: Lab) -> None:
    await lab.primary.start()
    asyncio.get_running_loop().remove_reader(lab.loader)
    lab.loader.close()
    async with asyncio.timeout(30):
        await lab.primary.wait()
    assert any("loader died" in text for text in await lab.events())


async def test_deaths_are_told_to_the_others(lab: Lab) -> None:
    await lab.primary.start()
    k1, k2 = lab.kernels
    k1.process.kill()
    async with asyncio.timeout(30):
        await until(lambda: k2.heard and lab.row("k1")["state"] == "failed")
    assert (k2.heard[0]["down"], k2.heard[0]["generation"]) == (1, 1)
    assert lab.row("k1")["reason"] == "killed by SIGKILL"
    assert (await lab.primary.boot("k1"))["generation"] == 2
