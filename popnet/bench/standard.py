"""What every Python can use without installing anything: pipes, AF_UNIX and TCP sockets."""

import socket
from multiprocessing.connection import Connection, Pipe

from popnet.bench.timing import Base, BlockingRoles


class PipeWire(Base):
    """multiprocessing.Pipe, with bytes: a socket pair with a length before each message."""

    def __init__(self, connection: Connection) -> None:
        self.send = connection.send_bytes  # type: ignore[method-assign]
        self.receive = connection.recv_bytes  # type: ignore[method-assign]


class SocketWire(Base):
    """A connected socket; of a byte stream exactly one message is waited for."""

    def __init__(self, sock: socket.socket, size: int) -> None:
        self.send = sock.sendall  # type: ignore[method-assign]
        self._receive = sock.recv
        self._size = size
        self._flags = socket.MSG_WAITALL if sock.type == socket.SOCK_STREAM else 0

    def receive(self) -> bytes:
        return self._receive(self._size, self._flags)


def pipe_roles(size: int) -> BlockingRoles:
    one, other = Pipe()
    return BlockingRoles(lambda: PipeWire(one), lambda: PipeWire(other))


def unix_roles(size: int, kind: socket.SocketKind) -> BlockingRoles:
    one, other = socket.socketpair(socket.AF_UNIX, kind)
    for end in (one, other):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, max(4 * size, 212_992))
    return BlockingRoles(lambda: SocketWire(one, size), lambda: SocketWire(other, size))


def tcp_roles(size: int) -> BlockingRoles:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    for end in (one, other):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return BlockingRoles(lambda: SocketWire(one, size), lambda: SocketWire(other, size))
