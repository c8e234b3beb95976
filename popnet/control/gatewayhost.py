"""The gateway that a machine starts itself, as its file asks for.

Theory of operation. The socket is bound before the machine has namespaces of its own, so it is the host's;
clients that come while the machine boots wait in its queue. The gateway is a process, `popnet gateway`, which
inherits the socket, and is a client of the control API like any other: nothing of ssh runs in the primary. A
gateway that ends by itself is started again, with growing pauses, and given up after a few: then the socket
is closed, so that clients are refused and do not wait. It ends with its primary, however that ends.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from popnet.core.errors import Refused
from popnet.kernel.owner import Ownership
from popnet.machine import restart
from popnet.machine.gatewayspec import GatewaySpec
from popnet.machine.spec import MachineSpec
from popnet.tty import keys
from popnet.tty.authorized import AuthorizedKeys
from popnet.tty.hostkeys import host_key, state_dir
from popnet.tty.listening import bound, close

_END_S: Final = 1.0
"""Seconds that a gateway may take to end before it is killed."""

Tell = Callable[[str, str], None]
"""Takes (kind, text) of an event."""


class GatewayHost:
    """The gateway of *machine*, which has a `gateway` section: its socket, and later its process.

    Attributes:
        private_key: its host key, the same each time the machine starts.

    Raises Refused, naming the file, the key and the value, if it cannot listen, or keys cannot be read.
    """

    def __init__(self, machine: MachineSpec, spec: GatewaySpec) -> None:
        self._name = machine.name
        self._spec = spec
        self._state = "starting"
        base = Path(machine.file).parent.absolute()
        try:
            self._authorized = AuthorizedKeys(spec.authorized_keys, os.environ, base)
        except Refused as error:
            raise Refused(f"{machine.file}: gateway.authorized_keys: {error}", error.hint) from None
        self._sources = self._authorized.sources
        self.private_key = host_key(state_dir() / machine.name, f"gateway of {machine.name}")
        self._fingerprint = keys.fingerprint(keys.public_line(self.private_key.encode()))
        what = f"{machine.file}: gateway.listen"
        self._listener = bound(spec.listen, spec.public, what, "'public: true' beside it")

    def answer(self) -> dict[str, Any]:
        """What the control API tells of it."""
        return {"listen": self._spec.listen, "state": self._state, "host_key": self._fingerprint}

    def close(self) -> None:
        """Listen no more."""
        if self._listener.fileno() >= 0:
            close(self._listener)

    async def run(self, run_dir: Path, ownership: Ownership, tell: Tell) -> None:
        """Until cancelled, or given up."""
        for problem in self._authorized.problems():
            tell("gateway.keys", f"gateway: {problem}")
        record = restart.Record()
        try:
            while True:
                self._state = "listening"
                record = restart.online(record, time.monotonic())
                tell("gateway.up", f"gateway: listening on {self._spec.listen}, host key {self._fingerprint}")
                status = await self._run_once(run_dir, ownership)
                self._state = "failed"
                reason = f"it ended with status {status}"
                record, decision = restart.failed(record, "always", reason, time.monotonic())
                assert decision is not None
                tell("gateway.failed", f"gateway: {decision.text}")
                if isinstance(decision, restart.GiveUp):
                    return
                await asyncio.sleep(decision.pause_s)
        finally:
            self.close()

    async def _run_once(self, run_dir: Path, ownership: Ownership) -> int:
        """Its exit status. Cancelled, it ends the process first."""
        words = ["--run-dir", str(run_dir), "-m", self._name, "gateway"]
        words += ["--inherited", str(self._listener.fileno())]
        for source in self._sources:
            words += ["--authorized-keys", source]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "popnet.cli.main",
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(self._listener.fileno(),),
        )
        ownership.add_process(process.pid)
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                await _end(process)
            ownership.drop_process(process.pid)


async def _end(process: asyncio.subprocess.Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _END_S)
            return


def open_gateway(machine: MachineSpec) -> GatewayHost | None:
    """The gateway that *machine* asks for, if it does. Raises Refused."""
    return None if machine.gateway is None else GatewayHost(machine, machine.gateway)
