"""What the primary answers about its kernels, and the ways to their services and terminals. Changes nothing.

Each is a method of the control API's Service, and described there.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from popnet.core.errors import IllegalState, NoSuchTerminal, PopnetError
from popnet.kernel.entry import Entry
from popnet.kernel.events import Journal
from popnet.kernel.roster import Roster
from popnet.kernel.usage import measure
from popnet.machine.imagelist import image_row
from popnet.machine.search import find_images, image_search_path
from popnet.machine.states import KernelState
from popnet.message import codec
from popnet.message.endpoint import Endpoint
from popnet.message.kinds import Kind
from popnet.message.registryshell import RegistryShell
from popnet.message.stream import Stream
from popnet.tty.hub import Terminal

COUNTERS_TIMEOUT_S: Final = 1.0
"""Seconds a kernel may take to tell its counters."""


class Answers:
    """Answers from the *roster*, the *registry*, and the kernels themselves, by the *endpoint* of kernel
    0."""

    def __init__(self, roster: Roster, endpoint: Endpoint, registry: RegistryShell) -> None:
        self._roster = roster
        self._endpoint = endpoint
        self._registry = registry

    def kernels(self) -> list[dict[str, Any]]:
        return list(map(self._roster.row, self._roster))

    def timeline(self, name: str) -> list[dict[str, Any]]:
        return self._roster.named(name).timeline

    def log(self, name: str, follow: bool, previous: bool = False) -> AsyncIterator[dict[str, Any]]:
        kernel = self._roster.named(name)
        if not previous:
            return kernel.log.read(0, follow)
        running = kernel.life.state in (KernelState.STARTING, KernelState.ONLINE, KernelState.STOPPING)
        return _of_generation(kernel.log, kernel.life.generation - running)

    async def images(self) -> list[dict[str, Any]]:
        """Those that kernels run, wherever they are, and those that are found by name."""
        found = find_images(image_search_path(os.environ, self._roster.machine.file))
        by_path = {str(Path(path).absolute()): "name" for path in found.values()}
        for kernel in self._roster:
            by_path.setdefault(str(Path(kernel.image.path).absolute()), "path")
        return await asyncio.to_thread(lambda: [image_row(Path(path), how) for path, how in by_path.items()])

    def ssh_config(self) -> str:
        return self._roster.credentials.ssh_config

    async def open(self, name: str, service: str, params: dict[str, Any]) -> Stream:
        kernel = self._roster.named(name)
        if kernel.life.state is not KernelState.ONLINE:
            hint = f"`popnet -m {self._roster.machine.name} boot {name}` boots it"
            raise IllegalState(f"kernel {name} is {kernel.life.state.value}", hint)
        return await self._endpoint.open(kernel.spec.kid, service, params)

    def terminal(self, name: str, n: int) -> Terminal:
        kernel = self._roster.named(name)
        if not 0 <= n < len(kernel.terminals):
            last = len(kernel.terminals) - 1
            raise NoSuchTerminal(f"kernel {name} has no tty{n}", f"it has tty0 to tty{last}")
        return kernel.terminals[n]

    def services(self) -> list[dict[str, Any]]:
        """What is registered, by kernel and name."""
        return [
            {
                "service": notice.name,
                "kernel": self._roster.names[notice.kid],
                "kid": notice.kid,
                "generation": notice.generation,
                "version": notice.version,
                "port": notice.port,
            }
            for notice in self._registry.services()
        ]

    async def counters(self) -> dict[str, Any]:
        """Of every kernel that is online; one that does not answer has an `error` instead, beside its
        usage, which the host tells."""
        online = [kernel for kernel in self._roster if kernel.life.state is KernelState.ONLINE]
        answers = await asyncio.gather(*map(self._counters_of, online))
        pids = {k.spec.name: k.incarnation.pid if k.incarnation else os.getpid() for k in online}
        used = await asyncio.to_thread(measure, pids)
        for kernel, answer in zip(online, answers, strict=True):
            if kernel.spec.name in used:
                cpu_s, resident = used[kernel.spec.name]
                group = kernel.incarnation.group if kernel.incarnation else self._roster.own_group
                memory = group.memory_used()
                answer["usage"] = {"cpu_s": cpu_s, "memory_bytes": resident if memory is None else memory}
        return {"kernels": dict(zip((k.spec.name for k in online), answers, strict=True))}

    async def _counters_of(self, kernel: Entry) -> dict[str, Any]:
        try:
            answer = await self._endpoint.call(kernel.spec.kid, Kind.COUNTERS, b"", COUNTERS_TIMEOUT_S)
        except PopnetError as error:
            return {"error": str(error)}
        counters = codec.json_object(answer)
        counters["ttys"] = {f"tty{n}": tty.counters() for n, tty in enumerate(kernel.terminals)}
        return counters


async def _of_generation(log: Journal, generation: int) -> AsyncIterator[dict[str, Any]]:
    async for line in log.read():
        if line.get("generation") == generation:
            yield line
