"""A machine as a user runs it: through the `popnet` command, on this host, taken down and checked for residue
afterwards."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from popnet.cli import residue

POPNET = (sys.executable, "-m", "popnet.cli.main")

PAIR = """\
apiVersion: popnet/v1
name: {name}
kernels:
  k1: {{image: full}}
  k2: {{image: full}}
"""


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    """Poll *condition* until it is true; returns what it returned. For states that nothing announces."""
    deadline = time.monotonic() + timeout_s
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


FOREIGN = ("cni-", "podman", "docker", "veth", "virbr", "br-")
"""How interfaces of others on this host begin; those of a machine are in its own namespaces."""


def nothing_left(before: residue.Snapshot, running: residue.Snapshot, run_dir: Path) -> None:
    """A machine that ran has left nothing: none of its processes and files, at once. What is the whole host's
    may be somebody else's, who runs containers or tests beside us: that comes and goes."""
    sentences = residue.left(before, running, residue.take(run_dir))
    assert [text for text in sentences if text.startswith(("process ", "file "))] == []
    wait_until(
        lambda: not list(filter(_ours, residue.left(before, running, residue.take(run_dir)))),
        "the host is as it was, but for " + "; ".join(sentences),
    )


def _ours(sentence: str) -> bool:
    """Whether what is left may come from a machine of a lab."""
    what, _, name = sentence.partition(" ")
    if what in ("interface", "route"):
        return not name.startswith(FOREIGN)
    return what != "mount" or "popnet" in name or "pytest" in name


def namespaces(processes: Iterable[residue.Process]) -> set[str]:
    """The namespaces that *processes* are in, as `net:[4026532000]`."""
    found = set()
    for process in processes:
        for name in ("user", "net", "mnt", "pid", "uts", "ipc"):
            try:
                found.add(str(Path(f"/proc/{process.pid}/ns/{name}").readlink()))
            except OSError:
                continue
    return found


@dataclass
class Lab:
    """One run directory, and machines in it.

    Attributes:
        prefix: words before every command, to run it as somebody else.
    """

    run_dir: Path
    tmp: Path
    prefix: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)

    def env(self) -> dict[str, str]:
        # XDG_RUNTIME_DIR of the user who runs the tests must not matter.
        base = {k: v for k, v in os.environ.items() if not k.startswith(("POPNET_", "XDG_"))}
        cache = {"POPNET_CACHE_DIR": str(self.tmp / "cache")}
        return {**base, "POPNET_RUN_DIR": str(self.run_dir), "NO_COLOR": "1", **cache, **self.environ}

    def command(self, *words: str) -> list[str]:
        return [*self.prefix, *POPNET, *words]

    def popnet(
        self, *words: str, check: bool = True, timeout_s: float = 60, **more: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run a popnet command to its end; with *check* it must succeed."""
        more.setdefault("stdin", subprocess.DEVNULL) if "input" not in more else None
        result = subprocess.run(
            self.command(*words), env=self.env(), capture_output=True, text=True, timeout=timeout_s, **more
        )
        if check:
            assert result.returncode == 0, f"{words}: {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result

    def start(self, *words: str, **more: Any) -> "subprocess.Popen[bytes]":
        """Start a popnet command that goes on."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(self.command(*words), env=self.env(), **{**options, **more})

    def file(self, text: str, name: str = "machine.yaml") -> str:
        path = self.tmp / name
        path.write_text(text)
        return str(path)

    def up(self, text: str = PAIR, name: str = "lab") -> "Lab":
        """Boot the machine that *text* describes."""
        self.popnet("up", self.file(text.format(name=name)))
        return self

    def exec(self, kernel: str, *argv: str, **more: Any) -> "subprocess.CompletedProcess[str]":
        return self.popnet("exec", kernel, "--", *argv, **more)

    def sh(self, kernel: str, script: str, **more: Any) -> str:
        """The output of a shell script in *kernel*."""
        return self.exec(kernel, "sh", "-c", script, **more).stdout

    def ping(self, kernel: str, peer: str, *options: str) -> None:
        """Wait until *peer* answers *kernel*: a frame may be dropped, a first ARP too; a host may be busy."""

        def answered() -> bool:
            return self.exec(kernel, "ping", "-c1", "-W10", *options, peer, check=False).returncode == 0

        wait_until(answered, f"{peer} answers {kernel}", 60.0)

    def answers(self, kernel: str, *words: str) -> set[str]:
        """Who answers within a second when *kernel* pings a broadcast or multicast address."""
        argv = ("ping", "-n", "-i0.3", "-w1", *words)
        return set(
            re.findall(r"from (\S+?)(?:%\w+)?: icmp_seq", self.exec(kernel, *argv, check=False).stdout)
        )

    def kernels(self, machine: str | None = None) -> dict[str, Mapping[str, Any]]:
        """The rows of `popnet ps`, by kernel."""
        chosen = ("-m", machine) if machine else ()
        rows = json.loads(self.popnet(*chosen, "-o", "json", "ps").stdout)["items"]
        return {row["name"]: row for row in rows}

    def events(self) -> list[dict[str, Any]]:
        return list(json.loads(self.popnet("-o", "json", "events").stdout)["items"])

    def machines(self) -> list[str]:
        """Names of machine directories, alive or not."""
        if not self.run_dir.exists():
            return []
        return sorted(path.name for path in self.run_dir.iterdir() if path.is_dir())

    def down(self) -> None:
        """Take everything down, whatever state it is in."""
        for machine in self.machines():
            self.popnet("-m", machine, "down", check=False)
        self.popnet("gc", check=False)
