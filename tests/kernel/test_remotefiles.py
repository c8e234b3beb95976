"""FUSE's protocol at a compute kernel's end, with the io kernel's files behind it in the same process."""

import errno
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from popnet.kernel import filewire, filework, fuse
from popnet.kernel.remotefiles import RemoteServer


class Kernel:
    """What Linux does at the other end of /dev/fuse."""

    def __init__(self, server: RemoteServer) -> None:
        self._server = server

    def ask(self, opcode: int, node: int, body: bytes = b"") -> bytes:
        """The body of the answer; raises OSError for an error."""
        size = fuse.HEADER.size + len(body)
        request = fuse.HEADER.pack(size, opcode, 7, node, os.getuid(), os.getgid(), 1, 0) + body
        answer = self._server.handle(request)
        assert answer is not None
        length, error, unique = struct.unpack_from("<IiQ", answer)
        assert (length, unique) == (len(answer), 7)
        if error:
            raise OSError(-error, os.strerror(-error))
        return answer[16:]

    def lookup(self, name: bytes, node: int = 1) -> int:
        return int(struct.unpack_from("<Q", self.ask(1, node, name + b"\0"))[0])

    def create(self, name: bytes, flags: int = os.O_WRONLY) -> int:
        body = struct.pack("<4I", flags, 0o100644, 0o022, 0) + name + b"\0"
        return int(struct.unpack_from("<Q", self.ask(35, 1, body))[0])

    def write(self, node: int, data: bytes, offset: int = 0) -> int:
        body = struct.pack("<QQIIQII", 1, offset, len(data), 0, 0, 0, 0) + data
        return int(struct.unpack_from("<I", self.ask(16, node, body))[0])

    def read(self, node: int, size: int, offset: int = 0) -> bytes:
        return self.ask(15, node, struct.pack("<QQIIQII", 1, offset, size, 0, 0, 0, 0))


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def kernel(shared: Path) -> Iterator[Kernel]:
    files = filework.Files(str(shared))

    def ask(head: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        answer, found = filewire.unpack(files.handle(filewire.pack(head, data)))
        if "errno" in answer:
            raise OSError(answer["errno"], "")
        return answer, found

    yield Kernel(RemoteServer(ask))
    files.close()


def test_it_says_how_much_it_takes_at_once(kernel: Kernel) -> None:
    told = fuse.INIT_OUT.unpack(kernel.ask(26, 0, struct.pack("<4I", 7, 40, 65536, 0)))
    assert told[:2] == (7, 31)
    assert filewire.DATA_MAX in told


def test_a_file_from_its_making_to_its_end(kernel: Kernel, shared: Path) -> None:
    node = kernel.create(b"a")
    data = bytes(range(256)) * 300
    for at in range(0, len(data), filewire.DATA_MAX):
        kernel.write(node, data[at : at + filewire.DATA_MAX], at)
    assert (shared / "a").read_bytes() == data
    assert stat.S_IMODE((shared / "a").stat().st_mode) == 0o644
    assert kernel.read(node, len(data) + 10) == data, "in as many messages as it takes"
    assert kernel.read(node, 5, 256) == data[256:261]
    assert kernel.lookup(b"a") == node
    body = struct.pack("<2I6Q", 8, 0, 0, 3, 0, 0, 0, 0) + struct.pack("<7I", 0, 0, 0, 0, 0, 0, 0) + bytes(4)
    attributes = fuse.ATTRIBUTES.unpack_from(kernel.ask(4, node, body), 16)
    assert (attributes[0], attributes[1]) == (node, 3)
    assert (shared / "a").read_bytes() == data[:3]
    kernel.ask(10, 1, b"a\0")
    assert not (shared / "a").exists()
    with pytest.raises(OSError, match="No such") as caught:
        kernel.read(node, 1)
    assert caught.value.errno == errno.ENOENT


def test_nodes_follow_their_files(kernel: Kernel, shared: Path) -> None:
    directory = int(struct.unpack_from("<Q", kernel.ask(9, 1, struct.pack("<2I", 0o755, 0) + b"d\0"))[0])
    file = kernel.create(b"f")
    kernel.write(file, b"inside")
    kernel.ask(12, 1, struct.pack("<Q", directory) + b"f\0g\0")
    assert kernel.read(file, 10) == b"inside"
    kernel.ask(12, 1, struct.pack("<Q", 1) + b"d\0e\0")
    assert kernel.read(file, 10) == b"inside", "also when the directory above it moves"
    assert kernel.lookup(b"g", directory) == file
    other = kernel.create(b"f")
    kernel.write(other, b"another")
    assert kernel.read(file, 10) == b"inside"
    assert sorted(path.name for path in (shared / "e").iterdir()) == ["g"]


def test_a_directory_tells_names_and_kinds(kernel: Kernel) -> None:
    kernel.create(b"file")
    kernel.ask(6, 1, b"link\0../target\0")
    assert kernel.ask(5, kernel.lookup(b"link")) == b"../target"
    (handle,) = struct.unpack_from("<Q", kernel.ask(27, 1, bytes(8)))
    raw = kernel.ask(28, 1, struct.pack("<QQI", handle, 0, 4096))
    found = {}
    while raw:
        _, _, length, kind = struct.unpack_from("<QQII", raw)
        found[raw[24 : 24 + length]] = kind
        raw = raw[24 + length + -(24 + length) % 8 :]
    assert found == {b".": 4, b"..": 4, b"file": 8, b"link": 10}
    kernel.ask(29, 1, struct.pack("<Q", handle) + bytes(16))


def test_create_that_truncates_and_excludes(kernel: Kernel, shared: Path) -> None:
    (shared / "a").write_bytes(b"old")
    kernel.create(b"a", os.O_WRONLY)
    assert (shared / "a").read_bytes() == b"old"
    kernel.create(b"a", os.O_WRONLY | os.O_TRUNC)
    assert (shared / "a").read_bytes() == b""
    with pytest.raises(OSError, match="exists"):
        kernel.create(b"a", os.O_WRONLY | os.O_EXCL)


def test_a_peers_nonsense_is_an_error_of_input_and_output() -> None:
    for answer in ({}, {"mode": "x"}, {"names": 7}):
        kernel = Kernel(RemoteServer(lambda head, data, answer=answer: (answer, b"")))  # type: ignore[misc]
        for opcode in (3, 27, 5):
            with pytest.raises(OSError, match="Input/output"):
                kernel.ask(opcode, 1, bytes(32))
