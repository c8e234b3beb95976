"""What can be installed beside popnet for messages on one host: ZeroMQ, POSIX queues, iceoryx2, MPI.

The only door to these libraries, which popnet does not need: each is imported by the process that measures
it.
"""

import ctypes
import os
from pathlib import Path
from typing import Any, Final

from popnet.bench.timing import Base, BlockingRoles

QUEUE_BYTES_MAX: Final = 320 << 10
"""Of one POSIX message queue: two of them stay below the usual `ulimit -q`."""


MESSAGE_LIMIT: Final = Path("/proc/sys/fs/mqueue/msgsize_max")
CLONE_NEWIPC: Final = 0x08000000  # linux/sched.h


class ZeroMqWire(Base):
    """A PAIR socket over ipc; its I/O thread runs on the same CPU as its process."""

    def __init__(self, address: str, bind: bool) -> None:
        import zmq

        self._socket = zmq.Context().socket(zmq.PAIR)
        self._socket.setsockopt(zmq.LINGER, 10_000)
        (self._socket.bind if bind else self._socket.connect)(address)
        self.send = self._socket.send  # type: ignore[method-assign]
        self.receive = self._socket.recv  # type: ignore[method-assign]


class QueueWire(Base):
    """Two POSIX message queues, one a direction."""

    def __init__(self, out: Any, into: Any) -> None:
        self.send = out.send  # type: ignore[method-assign]
        self._receive = into.receive

    def receive(self) -> bytes:
        data: bytes = self._receive()[0]
        return data


class IceoryxWire(Base):
    """Two publish-subscribe services, one a direction; a receiver polls, as the library has it.

    A sender that finds the receiver's buffer full waits: nothing may get lost here.
    """

    def __init__(self, name: str, leads: bool, size: int) -> None:
        import iceoryx2

        self._iceoryx = iceoryx2
        iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
        node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
        out, into = [
            node.service_builder(iceoryx2.ServiceName.new(f"{name}/{direction}"))
            .publish_subscribe(iceoryx2.Slice[ctypes.c_uint8])
            .subscriber_max_buffer_size(256)
            .enable_safe_overflow(False)
            .open_or_create()
            for direction in (("to", "from") if leads else ("from", "to"))
        ]
        publisher = out.publisher_builder().initial_max_slice_len(size)
        strategy = iceoryx2.BackpressureStrategy.RetryUntilDelivered
        self._publisher = publisher.backpressure_strategy(strategy).create()
        self._subscriber = into.subscriber_builder().create()
        self._kept = (node, out, into)
        self._size = size

    def send(self, data: bytes, /) -> None:
        sample = self._publisher.loan_slice_uninit(self._size)
        ctypes.memmove(sample.payload().as_ptr(), data, self._size)
        sample.assume_init().send()

    def receive(self) -> bytes:
        receive = self._subscriber.receive
        while (sample := receive()) is None:
            pass
        data = ctypes.string_at(sample.payload().as_ptr(), self._size)
        sample.delete()
        return data


class MpiWire(Base):
    """Two ranks on one host. MPI polls; buffers are sent and received as its users do, without pickling."""

    def __init__(self, communicator: Any, byte: Any, size: int) -> None:
        self._peer = 1 - communicator.rank
        self._send, self._receive = communicator.Send, communicator.Recv
        self._byte = byte
        self._buffer = bytearray(size)
        self._into = [self._buffer, size, byte]

    def send(self, data: bytes, /) -> None:
        self._send([data, len(data), self._byte], self._peer)

    def receive(self) -> bytes:
        self._receive(self._into, self._peer)
        return bytes(self._buffer)


class MpiControl:
    """The side channel over MPI itself."""

    def __init__(self, communicator: Any) -> None:
        self._communicator = communicator

    def tell(self, task: str, count: int) -> None:
        self._communicator.bcast((task, count), root=0)

    def hear(self) -> tuple[str, int]:
        task, count = self._communicator.bcast(None, root=0)
        return str(task), int(count)


def zeromq_roles(size: int) -> BlockingRoles:
    address = f"ipc://@popnet-bench-{os.getpid()}"  # an abstract name: no file to remove
    return BlockingRoles(lambda: ZeroMqWire(address, bind=True), lambda: ZeroMqWire(address, bind=False))


def queue_roles(size: int) -> BlockingRoles:
    """ValueError or OSError where queues of such messages are not allowed (`ulimit -q`, fs.mqueue)."""
    import posix_ipc

    _allow_large_queues(size)
    count = max(1, min(10, QUEUE_BYTES_MAX // size))
    queues = []
    for direction in ("to", "from"):
        name = f"/popnet-bench-{os.getpid()}-{direction}"
        queues.append(
            posix_ipc.MessageQueue(name, posix_ipc.O_CREX, max_messages=count, max_message_size=size)
        )
        posix_ipc.unlink_message_queue(name)
    to, back = queues
    return BlockingRoles(lambda: QueueWire(to, back), lambda: QueueWire(back, to))


def _allow_large_queues(size: int) -> None:
    """As far as we may: the limit on messages belongs to the IPC namespace, so root takes one of its own."""
    if size > int(MESSAGE_LIMIT.read_text()) and ctypes.CDLL(None).unshare(CLONE_NEWIPC) == 0:
        MESSAGE_LIMIT.write_text(str(size))


def iceoryx_roles(size: int) -> BlockingRoles:
    name = f"popnet-bench-{os.getpid()}"
    return BlockingRoles(lambda: IceoryxWire(name, True, size), lambda: IceoryxWire(name, False, size))


def mpi_end(size: int) -> tuple[int, MpiWire, MpiControl]:
    """This process's rank, wire and side channel, in a run of two ranks."""
    import mpi4py

    mpi4py.rc.thread_level = "single"  # its best: no locks
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    if world.size != 2:
        raise RuntimeError(f"{world.size} ranks, expected 2: run by mpiexec -n 2")
    return world.rank, MpiWire(world, MPI.BYTE, size), MpiControl(world)
