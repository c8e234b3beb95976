"""The wires that are measured: names, modes, what each needs, and the command that measures it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from popnet.core.limits import MESSAGE_SIZE_MAX

RECORD_MAX: Final = 64 << 10
"""Of wires whose messages are single records or datagrams."""

POPNET_MODES: Final = ("poll", "adaptive", "interrupt")
"""popnet's receive modes. Other wires have the one they have: they block in a system call, or they poll."""


@dataclass(frozen=True, slots=True)
class WireKind:
    """Something that carries messages between two processes.

    Attributes:
        modules: what its worker imports beside popnet.
        programs: one of them has to be there, too.
        install: how to get what is missing.
        size_max: bytes of its largest message.
    """

    id: str
    name: str
    modes: tuple[str, ...] = ("blocking",)
    modules: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    install: str = ""
    size_max: int = MESSAGE_SIZE_MAX

    @property
    def ours(self) -> bool:
        """Whether it is popnet that is measured: it runs in popnet's own interpreter."""
        return self.id.startswith("popnet") or self.id == "eventfd-asyncio"


COMPILERS: Final = ("cc", "gcc", "clang")
MPI_COMPILERS: Final = ("mpicc.mpich", "mpicc")
MPI_LAUNCHERS: Final = ("mpiexec.mpich", "mpiexec")

WIRES: Final = (
    WireKind(
        "popnet-c", "popnet, C", POPNET_MODES, (), COMPILERS, install="apt install gcc", size_max=RECORD_MAX
    ),
    WireKind("popnet-python", "popnet, Python", POPNET_MODES, size_max=RECORD_MAX),
    WireKind("popnet-batches", "popnet, Python, batches", POPNET_MODES, size_max=RECORD_MAX),
    WireKind("popnet-packed", "popnet, Python, packed", POPNET_MODES, size_max=RECORD_MAX),
    WireKind("popnet-asyncio", "popnet, asyncio", ("adaptive", "interrupt"), size_max=RECORD_MAX),
    WireKind(
        "popnet-asyncio-batches", "popnet, asyncio, batches", ("adaptive", "interrupt"), size_max=RECORD_MAX
    ),
    WireKind("popnet-messages", "popnet, messages", ("adaptive", "interrupt")),
    WireKind("eventfd-asyncio", "bare eventfd, asyncio", ("interrupt",)),
    WireKind("memcpy", "memcpy", ("own", "other"), programs=COMPILERS, install="apt install gcc"),
    WireKind("pipe", "multiprocessing.Pipe"),
    WireKind("unix-stream", "AF_UNIX stream"),
    WireKind("unix-seqpacket", "AF_UNIX seqpacket", size_max=RECORD_MAX),
    WireKind("tcp", "TCP loopback"),
    WireKind("zeromq", "ZeroMQ ipc", modules=("zmq",), install="pip install pyzmq"),
    WireKind(
        "posix-mq",
        "POSIX mq",
        modules=("posix_ipc",),
        install="pip install posix_ipc",
        size_max=RECORD_MAX,
    ),
    WireKind(
        "iceoryx2",
        "iceoryx2",
        ("poll",),
        ("iceoryx2",),
        install="pip install iceoryx2",
        size_max=RECORD_MAX,
    ),
    WireKind(
        "mpi", "MPI, mpi4py", ("poll",), ("mpi4py",), MPI_LAUNCHERS, "apt install mpich; pip install mpi4py"
    ),
    WireKind("mpi-c", "MPI, C", ("poll",), (), MPI_COMPILERS, "apt install mpich libmpich-dev"),
)

CARRIES_NOTHING: Final = frozenset({"eventfd-asyncio"})
"""Wires that only wake: a yardstick, without bytes, streams and sizes."""

SOURCES: Final = Path(__file__).parent / "c"
INCLUDES: Final = (
    Path(__file__).parent.parent / "transport/native",
    Path(__file__).parent.parent / "transport/include",
)


@dataclass(slots=True)
class Host:
    """Where workers run: on which CPUs, by which interpreters, with which programs.

    Attributes:
        peers_python: the interpreter that has the foreign libraries.
        cpus: one for each end; empty: wherever Linux puts them.
        build: directory for compiled programs.
    """

    build: Path
    peers_python: str = sys.executable
    cpus: tuple[int, ...] = field(default_factory=lambda: two_cpus())
    environment: dict[str, str] = field(default_factory=dict)

    def missing(self, kind: WireKind) -> str | None:
        """What *kind* lacks here; None if it can be measured."""
        lacking = [name for name in kind.modules if not self._has_module(name)]
        if kind.programs and not self.program(kind.programs):
            lacking.append(kind.programs[-1])
        return f"not installed: {', '.join(lacking)}" if lacking else None

    def program(self, names: Sequence[str]) -> str | None:
        """The first of *names* that there is, also beside the peers' interpreter."""
        beside = str(Path(self.peers_python).parent)  # first of all: parts of one MPI belong together
        for path in (beside, os.environ.get("PATH", os.defpath)):
            for name in names:
                if found := shutil.which(name, path=path):
                    return found
        return None

    def command(self, kind: WireKind, mode: str, size: int, budget_s: float) -> list[str]:
        """What measures *kind* once. Programs in C are compiled when they are first asked for.

        Raises:
            subprocess.CalledProcessError: the compiler refused.
        """
        words = [mode, str(size), str(budget_s), *map(str, self.cpus)]
        python = sys.executable if kind.ours else self.peers_python
        worker = [python, "-m", "popnet.bench.worker", kind.id, *words]
        match kind.id:
            case "popnet-c":
                return [self.compiled("ring", COMPILERS), *words]
            case "memcpy":
                return [self.compiled("memcpy", COMPILERS), *words]
            case "mpi-c":
                return [*self._launcher(), self.compiled("mpi", MPI_COMPILERS), *words]
            case "mpi":
                return [*self._launcher(), *worker]
        return worker

    def _has_module(self, name: str) -> bool:
        find = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
        return subprocess.run([self.peers_python, "-c", find, name], check=False).returncode == 0

    def _launcher(self) -> list[str]:
        launcher = self.program(MPI_LAUNCHERS)
        assert launcher, "asked before `missing`"
        version = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=False).stdout
        if "HYDRA" in version:  # of MPICH: else it would ask for the host's name, and use its address
            return [launcher, "-launcher", "fork", "-localhost", "127.0.0.1", "-n", "2"]
        return [launcher, "-n", "2"]

    def compiled(self, name: str, compilers: Sequence[str]) -> str:
        """The program made of c/*name*.c. Raises subprocess.CalledProcessError if the compiler refused."""
        binary = self.build / name
        if not binary.exists():
            compiler = self.program(compilers)
            assert compiler, "asked before `missing`"
            include = [f"-I{directory}" for directory in INCLUDES]
            source = str(SOURCES / f"{name}.c")
            subprocess.run(
                [
                    compiler,
                    "-std=gnu11",
                    "-O2",
                    "-Wall",
                    "-Wextra",
                    "-pthread",
                    *include,
                    source,
                    "-o",
                    str(binary),
                ],
                check=True,
                capture_output=True,
                text=True,
            )
        return str(binary)


def two_cpus() -> tuple[int, ...]:
    """Two CPUs that we may use; none if there are not two."""
    cpus = sorted(os.sched_getaffinity(0))
    return (cpus[0], cpus[1]) if len(cpus) > 1 else ()
