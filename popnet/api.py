"""The Python API: a machine, and its kernels, for asyncio.

    async with popnet.Machine.from_file("demo.yaml") as machine:
        result = await machine["k1"].run(["ping", "-c1", "k2"])
        assert result.ok

Everything here talks to the machine's control socket, as the `popnet` command does; machines that the command
started and machines started here are the same. Errors are those of `popnet.core.errors`, with a `hint`.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

from popnet.control import launch, wire
from popnet.control.capturefeeds import CaptureFeeds
from popnet.control.capturing import Capture
from popnet.control.client import Client
from popnet.control.running import CommandFailed, CommandTimeout, Result, run
from popnet.control.stream import ClientStream, connect, follow
from popnet.core import errors
from popnet.graph import build
from popnet.machine.units import format_chance

__all__ = [
    "Capture",
    "ClientStream",
    "CommandFailed",
    "CommandTimeout",
    "Kernel",
    "Machine",
    "Result",
    "Wire",
]

OnEvent = Callable[[Mapping[str, Any]], None]


class Machine:
    """A machine.

    Made by `from_file` (in a context: boots it, and takes it down at the end), `up` (boots it, and leaves
    it), or `attach` (one that runs already; in a context or not, it is left as it is).
    """

    def __init__(
        self,
        file: str | os.PathLike[str] | None,
        name: str | None,
        run_dir: Path | None,
        on_event: OnEvent | None = None,
    ) -> None:
        """For the makers."""
        self._file = file
        self._name = name
        self._run_dir = run_dir
        self._on_event = on_event
        self._client: Client | None = None
        self._process: launch.Process | None = None
        self._down_at_exit = False

    @classmethod
    def from_file(
        cls,
        file: str | os.PathLike[str],
        *,
        name: str | None = None,
        run_dir: Path | None = None,
        on_event: OnEvent | None = None,
    ) -> Self:
        """The machine of a machine file: up from the entry of its context until the exit.

        Args:
            file: a path, or the bare name of a machine file that popnet brings along, such as `demo`.
            name: instead of the name in the file.
            run_dir: instead of the usual run directory.
            on_event: called, in another thread, with each event of the boot.
        """
        return cls(file, name, run_dir, on_event)

    @classmethod
    async def up(
        cls,
        file: str | os.PathLike[str],
        *,
        name: str | None = None,
        run_dir: Path | None = None,
        on_event: OnEvent | None = None,
    ) -> Self:
        """Boots the machine of *file*, as `popnet up` does. It stays until `down`, longer than this process.

        Raises InvalidMachineFile, BootFailed, Refused, Unavailable.
        """
        machine = cls(file, name, run_dir, on_event)
        await machine._start()
        return machine

    @classmethod
    def attach(cls, name: str | None = None, *, run_dir: Path | None = None) -> Self:
        """A machine that runs: *name*, or $POPNET_MACHINE, or the only one. Raises NoSuchMachine."""
        machine = cls(None, name, run_dir)
        machine._client = Client(name, run_dir=run_dir)
        return machine

    @property
    def name(self) -> str:
        return self.client.machine

    @property
    def client(self) -> Client:
        """The synchronous client of its control API, for what has no method here."""
        if self._client is None:
            raise errors.NoSuchMachine("this machine is not up yet", "use it inside `async with`")
        return self._client

    def __getitem__(self, kernel: str) -> "Kernel":
        """The kernel of that name. It is not asked whether there is one until something is done with it."""
        return Kernel(self, kernel)

    def __repr__(self) -> str:
        return f"<popnet.Machine {self._client.machine if self._client else self._name or self._file}>"

    async def __aenter__(self) -> Self:
        if self._client is None:
            await self._start()
            self._down_at_exit = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._down_at_exit:
            await self.down()

    async def info(self) -> dict[str, Any]:
        """Its name, file, state, networks, and more."""
        return dict(await self._get("/v1/machine"))

    async def kernels(self) -> list[dict[str, Any]]:
        """A row a kernel, by kid: name, state, generation, cpus, ipv4, ..., as in `popnet ps -o json`."""
        return list(await self._get("/v1/kernels"))

    async def services(self) -> list[dict[str, Any]]:
        """A row a registered service: service, kernel, kid, generation, version, port."""
        return list(await self._get("/v1/services"))

    async def images(self) -> list[dict[str, Any]]:
        """A row an image that its kernels can run: name, root, size_bytes, sha256, origin, path, ..."""
        return list(await self._get("/v1/images"))

    async def counters(self) -> dict[str, Any]:
        """The counters of all kernels and links."""
        return dict(await self._get("/v1/counters"))

    async def graph(self) -> dict[str, Any]:
        """Its kernels and links, with what went over them and is wrong with them; `popnet.graph` draws it."""
        answers = [await self._get(f"/v1/{what}") for what in ("machine", "kernels", "counters", "links")]
        return build(*answers)

    def events(self, since: int = 0, *, follow: bool = True) -> AsyncIterator[dict[str, Any]]:
        """What happened and, with *follow*, happens: each event with a "seq" larger than *since*."""
        return self._follow(f"/v1/events?since={since}&follow={follow:d}")

    def capture(
        self, where: str = "any", filter: str = "", *, snap_length: int = 0, super_frames: bool = False
    ) -> Capture:
        """The frames of several NICs or links in one file, merged by time, for `async with`.

        It goes on with a kernel that dies and is booted again, as another interface of the file.

        Args:
            where: `any` (all kernels), or kernels and links (`k1-k2`, seen from k1) joined by commas.
            filter: in tcpdump's language; empty: all of them.
            snap_length: bytes to keep of a frame; 0: all.
            super_frames: keep frames of up to 64 KiB as kernels hand them over, not as on a wire.
        """
        return Capture(CaptureFeeds(self.client, where, filter, snap_length, super_frames=super_frames))

    def link(self, kernel: str, peer: str) -> "Wire":
        """The link between two kernels, to impair it, cut it, or see what came of that."""
        return Wire(self, kernel, peer)

    async def links(self) -> list[dict[str, Any]]:
        """A row for each direction of a link or NIC that is impaired or cut, as in `popnet link -o json`."""
        return list(await self._get("/v1/links"))

    async def run_faults(self, plan: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Any]:
        """Runs a plan of faults, in the words of a machine file; None: the file's own. Raises Refused.

        Does not wait for its end. Returns "running", "since_s" and "steps".
        """
        return dict(await self._post("/v1/faults/run", {"faults": None if plan is None else list(plan)}))

    async def stop_faults(self) -> dict[str, Any]:
        """Ends the plan that runs, and all flaps. What they did stays."""
        return dict(await self._post("/v1/faults/stop"))

    async def faults(self) -> dict[str, Any]:
        """The plan that ran last: "running", "since_s" and "steps", each with "done"."""
        return dict(await self._get("/v1/faults"))

    async def plan(self, file: str | os.PathLike[str]) -> dict[str, Any]:
        """The "steps" that would make the machine what *file* says, and a "token" of file and machine as they
        are now. Raises InvalidMachineFile, Refused."""
        return dict(await self._post("/v1/plan", _file_body(file)))

    async def apply(self, file: str | os.PathLike[str], *, token: str | None = None) -> dict[str, Any]:
        """Makes the machine what *file* says, as one transaction; what `plan` shows, done.

        With the *token* of a plan it is refused if the file or the machine have changed since. Raises
        InvalidMachineFile, Refused: then the machine is as it was, or the text says what is not.
        """
        body = _file_body(file)
        return dict(await self._post("/v1/apply", body if token is None else {**body, "token": token}))

    async def ssh_config(self) -> str:
        """Configuration for OpenSSH clients, a Host for each kernel."""
        return str(await self._get("/v1/ssh-config"))

    async def down(self) -> None:
        """Takes it down, and returns once all its processes are gone. Idempotent."""
        self._down_at_exit = False
        with contextlib.suppress(errors.NoSuchMachine, errors.PeerDied):  # then it is down
            await asyncio.to_thread(launch.take_down, self.client)
        if self._process is not None:
            await asyncio.to_thread(self._process.wait, launch.DOWN_S)

    async def _start(self) -> None:
        assert self._file is not None
        starting = asyncio.ensure_future(
            asyncio.to_thread(
                launch.start,
                os.fspath(self._file),
                name=self._name,
                run_dir=self._run_dir,
                on_event=self._on_event,
            )
        )
        try:
            ready, self._process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            (
                ready,
                self._process,
            ) = await starting  # a thread cannot be cancelled: up it comes, and down it goes
            self._client = Client(ready["name"], run_dir=self._run_dir)
            await self.down()
            raise
        self._client = Client(ready["name"], run_dir=self._run_dir)

    async def _get(self, path: str) -> Any:
        return await asyncio.to_thread(self.client.get, path)

    async def _post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return await asyncio.to_thread(self.client.post, path, body)

    def _follow(self, path: str) -> AsyncIterator[dict[str, Any]]:
        return follow(self.client.socket, path)


class Wire:
    """The link of a kernel to a peer, or its NIC (all its traffic). Methods raise Refused.

    Each acts on both directions, or, with *direction* "out" or "in", on the one from or to the kernel. Frames
    suffer, messages and consoles never do.
    """

    def __init__(self, machine: Machine, kernel: str, peer: str | None) -> None:
        self.machine = machine
        self.kernel = kernel
        self.peer = peer

    def __repr__(self) -> str:
        return f"<popnet.Wire {self.kernel} {self.peer or 'nic'} of {self.machine!r}>"

    async def impair(
        self,
        *,
        direction: str = "both",
        delay_s: float = 0,
        jitter_s: float = 0,
        distribution: str = "uniform",
        ordered: bool = False,
        loss: float | str = 0,
        duplicate: float = 0,
        corrupt: float = 0,
        reorder: float = 0,
        rate_bps: int | None = None,
        limit_bytes: int | None = None,
        match: str = "",
        seed: int | None = None,
    ) -> list[dict[str, Any]]:
        """Impairs it from now on, instead of what was set before; its rows, as in `Machine.links`.

        Args:
            delay_s, jitter_s: each frame is late by the delay, and by the jitter times a number of the
                *distribution*: uniform, normal, pareto.
            ordered: jitter lets no frame overtake another.
            loss: a probability from 0 to 1, or bursts as in a machine file: "gemodel 1% 20%".
            duplicate, corrupt, reorder: probabilities.
            rate_bps: bits a second; limit_bytes: that may wait for it, by default as many as 100 ms take.
            match: only frames that match, in tcpdump's language.
            seed: of all chance; None: a new one, which the rows tell.
        """
        words = {
            "delay": _duration(delay_s),
            "jitter": _duration(jitter_s),
            "distribution": distribution,
            "ordered": ordered,
            "loss": loss if isinstance(loss, str) else format_chance(loss),
            "duplicate": format_chance(duplicate),
            "corrupt": format_chance(corrupt),
            "reorder": format_chance(reorder),
            "match": match,
        }
        if rate_bps is not None:
            words["rate"] = f"{rate_bps}bit"
        if limit_bytes is not None:
            words["limit"] = limit_bytes
        if seed is not None:
            words["seed"] = seed
        return await self._do("set", direction, impairment=words)

    async def clear(self, *, direction: str = "both") -> list[dict[str, Any]]:
        """Impairs it no longer. What is cut stays cut."""
        return await self._do("clear", direction)

    async def down(self, *, direction: str = "both") -> list[dict[str, Any]]:
        """Cuts it: no frame passes."""
        return await self._do("down", direction)

    async def up(self, *, direction: str = "both") -> list[dict[str, Any]]:
        """Mends it: frames pass again, with the impairments that are set."""
        return await self._do("up", direction)

    async def flap(
        self, *, down_s: float = 1, up_s: float = 1, times: int = 1, direction: str = "both"
    ) -> list[dict[str, Any]]:
        """Begins to cut it and mend it, *times* times. Does not wait for the end."""
        flap = {"down": _duration(down_s), "up": _duration(up_s), "times": times}
        return await self._do("flap", direction, flap=flap)

    async def rows(self) -> list[dict[str, Any]]:
        """A row for each direction that is impaired or cut: "from", "to", "impairment", "observed", ..."""
        ends = {self.kernel, self.peer}
        return [row for row in await self.machine.links() if {row["from"], row["to"]} == ends]

    async def _do(self, op: str, direction: str, **more: Any) -> list[dict[str, Any]]:
        body = {"kernel": self.kernel, "peer": self.peer, "direction": direction, **more}
        return list(await self.machine._post(f"/v1/links/{op}", body))


def _file_body(file: str | os.PathLike[str]) -> dict[str, Any]:
    path = Path(file).absolute()
    try:
        return {"file": str(path), "text": path.read_text()}
    except (OSError, UnicodeDecodeError) as error:
        raise errors.InvalidMachineFile(f"machine file {path}: {error}") from None


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1e9)}ns"


class Kernel:
    """A kernel of a machine. All methods raise NoSuchKernel if there is none of its name."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.name = name
        self._path = f"/v1/kernels/{quote(name, safe='')}"

    def __repr__(self) -> str:
        return f"<popnet.Kernel {self.name} of {self.machine!r}>"

    async def info(self) -> dict[str, Any]:
        """Its row, as in `Machine.kernels`."""
        return dict(await self.machine._get(self._path))

    async def boot(self) -> dict[str, Any]:
        """Boots it, as its next generation; its row and "timeline". Raises IllegalState, BootFailed."""
        return dict(await self.machine._post(self._path + "/boot"))

    async def kill(self) -> dict[str, Any]:
        """Kills it, as a crash would; its row. Raises IllegalState."""
        return dict(await self.machine._post(self._path + "/kill"))

    async def load(self, *, image: str | None = None, append: str | None = None) -> dict[str, Any]:
        """Gives it its partition; its row. Raises IllegalState, Refused.

        With *image* (a name, or the path of its directory) or *append* (boot parameters) it is what these say
        until it is unloaded, and may be a new kernel of the machine.
        """
        asked = {"image": image, "append": append}
        query = urlencode({key: value for key, value in asked.items() if value is not None})
        return dict(await self.machine._post(f"{self._path}/load?{query}"))

    async def update(
        self,
        *,
        cpus: str | None = None,
        memory: str | None = None,
        devices: str | None = None,
        giver: str | None = None,
    ) -> list[dict[str, Any]]:
        """Gives it another partition while it runs; the rows of the kernels that changed.

        Args:
            cpus: "+3", "-2-3", or exactly "0-1".
            memory: "+512M", "-256M", "1G", or "none".
            devices: "+loop0,-loop1".
            giver: the kernel that gives what is added, in one step.

        Raises IllegalState, Refused; then nothing has changed.
        """
        asked = {"cpus": cpus, "memory": memory, "devices": devices, "from": giver}
        body = {key: value for key, value in asked.items() if value is not None}
        return list(await self.machine._post(self._path + "/update", body))

    async def unload(self) -> dict[str, Any]:
        """Takes its partition back; its row. It must not run. Raises IllegalState."""
        return dict(await self.machine._post(self._path + "/unload"))

    async def reboot(self) -> dict[str, Any]:
        """Ends it in good order and boots it; as `boot`. Raises IllegalState, BootFailed."""
        return dict(await self.machine._post(self._path + "/reboot"))

    async def panic(self) -> dict[str, Any]:
        """Has it panic; its row. Raises IllegalState."""
        return dict(await self.machine._post(self._path + "/panic"))

    async def hang(self) -> dict[str, Any]:
        """Has it hang; its row, which says so a little later. Raises IllegalState."""
        return dict(await self.machine._post(self._path + "/hang"))

    async def timeline(self) -> list[dict[str, Any]]:
        """The steps of its last boot: "step", "start_ms", "took_ms"."""
        return list(await self.machine._get(self._path + "/timeline"))

    def dmesg(self, *, follow: bool = False, previous: bool = False) -> AsyncIterator[dict[str, Any]]:
        """The lines of its log: "seq", "generation", "time_s" since its boot, "level", "text".

        With *previous* those of the last generation that has ended.
        """
        return self.machine._follow(f"{self._path}/dmesg?follow={follow:d}&previous={previous:d}")

    async def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes | str = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout_s: float | None = None,
        check: bool = False,
    ) -> Result:
        """Runs a program in it, to its end.

        Args:
            argv: the program and its arguments; for a shell: ["sh", "-c", script].
            input: what it reads; then its stdin ends.
            env: added to the kernel's environment.
            cwd: the directory it starts in.
            timeout_s: seconds after which it is killed; None: never.
            check: raise CommandFailed unless it succeeds.

        Raises: NoSuchProgram, NotExecutable, CommandTimeout, CommandFailed, PeerDied.
        """
        return await run(
            self._socket,
            self.name,
            argv,
            input=input,
            env=env,
            cwd=cwd,
            timeout_s=timeout_s,
            check=check,
        )

    async def console(
        self, n: int = 0, *, write: bool = True, force: bool = False, history: bool = True
    ) -> ClientStream:
        """A client of its terminal *n*: channel 0 is bytes both ways.

        Args:
            write: with the keyboard, which one client has. Raises Refused if it is taken, unless *force*.
            history: what it showed before comes first.
        """
        path = wire.tty_path(self.name, n, write=write, force=force, history=history)
        return await connect(self._socket, path)

    async def history(self, n: int = 0) -> str:
        """What its terminal *n* showed since power-on, as far as the primary remembers."""
        return str(await self.machine._get(f"{self._path}/tty/{n}/history"))

    def capture(
        self,
        filter: str = "",
        *,
        peer: str | None = None,
        snap_length: int = 0,
        divert: str = "",
        super_frames: bool = False,
    ) -> Capture:
        """The frames of its NIC, for `async with`, which raises Refused for a bad filter or *divert*.

        Args:
            filter: in tcpdump's language; empty: all of them.
            peer: only those between it and the kernel of this name.
            snap_length: bytes to keep of a frame; 0: all.
            divert: "in", "out" or "both": captured frames of this direction, to or from the kernel, end here,
                until the capture does. What `inject` sends is captured and never diverted.
            super_frames: keep frames of up to 64 KiB as kernels hand them over, not as on a wire.
        """
        where, links = (self.name, None) if peer is None else ("", [(self.name, peer)])
        feeds = CaptureFeeds(
            self.machine.client,
            where,
            filter,
            snap_length,
            links=links,
            divert=divert,
            super_frames=super_frames,
        )
        return Capture(feeds)

    async def jitter(self, seconds: float = 5.0, *, interval_us: int = 1000, fifo: int | None = None) -> Any:
        """How punctual its CPUs are: timers for half of the time, gaps for the other; see `popnet jitter`.

        Args:
            fifo: a priority of SCHED_FIFO, for a kernel that has its cores alone.

        Returns "wakeups" and "noise", each with count, total_ns, min_ns, max_ns and buckets of (from_ns,
        to_ns, count); "missed" timers, "looked_ns", "cpu". Raises Refused.
        """
        params = {"seconds": seconds, "interval_us": interval_us, "fifo": fifo}
        async with await connect(self._socket, wire.stream_path(self.name, "jitter"), params) as stream:
            while await stream.receive() is not None:
                pass
            return stream.result or {}

    @property
    def nic(self) -> Wire:
        """Its NIC, to impair or cut all its traffic."""
        return Wire(self.machine, self.name, None)

    async def inject(self, *frames: bytes | Iterable[bytes], direction: str = "out") -> int:
        """Sends frames out of its NIC, each from its Ethernet header on; the number that were sent.

        Less than were given if there was no room for some. Raises Refused for one that is no frame by its
        size.

        Args:
            direction: "out", as if the kernel had sent them; "in", to it, as if they had come over a link.
        """
        params = {"direction": direction}
        async with await connect(self._socket, wire.stream_path(self.name, "inject"), params) as stream:
            for item in frames:
                for frame in (item,) if isinstance(item, bytes) else item:
                    await stream.send(frame)
            await stream.finish()
            while await stream.receive() is not None:
                pass
            return int((stream.result or {}).get("injected", 0))

    async def dial(self, port: int, host: str = "127.0.0.1") -> ClientStream:
        """A connection to a TCP port, made from inside it; bytes both ways. Raises Refused if it fails."""
        params = {"port": port, "host": host}
        return await connect(self._socket, wire.stream_path(self.name, "dial"), params)

    @property
    def _socket(self) -> Path:
        return self.machine.client.socket
