"""A machine of endpoints for tests: kernel 0 with the registry, others that boot, die and lose their links.

Everything is on one loop and over fake links, or real ones, which are made on first use, as a kernel's are.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from popnet.core.errors import PeerDied
from popnet.message.endpoint import Endpoint
from popnet.message.fake import fake_links
from popnet.message.registryshell import RegistryShell
from popnet.transport._native import Link
from popnet.transport.doorbell import create_doorbell
from popnet.transport.window import attach_window, create_window


class Mesh:
    """Kernels k0 to k(*size* - 1); only kernel 0 runs at first."""

    def __init__(self, size: int, real: bool = False) -> None:
        self.real = real
        self.names = {kid: f"k{kid}" for kid in range(size)}
        self.ends: dict[int, Endpoint] = {}
        self.generations = dict.fromkeys(range(size), 0)
        self._bells: dict[int, int] = {}
        self._boot(0)
        self.registry = RegistryShell(self.ends[0], self.names)

    def _boot(self, kid: int) -> Endpoint:
        self.generations[kid] += 1
        self._bells[kid] = create_doorbell()

        async def connect(peer: int) -> None:
            if peer not in self.ends:
                raise PeerDied(f"kernel {peer} does not run")
            if not self.ends[kid].has_link(peer):
                self.relink(kid, peer)

        self.ends[kid] = Endpoint(kid, self.generations[kid], self._bells[kid], connect)
        return self.ends[kid]

    def boot(self, kid: int) -> Endpoint:
        """Boot a kernel, linked to kernel 0."""
        assert kid not in self.ends
        endpoint = self._boot(kid)
        endpoint.start()
        self.relink(0, kid)
        return endpoint

    def relink(self, a: int, b: int) -> None:
        """Two kernels get a new link; what was on the old one is lost."""
        link_a, link_b = self._real_links(a, b) if self.real else fake_links(self._bells[a], self._bells[b])
        self.ends[a].add_link(b, self.generations[b], link_a)
        self.ends[b].add_link(a, self.generations[a], link_b)

    def _real_links(self, a: int, b: int) -> tuple[Link, Link]:
        window_a, fd_a = create_window(a, self.generations[a], b)
        window_b, fd_b = create_window(b, self.generations[b], a)
        link_a = Link(window_a, attach_window(fd_b), self._bells[b], -1)
        link_b = Link(window_b, attach_window(fd_a), self._bells[a], -1)
        os.close(fd_a)
        os.close(fd_b)
        return link_a, link_b

    async def kill(self, kid: int, reason: str = "killed") -> None:
        """A kernel dies, and everybody is told."""
        endpoint = self.ends.pop(kid)
        self.registry.down(kid, self.generations[kid], reason)
        for other in self.ends.values():
            other.remove_link(kid, reason)
        await endpoint.stop()
        os.close(self._bells.pop(kid))

    async def stop(self) -> None:
        for endpoint in self.ends.values():
            await endpoint.stop()
        for bell in self._bells.values():
            os.close(bell)


@asynccontextmanager
async def mesh_of(size: int, real: bool = False) -> AsyncIterator[Mesh]:
    """A mesh of *size* kernels, all booted."""
    mesh = Mesh(size, real)
    mesh.ends[0].start()
    for kid in range(1, size):
        mesh.boot(kid)
    try:
        yield mesh
    finally:
        await mesh.stop()


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


QUIET = 200
"""Turns of the loop after which nothing happens any more that was not waiting for a clock."""
