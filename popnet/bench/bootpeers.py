"""What boots beside popnet: all that gives a user a system of his own, from a bare namespace to a Linux.

Each peer starts *n* of its kind in a bed, says how long it took from the request until the last was ready
for work, and ends them. What manages them (a primary, Mininet's Python) is up before the clock of `ready_s`
starts wherever it can be told apart. Ready is said by the started thing itself, never assumed.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from popnet.bench.bed import Bed, Broken
from popnet.bench.netwires import program

START_S: Final = 60.0
"""Seconds that the start of all of them may take."""

MININET: Final = """\
import json, sys, time
from mininet.net import Mininet
net = Mininet(topo=None, build=False, controller=None, cleanup=False)
began = time.perf_counter()
hosts = [net.addHost(f"h{i}") for i in range(1, int(sys.argv[1]) + 1)]
print(json.dumps({"ready_s": time.perf_counter() - began}), flush=True)
sys.stdin.read()
for host in hosts: host.terminate()
"""

NAMESPACES: Final = ("--user", "--map-root-user", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork")
"""Those that a kernel of popnet has; `unshare` makes them in one process."""


PODMANS_GROUPS: Final = "*/libpod_parent"


@dataclass(frozen=True, slots=True)
class Started:
    """*n* that run.

    Attributes:
        ready_s: from the request until the last was ready.
        stop: ends them all, and returns once they have ended.
    """

    ready_s: float
    stop: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Peer:
    """One kind.

    Attributes:
        programs: what it needs; without one of them it is missing.
        most: how many are started at most: some take seconds each.
    """

    id: str
    name: str
    install: str
    programs: tuple[str, ...]
    start: Callable[[Bed, int], Started]
    most: int = 64

    def missing(self) -> str | None:
        for name in self.programs:
            if not program(name):
                return f"{name} is not installed"
        if self.id == "mininet" and not _has_mininet():
            return "Mininet is not installed for /usr/bin/python3"
        return None


def _has_mininet() -> bool:
    found = subprocess.run(["/usr/bin/python3", "-c", "import mininet"], capture_output=True, check=False)
    return found.returncode == 0


def popnet_machine(image: str) -> Callable[[Bed, int], Started]:
    def start(bed: Bed, n: int) -> Started:
        file = bed.directory / "bench.yaml"
        kernels = "".join(f"  k{number}: {{image: {image}}}\n" for number in range(1, n + 1))
        file.write_text(f"apiVersion: popnet/v1\nname: bench\nkernels:\n{kernels}")
        env = {"POPNET_RUN_DIR": str(bed.directory), "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-m", "popnet.cli.main"]

        def down() -> None:
            bed.run([*command, "down", "-q"], env=env, timeout_s=60)

        bed.at_end(
            lambda: subprocess.run(
                [*command, "down", "-q"],
                env={**os.environ, **env},
                check=False,
                capture_output=True,
                timeout=60,
            )
        )
        bed.run([*command, "up", str(file), "-q"], env=env, timeout_s=START_S)
        events = json.loads(bed.run([*command, "events", "-o", "json"], env=env))["items"]
        return Started(boot_s(events), down)

    return start


def boot_s(events: Sequence[dict[str, Any]]) -> float:
    """Seconds from the first secondary's start to the last one's being online, as the journal has them."""
    states = [event for event in events if event["kind"] == "kernel.state" and event.get("kid")]
    began = [event["time_s"] for event in states if event["state"] == "starting"]
    online = [event["time_s"] for event in states if event["state"] == "online"]
    if not online or len(online) != len(began):
        raise Broken(f"{len(online)} of {len(began)} kernels came online")
    return float(max(online) - min(began))


def mininet(bed: Bed, n: int) -> Started:
    process = subprocess.Popen(
        ["/usr/bin/python3", "-c", MININET, str(n)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    bed.at_end(process.kill)
    assert process.stdin is not None
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise Broken("Mininet ended without a word")
    stdin = process.stdin

    def stop() -> None:
        stdin.close()
        process.wait(START_S)

    return Started(float(json.loads(line)["ready_s"]), stop)


def namespaces(bed: Bed, n: int) -> Started:
    path = program("unshare")
    shell = [str(path), *NAMESPACES, "--mount-proc", "sh", "-c", "echo ready; read line"]
    return _all(bed, [shell] * n)


def _all(bed: Bed, commands: Sequence[Sequence[str]], ready: bytes = b"ready") -> Started:
    """Start them at once; each is ready when it prints *ready*."""
    began = time.perf_counter()
    processes = []
    for command in commands:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        bed.at_end(process.kill)
        processes.append(process)
    for process in processes:
        _wait_ready(process, ready, began + START_S)
    ready_s = time.perf_counter() - began

    def stop() -> None:
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()

    return Started(ready_s, stop)


def _wait_ready(process: "subprocess.Popen[bytes]", ready: bytes, deadline: float) -> None:
    """Until *process* has said that it is ready. Raises Broken."""
    assert process.stdout is not None
    what, said = Path(str(process.args[0])).name, b""  # type: ignore[index]
    while ready not in said:
        left = deadline - time.perf_counter()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            raise Broken(f"{what}: not ready within {START_S:g} s; it said {said[-80:]!r}")
        data = os.read(process.stdout.fileno(), 4096)
        if not data:
            raise Broken(f"{what}: ended before it was ready; it said {said[-80:]!r}")
        said += data


def _forget_groups(before: set[Path]) -> Callable[[], None]:
    """Removes podman's own control groups, which it leaves on the host, unless they were there *before*."""

    def forget() -> None:
        for group in set(Path("/sys/fs/cgroup").glob(PODMANS_GROUPS)) - before:
            with contextlib.suppress(OSError):  # somebody else's podman is in it by now
                group.rmdir()

    return forget


def podman(bed: Bed, n: int) -> Started:
    """Containers of a local image of busybox, in a store of the bed's own."""
    base = ["podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--storage-driver", "vfs"]
    base += ["--root", str(bed.directory / "store"), "--runroot", str(bed.directory / "run")]
    archive = bed.directory / "busybox.tar"
    busybox = Path(str(program("busybox"))).resolve()
    with tarfile.open(archive, "w") as tar:
        for name in ("bin", "proc", "sys", "dev", "etc", "tmp"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        tar.add(busybox, "bin/busybox")
        link = tarfile.TarInfo("bin/sh")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(link)
    image = "localhost/popnet-bench:busybox"
    bed.run([*base, "import", str(archive), image], timeout_s=60)
    bed.at_end(_forget_groups(set(Path("/sys/fs/cgroup").glob(PODMANS_GROUPS))))
    limits = ["--ulimit", "nofile=10000:10000", "--ulimit", "nproc=4096:4096", "--network", "none"]
    run = [*base, "run", "--rm", "--interactive", *limits, image, "/bin/sh", "-c", "echo ready; read line"]
    bed.at_end(
        lambda: subprocess.run([*base, "rm", "-fa", "-t", "0"], check=False, capture_output=True, timeout=60)
    )
    started = _all(bed, [run] * n)

    def stop() -> None:
        bed.run([*base, "rm", "-fa", "-t", "0"], timeout_s=60)
        started.stop()

    return Started(started.ready_s, stop)


PEERS: Final = (
    Peer("popnet-full", "popnet, image full", "", (), popnet_machine("full")),
    Peer("popnet-light", "popnet, image light", "", ("busybox",), popnet_machine("light")),
    Peer("mininet", "Mininet hosts", "apt install mininet", ("mnexec",), mininet),
    Peer("unshare", "unshare, the same namespaces", "apt install util-linux", ("unshare",), namespaces),
    Peer("podman", "podman run busybox", "apt install podman runc", ("podman", "runc", "busybox"), podman, 8),
)
