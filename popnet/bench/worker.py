"""One measurement: a process that forks the other end, or one rank of MPI; prints its figures as JSON.

    python -m popnet.bench.worker WIRE MODE SIZE BUDGET_S [CPU CPU]

The two ends are pinned to the two CPUs given. Whatever hangs is ended by its own alarm.
"""

import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, Final

from popnet.bench import foreign, standard
from popnet.bench.timing import Roles, follow, lead

ALARM_S: Final = 60
"""Seconds after which an end that still runs is stuck: SIGALRM ends it."""

_TASK: Final = struct.Struct("<8sQ")


class SocketControl:
    """The side channel between two processes."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def tell(self, task: str, count: int) -> None:
        self._sock.send(_TASK.pack(task.encode(), count))

    def hear(self) -> tuple[str, int]:
        packet = self._sock.recv(_TASK.size)
        if not packet:
            return "end", 0  # the leader is gone
        task, count = _TASK.unpack(packet)
        return task.rstrip(b"\0").decode(), count


def roles_of(wire: str, mode: Any, size: int) -> Roles:
    """Both ends of *wire*, not yet made. KeyError for one that is not known.

    The interpreter of foreign libraries has none of popnet's own, so only what is needed is imported.
    """
    match wire:
        case "popnet-python" | "popnet-batches" | "popnet-packed":
            from popnet.bench.ring import ring_roles

            return ring_roles(wire, mode)
        case "popnet-asyncio" | "popnet-asyncio-batches":
            from popnet.bench.loops import LoopRoles

            return LoopRoles(mode, wire == "popnet-asyncio-batches")
        case "popnet-messages":
            from popnet.bench.endpoints import EndpointRoles

            return EndpointRoles(mode)
        case "eventfd-asyncio":
            from popnet.bench.loops import BellRoles

            return BellRoles()
    makers: dict[str, Callable[[int], Roles]] = {
        "pipe": standard.pipe_roles,
        "unix-stream": lambda size: standard.unix_roles(size, socket.SOCK_STREAM),
        "unix-seqpacket": lambda size: standard.unix_roles(size, socket.SOCK_SEQPACKET),
        "tcp": standard.tcp_roles,
        "zeromq": foreign.zeromq_roles,
        "posix-mq": foreign.queue_roles,
        "iceoryx2": foreign.iceoryx_roles,
    }
    return makers[wire](size)


def pin(cpu: int | None) -> None:
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})


def run_forked(wire: str, mode: str, size: int, budget_s: float, cpus: tuple[int | None, int | None]) -> None:
    roles = roles_of(wire, mode, size)
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            here.close()
            signal.alarm(ALARM_S)
            pin(cpus[1])
            roles.follow(SocketControl(there), size)
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())  # os._exit would swallow it
            raise
        finally:
            os._exit(status)
    try:
        there.close()
        pin(cpus[0])
        print(json.dumps(roles.lead(SocketControl(here), size, budget_s).as_dict()))
    finally:
        here.close()
        if sys.exc_info()[0] is not None:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def run_rank(size: int, budget_s: float, cpus: tuple[int | None, int | None]) -> None:
    rank, wire, control = foreign.mpi_end(size)
    pin(cpus[rank])
    if rank:
        follow(wire, control, size)
    else:
        print(json.dumps(lead(wire, control, size, budget_s).as_dict()))


def main(arguments: list[str]) -> None:
    wire, mode, size, budget_s, *numbers = arguments
    cpus = (int(numbers[0]), int(numbers[1])) if numbers else (None, None)
    signal.alarm(ALARM_S)
    if wire == "mpi":
        run_rank(int(size), float(budget_s), cpus)
    else:
        run_forked(wire, mode, int(size), float(budget_s), cpus)


if __name__ == "__main__":
    main(sys.argv[1:])
