"""What the control API needs from a machine: the Protocol that the primary kernel implements.

Streams and terminals are those of `popnet.message` and `popnet.tty`, named here by shape only, so that the
server depends on neither.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol


class Stream(Protocol):
    """One conversation with a service of a kernel; `popnet.message.stream` has the full description."""

    result: dict[str, Any] | None
    """What the peer closed with, once `receive` returned None."""

    async def send(self, data: bytes, channel: int = 0) -> None:
        """Waits for credit. Raises StreamClosed, PeerDied."""

    async def receive(self) -> tuple[int, bytes] | None:
        """(channel, data); None once the peer has closed. Goes on after a `close` of this end. PeerDied."""

    async def close(self, result: dict[str, Any] | None = None) -> None:
        """Ends this end's half: what was sent before is delivered first. Idempotent."""

    def abort(self) -> None:
        """Ends both halves at once; nobody waits for anything."""


class Attachment(Protocol):
    """One client of a terminal."""

    taken: asyncio.Event
    """Set when another client took the keyboard by force: this one only reads from now on."""

    async def read(self) -> bytes:
        """Output, history first; b"" once the terminal is closed for good."""

    async def write(self, data: bytes) -> None:
        """Keystrokes; waits while the kernel does not take them. Raises Refused if attached only to read."""

    def resize(self, cols: int, rows: int) -> None: ...

    def detach(self) -> None: ...


class Terminal(Protocol):
    """A virtual terminal of a kernel, held by the primary."""

    def attach(self, *, write: bool, force: bool = False, history: bool = True) -> Attachment:
        """Raises Refused if another client has the keyboard, unless *force*."""


class Service(Protocol):
    """A machine, as the control API shows it. Names are kernels' names; each raises NoSuchKernel."""

    def machine(self) -> dict[str, Any]:
        """name, file, state, pid, uptime_s, subnet, subnet6, run_dir, ..."""

    async def plan(self, request: dict[str, Any]) -> dict[str, Any]:
        """The "steps" from the machine to what the `text` of a `file` says, and their "token". Raises
        InvalidMachineFile, Refused."""

    async def apply(self, request: dict[str, Any]) -> dict[str, Any]:
        """As `plan`, done. Raises InvalidMachineFile, Refused: then the machine is as it was."""

    def kernels(self) -> list[dict[str, Any]]:
        """A row a kernel, by kid: kid, name, image, state, generation, cpus, memory_bytes, ipv4, mac, ..."""

    async def boot(self, name: str) -> dict[str, Any]:
        """The kernel's row and its "timeline", once it is online. Raises IllegalState, BootFailed."""

    async def kill(self, name: str) -> dict[str, Any]:
        """The kernel's row. Raises IllegalState."""

    def load(self, name: str, image: str | None, append: str | None) -> dict[str, Any]:
        """Its row, loaded; with an image or boot parameters it may be new. Raises IllegalState, Refused."""

    def unload(self, name: str) -> dict[str, Any]:
        """Its row, offline. Raises IllegalState."""

    async def update(self, name: str, request: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows of the kernels whose partitions have changed. Raises IllegalState, Refused."""

    async def reboot(self, name: str) -> dict[str, Any]:
        """As `boot`. Raises IllegalState, BootFailed."""

    async def panic(self, name: str) -> dict[str, Any]:
        """Its row, failed. Raises IllegalState."""

    def hang(self, name: str) -> dict[str, Any]:
        """Its row; that it hangs shows a little later. Raises IllegalState."""

    async def down(self) -> None:
        """Takes the whole machine down; the control API itself ends soon afterwards."""

    def timeline(self, name: str) -> list[dict[str, Any]]:
        """Its last boot: {"step", "start_ms", "took_ms"}."""

    def events(self, since: int, follow: bool) -> AsyncIterator[dict[str, Any]]:
        """Events with "seq" > *since*: {"seq", "time_s", "kind", "kernel", "kid", "generation", "text"}."""

    def log(self, name: str, follow: bool, previous: bool) -> AsyncIterator[dict[str, Any]]:
        """Lines of its log: {"seq", "generation", "time_s" since boot, "level", "text"}; with *previous*
        those of the last generation that has ended."""

    async def open(self, name: str, service: str, params: dict[str, Any]) -> Stream:
        """A stream to a service of that kernel, accepted. Raises NoSuchService, Refused, PeerDied, ..."""

    def terminal(self, name: str, n: int) -> Terminal:
        """Raises NoSuchTerminal."""

    def ssh_config(self) -> str: ...

    async def images(self) -> list[dict[str, Any]]:
        """A row an image: name, kind, root, size_bytes, sha256, origin, path, error, ..."""

    def services(self) -> list[dict[str, Any]]:
        """A row a registered service: service, kernel, kid, generation, version, port."""

    async def links(self) -> list[dict[str, Any]]:
        """A row for each impaired or cut direction: from, to, state, impairment, observed."""

    async def link(self, op: str, request: dict[str, Any]) -> list[dict[str, Any]]:
        """set, clear, down, up or flap the link or NIC of *request*; its rows. Raises Refused."""

    def faults(self) -> dict[str, Any]:
        """The plan: running, since_s, steps."""

    def run_faults(self, plan: Any) -> dict[str, Any]:
        """Run *plan*, a list as in a machine file, or (None) the file's own. Raises Refused."""

    def stop_faults(self) -> dict[str, Any]: ...

    async def counters(self) -> dict[str, Any]:
        """{"kernels": {name: {"nic": {...}, "links": {...}, "messages": {...}, "ttys": {...}}}}."""
