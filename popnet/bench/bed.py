"""Where networks are measured: namespaces of their own, which vanish with their pid 1.

Theory of operation. `enter` forks a process into new pid, mount, network and IPC namespaces (for an ordinary
user below a user namespace in which it is root) and runs a function there as pid 1, with /proc and /run of
its own. Everything that is measured lives below it: when pid 1 ends, however it ends, Linux kills every
process in its pid namespace, and the network namespaces go with the last of them. So nothing reaches the
host's network, and nothing can be left there.

    who started us             worker                       pid 1 of the bed
    (Ctrl-C reaches all three) fork_into ---------------->  unwinds: what it started is ended in order
    dies: SIGTERM ---------->  dies: SIGTERM ------------>  the same; END_S later it ends in any case

A *place* is a network namespace to run programs in. A `Bed` remembers what was started in one wire's name,
and ends it: no wire is measured beside the remains of another.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, NoReturn

from popnet.core.errors import PopnetError, Refused
from popnet.kernel import linux

END_S: Final = 20
"""Seconds that a bed may take to unwind after Ctrl-C or SIGTERM."""

GRACE_S: Final = 3.0
"""Seconds that a program of a wire may take to end after SIGTERM."""

CONGESTION: Final = "cubic"
"""What TCP uses everywhere: hosts differ in their default."""

TOOLS: Final = ("ip", "nsenter", "taskset")


class Broken(Exception):
    """A program that the measurement needs failed; the text says which, and what it said last."""


def enter(main: Callable[[], None]) -> int:
    """Run *main* as pid 1 of new namespaces; the exit status: 0, 1 after an error told on stdout, as a line
    of JSON, 130 after Ctrl-C. The caller must have one thread only.

    Raises:
        Refused: the host does not allow these namespaces.
    """
    linux.die_with_parent(signal.SIGTERM)
    flags = linux.CLONE_NEWPID | linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC
    uid, gid = os.geteuid(), os.getegid()
    try:
        pid = linux.fork_into(flags if uid == 0 else flags | linux.CLONE_NEWUSER)
    except OSError as error:
        hint = "allow user namespaces (see popnet doctor), or run it as root"
        raise Refused(f"this host gives no namespaces to measure in: {error}", hint) from error
    if pid == 0:
        _act(main, uid, gid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # pid 1 gets it too, and unwinds
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _act(main: Callable[[], None], uid: int, gid: int) -> NoReturn:
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _unwind)
        signal.signal(signal.SIGALRM, lambda number, frame: os._exit(1))  # pid 1 has no default actions
        linux.die_with_parent(signal.SIGTERM)
        _own_system(uid, gid)
        main()
        status = 0
    except KeyboardInterrupt:
        status = 130
    except (PopnetError, Broken) as error:
        print(json.dumps({"error": str(error), "hint": getattr(error, "hint", "")}))
    except BaseException:
        sys.excepthook(*sys.exc_info())  # os._exit would swallow it
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _unwind(number: int, frame: object) -> None:
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, signal.SIG_IGN)
    signal.alarm(END_S)
    raise KeyboardInterrupt


def _own_system(uid: int, gid: int) -> None:
    try:
        if uid:
            linux.set_dumpable()
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        linux.mount("none", "/", "", linux.MS_REC | linux.MS_PRIVATE)
        linux.mount("proc", Path("/proc"), "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
        linux.mount("tmpfs", Path("/run"), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
    except OSError as error:
        hint = "in a container it needs more rights; else run it as root"
        raise Refused(f"this host does not let us measure in namespaces: {error}", hint) from error


@dataclass(frozen=True, slots=True)
class Place:
    """A network namespace, by the path of a file that is one."""

    net: str

    def command(self, argv: Sequence[str]) -> list[str]:
        """What runs *argv* in it."""
        return ["nsenter", f"--net={self.net}", "--", *argv]


HERE: Final = Place("/proc/self/ns/net")
"""The bed's own namespace, where what joins two others may run."""


@dataclass(slots=True)
class Bed:
    """What one wire has made; a context, whose end ends all of it.

    Attributes:
        directory: for sockets and files, gone at the end: on the tmpfs of `enter`, which goes with pid 1.
    """

    directory: Path = field(init=False)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> "Bed":
        self.directory = Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bed-", dir="/run"))
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def at_end(self, action: Callable[[], object]) -> None:
        """Have *action* called at the end, before what was made earlier is ended."""
        self._stack.callback(action)

    def place(self, name: str) -> Place:
        """A new, empty network namespace."""
        self.run(["ip", "netns", "add", name])
        self.at_end(lambda: subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True))
        place = Place(f"/run/netns/{name}")
        self.run(["ip", "link", "set", "lo", "up"], place)
        return place

    def run(
        self,
        argv: Sequence[str],
        place: Place | None = None,
        *,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
        text: str | None = None,
    ) -> str:
        """What *argv* prints. Raises Broken if it fails, or takes too long."""
        try:
            done = subprocess.run(
                place.command(argv) if place else argv,
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, **(env or {})},
                timeout=timeout_s,
                input=text or "",
            )
        except subprocess.TimeoutExpired as error:
            raise Broken(f"{argv[0]}: no end within {timeout_s:g} s") from error
        except OSError as error:
            raise Broken(f"{argv[0]}: {error.strerror}") from error
        if done.returncode:
            raise Broken(f"{argv[0]}: {last_line(done.stderr or done.stdout) or done.returncode}")
        return done.stdout

    @contextlib.contextmanager
    def running(self, argv: Sequence[str], place: Place, ready: str) -> Iterator["subprocess.Popen[str]"]:
        """A program for as long as the context lasts, from the line on that contains *ready*."""
        with _started(place.command(argv), subprocess.PIPE, {}) as process:
            assert process.stdout is not None
            while ready not in (line := process.stdout.readline()):
                if not line:
                    raise Broken(f"{argv[0]}: it ended before it was ready")
            yield process

    def start(
        self, argv: Sequence[str], place: Place | None = None, env: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        """A program until the end of the bed; what it says goes nowhere."""
        command = place.command(argv) if place else argv
        return self._stack.enter_context(_started(command, subprocess.DEVNULL, env or {}))


@contextlib.contextmanager
def _started(
    command: Sequence[str], output: int, env: Mapping[str, str]
) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # some end when theirs does
        stdout=output,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **env},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in (process.stdin, process.stdout):
            _close(pipe)


def _close(pipe: "IO[Any] | None") -> None:
    if pipe is not None:
        pipe.close()


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


def cpu_s() -> dict[str, float]:
    """CPU seconds so far, user and system, by thread of what runs in the bed, and of `ended` children.

    What a softirq takes while a process runs is in that process's time; what ksoftirqd takes is not here.
    """
    spent = {}
    for tasks in Path("/proc").glob("[0-9]*/task"):
        if tasks.parent.name == "1":
            continue  # the bench itself
        with contextlib.suppress(OSError):
            for task in tasks.iterdir():
                with contextlib.suppress(OSError, ValueError):
                    ran_ns = int((task / "schedstat").read_text().split()[0])
                    spent[f"{tasks.parent.name}/{task.name}"] = ran_ns / 1e9
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent["ended"] = ended.ru_utime + ended.ru_stime
    return spent


def spent_s(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """CPU seconds between two readings of `cpu_s`: of what ran at both times, and of what ended meanwhile."""
    return sum(after[key] - before[key] for key in before if key in after)
