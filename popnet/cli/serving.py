"""The machines that `popnet serve` runs, as a container's first process: booted, watched, reaped, taken down.

Theory of operation. One event loop. Each machine boots in a thread (`popnet.control.launch`), a few at a
time, as every boot wants a CPU; its primary is our child. Nobody else waits for children once all have
booted: SIGCHLD leads to `_reap`, which also takes those that programs started by `docker exec` left behind,
since orphans of a container belong to its first process. A machine that ends, by `popnet down` or by itself,
stays down, and the others go on; when none is left, so ends this. A gateway that ends by itself ends
everything: whoever restarts containers can restart this one.

On SIGTERM and SIGINT every primary gets SIGTERM, which takes its machine down in good order. Whoever is not
down after the grace is killed, and its namespaces with it.
"""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from popnet.cli.terminal import Signals
from popnet.control.launch import start
from popnet.core.errors import PopnetError

BOOTS_AT_ONCE: Final = 2
DOWN_S: Final = 3.5
"""Seconds from SIGTERM until what still runs is killed, unless another grace is asked for: below the five
that the compose files allow."""

TARGETS_MAX: Final = 64

_RANGE = re.compile(r"(.*)\[(\d+)-(\d+)\](.*)")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Target:
    """A machine to run: the file that describes it, and its name, unless that of the file is meant."""

    file: str
    name: str | None = None


def targets(words: Sequence[str]) -> list[Target]:
    """What `FILE`, `NAME=FILE` and `NAME[01-20]=FILE` mean. Raises ValueError saying what is allowed."""
    found = []
    for word in words:
        name, equals, file = word.rpartition("=")
        if not equals:
            found.append(Target(word))
        elif not name or not file:
            raise ValueError(f"got {word!r}; allowed: FILE, NAME=FILE or NAME[01-20]=FILE")
        else:
            found += [Target(file, one) for one in _expanded(name)]
    if len(found) > TARGETS_MAX:
        raise ValueError(f"{len(found)} machines; allowed: {TARGETS_MAX}")
    names = [target.name for target in found if target.name]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two machines are called {name!r}; give each a name of its own")
    return found


def _expanded(name: str) -> list[str]:
    match = _RANGE.fullmatch(name)
    if match is None:
        return [name]
    before, first, last, after = match.groups()
    if int(first) > int(last) or int(last) - int(first) >= TARGETS_MAX:
        raise ValueError(f"got {name!r}; allowed: a rising range of at most {TARGETS_MAX}, as in lab[01-20]")
    return [f"{before}{number:0{len(first)}}{after}" for number in range(int(first), int(last) + 1)]


class Serving:
    """Runs *wanted* in *run_dir*; *gateway* is the command of their gateway, if there is to be one; *grace_s*
    are the seconds that they have to go down."""

    def __init__(
        self,
        wanted: Sequence[Target],
        run_dir: Path | None,
        gateway: Sequence[str] | None,
        say: Say,
        grace_s: float = DOWN_S,
    ) -> None:
        self._grace_s = grace_s
        self._wanted = wanted
        self._run_dir = run_dir
        self._gateway = gateway
        self._say = say
        self._processes: dict[int, str] = {}  # of machines: pid -> name
        self._gateway_pid = 0
        self._status = 0
        self._ending = False
        self._changed = asyncio.Event()

    async def run(self) -> int:
        """Until every machine is down. Returns the exit status: 1 if one did not end in good order."""
        actions: dict[int, Callable[[], None]] = {signal.SIGTERM: self._end, signal.SIGINT: self._end}
        actions[signal.SIGCHLD] = self._changed.set
        with Signals(actions):
            try:
                await self._boot_all()
                if self._gateway and not self._ending:
                    self._start_gateway(self._gateway)
                await self._watch()
            finally:
                await self._take_down()
        return self._status

    # Boot

    def _start_gateway(self, command: Sequence[str]) -> None:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)
        process.returncode = 0  # `_reap` waits for it
        self._gateway_pid = process.pid

    async def _boot_all(self) -> None:
        room = asyncio.Semaphore(BOOTS_AT_ONCE)
        outcomes = await asyncio.gather(
            *(self._boot(target, room) for target in self._wanted), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not self._ending:
                raise outcome

    async def _boot(self, target: Target, room: asyncio.Semaphore) -> None:
        async with room:
            if self._ending:
                return
            label = target.name or target.file
            pids: list[int] = []

            def note(pid: int) -> None:
                pids.append(pid)
                self._processes[pid] = label

            try:
                ready, process = await asyncio.to_thread(
                    start,
                    target.file,
                    name=target.name,
                    run_dir=self._run_dir,
                    on_event=self._event,
                    on_process=note,
                )
            except PopnetError:  # it was waited for
                for pid in pids:
                    self._processes.pop(pid, None)
                raise
        self._processes[process.pid] = ready["name"]
        process.returncode = 0  # `_reap` waits for it
        self._say(f"machine {ready['name']}: up ({ready['took_ms']:.0f} ms)")

    def _event(self, event: Mapping[str, Any]) -> None:
        if event["kind"].endswith(("failed", "given-up")):
            self._say(str(event["text"]))

    # Life

    async def _watch(self) -> None:
        while True:
            self._changed.clear()
            self._reap()
            if self._ending or not self._processes:
                return
            await self._changed.wait()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._ended(pid, os.waitstatus_to_exitcode(status))

    def _ended(self, pid: int, status: int) -> None:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        if pid == self._gateway_pid:
            self._gateway_pid = 0
            if not self._ending:
                self._say(f"the gateway ended by itself ({how}); everything goes down")
                self._status = 1
                self._end()
        elif name := self._processes.pop(pid, None):
            self._say(f"machine {name}: down" if status == 0 else f"machine {name}: ended with {how}")
            self._status = self._status or int(status != 0)

    # End

    def _end(self) -> None:
        self._ending = True
        self._signal(signal.SIGTERM)
        self._changed.set()

    def _signal(self, number: int) -> None:
        for pid in (*self._processes, self._gateway_pid):
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    async def _take_down(self) -> None:
        """Everything, whatever it does meanwhile."""
        self._ending = True
        self._signal(signal.SIGTERM)
        if not await self._until_all_ended(self._grace_s):
            self._say(f"not down after {self._grace_s:g} s, so killed: {', '.join(self._processes.values())}")
            self._status = 1
            self._signal(signal.SIGKILL)
            await self._until_all_ended(DOWN_S)

    async def _until_all_ended(self, timeout_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    self._changed.clear()
                    self._reap()
                    if not self._processes and not self._gateway_pid:
                        return True
                    await self._changed.wait()
        return False


def check_names(wanted: Sequence[Target], check: Callable[[str], str]) -> None:
    """Raises PopnetError naming the first that is no name of a machine, as *check* says."""
    for target in wanted:
        if target.name is not None:
            try:
                check(target.name)
            except ValueError as error:
                raise PopnetError(f"{target.name}={target.file}: {error}") from None
