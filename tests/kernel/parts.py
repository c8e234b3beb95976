"""For tests of the parts of a primary: a roster of a machine that nobody runs, and somebody who is told."""

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from popnet.kernel.cgroup import Group
from popnet.kernel.credentials import Credentials
from popnet.kernel.entry import Entry
from popnet.kernel.incarnation import Incarnation
from popnet.kernel.roster import Roster
from popnet.machine import file as machine_file
from popnet.machine import states
from popnet.machine.host import Host
from popnet.machine.search import image_search_path
from popnet.message.endpoint import Endpoint
from popnet.message.fake import FakeLink, fake_links
from popnet.transport.doorbell import create_doorbell
from popnet.transport.handover import create_handover

MACHINE = "apiVersion: popnet/v1\nname: test\nkernels:\n  k1: {image: full}\n  k2: {image: light}\n"


def roster_of(tmp: Path, text: str = MACHINE) -> Roster:
    """The roster of a machine file, on a host of one CPU and 1 GiB; kernel 0 has the group of nobody."""
    path = tmp / "machine.yaml"
    path.write_text(text)
    spec = machine_file.load(path, Host((0,), 1 << 30), image_search_path({}, str(path)))
    images = {kernel.image: machine_file.load_image(kernel.image_path) for kernel in spec.kernels}
    keys = {kernel.name: "" for kernel in spec.kernels}
    return Roster(spec, images, Credentials(keys, "", ""), Group({}))


class Told:
    """Whoever takes events: (kind, kernel's name, text) of each."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, str]] = []

    def __call__(self, kind: str, kernel: Entry, text: str, **more: Any) -> None:
        self.all.append((kind, kernel.spec.name, text))

    def texts(self) -> list[str]:
        return [text for _, _, text in self.all]


def move(kernel: Entry, *events: states.Event) -> None:
    """Change the state of *kernel*, and nothing else."""
    for event in events:
        kernel.life, _ = states.handle(kernel.life, event, 0.0)


def bring_online(kernel: Entry) -> None:
    move(kernel, states.Load(), states.Start(), states.Online(kernel.life.generation + 1))


class Body:
    """An incarnation of *kernel*, of which the test holds the other end."""

    def __init__(self, kernel: Entry) -> None:
        ours, self.theirs = create_handover()
        self.theirs.setblocking(False)
        self.packets: list[dict[str, Any]] = []
        self.deaths = 0
        self.incarnation = Incarnation(
            kernel.spec, max(1, kernel.life.generation), ours, Group({}), self._packet, self._death
        )
        kernel.incarnation = self.incarnation

    def _packet(self, incarnation: Incarnation, packet: dict[str, Any], fds: list[int]) -> None:
        self.packets.append(packet)
        for fd in fds:
            os.close(fd)

    def _death(self, incarnation: Incarnation) -> None:
        self.deaths += 1

    @property
    def killed(self) -> bool:
        """SIGKILL waits for its fork to be told."""
        return self.incarnation._to_kill

    def close(self) -> None:
        self.incarnation.exited(0)
        self.theirs.close()


class Ends:
    """The endpoint of kernel 0, and those of others, joined by fake links."""

    def __init__(self, *kids: int) -> None:
        self._bells: list[int] = []
        self.own, own_bell = self._endpoint(0)
        self.of: dict[int, Endpoint] = {}
        self.links: dict[int, FakeLink] = {}
        self.violations: list[tuple[int, str]] = []
        self.own.on_violation = lambda kid, text: self.violations.append((kid, text))
        for kid in kids:
            self.of[kid], bell = self._endpoint(kid)
            near, self.links[kid] = fake_links(own_bell, bell)
            self.own.add_link(kid, 1, near)
            self.of[kid].add_link(0, 1, self.links[kid])

    def _endpoint(self, kid: int) -> tuple[Endpoint, int]:
        bell = create_doorbell()
        self._bells.append(bell)

        async def connect(peer: int) -> None:
            raise AssertionError(f"nobody asked for a link to kernel {peer}")

        endpoint = Endpoint(kid, 1, bell, connect)
        endpoint.start()
        return endpoint, bell

    def post(self, kid: int, kind: int, message: Mapping[str, Any] | bytes) -> None:
        """Kernel *kid* sends a message to kernel 0."""
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        assert self.of[kid].post(0, kind, body)

    async def close(self) -> None:
        for endpoint in (self.own, *self.of.values()):
            await endpoint.stop()
        for bell in self._bells:
            os.close(bell)


async def until(condition: Any) -> None:
    """Let others run until it is so."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)
