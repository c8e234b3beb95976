"""FUSE's protocol against requests as Linux makes them, and against Linux itself."""

import errno
import os
import stat
import struct
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from popnet.kernel import fuse, linux, namespaces
from popnet.kernel.fuse import Attributes, Server
from tests.kernel.inside import in_child

FILES = {"a": b"first\n", "d/b": b"x" * 10_000}


class FakeTree:
    """A directory with a file, a directory with a file, and a link; counts how often texts are made."""

    def __init__(self) -> None:
        self.made = 0

    def attributes(self, path: str) -> Attributes:
        if path in ("", "d"):
            return Attributes(stat.S_IFDIR | 0o555)
        if path == "l":
            return Attributes(stat.S_IFLNK | 0o777, 1)
        if path not in FILES:
            raise FileNotFoundError(errno.ENOENT, "none")
        return Attributes(stat.S_IFREG | 0o444)

    def names(self, path: str) -> Sequence[str]:
        return ("a", "d", "l") if path == "" else ("b",)

    def text(self, path: str) -> bytes:
        self.made += 1
        return FILES[path]

    def target(self, path: str) -> str:
        return "a"


def ask(server: Server, opcode: int, node: int, body: bytes = b"") -> tuple[int, bytes]:
    """(errno, body) of the answer."""
    request = struct.pack("<IIQQIIII", 40 + len(body), opcode, 77, node, 0, 0, 0, 0) + body
    answer = server.handle(request)
    assert answer is not None
    length, error, unique = struct.unpack_from("<IiQ", answer)
    assert (length, unique) == (len(answer), 77)
    return -error, answer[16:]


def lookup(server: Server, parent: int, name: str) -> int:
    error, body = ask(server, 1, parent, name.encode() + b"\0")
    assert error == 0
    assert len(body) == 128
    return int(struct.unpack_from("<Q", body)[0])


def test_greeting_settles_on_a_version_both_speak() -> None:
    error, body = ask(Server(FakeTree()), 26, 0, struct.pack("<IIII", 7, 44, 4096, 0xFFFF))
    assert (error, len(body), struct.unpack_from("<II", body)) == (0, 64, (7, 31))
    assert ask(Server(FakeTree()), 26, 0, struct.pack("<IIII", 8, 0, 0, 0))[0] == errno.EPROTO


def test_a_file_is_made_anew_when_read_from_its_start_and_is_one_text_until_then() -> None:
    tree = FakeTree()
    server = Server(tree)
    node = lookup(server, lookup(server, 1, "d"), "b")
    handle = struct.unpack_from("<Q", ask(server, 14, node)[1])[0]

    def read(offset: int, size: int) -> bytes:
        return ask(server, 15, node, struct.pack("<QQIIQII", handle, offset, size, 0, 0, 0, 0))[1]

    assert (len(read(0, 4096)), len(read(4096, 4096)), len(read(8192, 4096)), read(10_000, 10)) == (
        4096,
        4096,
        1808,
        b"",
    )
    assert tree.made == 1
    read(0, 10)
    assert tree.made == 2
    ask(server, 18, node, struct.pack("<QIIQ", handle, 0, 0, 0))
    assert server._texts == {}


def test_a_directory_is_listed_in_pieces() -> None:
    server = Server(FakeTree())
    handle = struct.unpack_from("<Q", ask(server, 27, 1)[1])[0]
    names, offset = [], 0
    for _ in range(10):
        _, body = ask(server, 28, 1, struct.pack("<QQIIQII", handle, offset, 70, 0, 0, 0, 0))
        at = 0
        while at < len(body):
            _, offset, length, kind = struct.unpack_from("<QQII", body, at)
            names.append((body[at + 24 : at + 24 + length].decode(), kind))
            at += 24 + -(-length // 8) * 8
    assert names == [(".", 4), ("..", 4), ("a", 8), ("d", 4), ("l", 10)]


def test_errors_are_those_of_the_tree_and_what_is_not_served_is_said() -> None:
    server = Server(FakeTree())
    assert ask(server, 1, 1, b"nope\0")[0] == errno.ENOENT
    assert ask(server, 22, 1)[0] == errno.ENOSYS
    assert ask(server, 5, lookup(server, 1, "l")) == (0, b"a")


def test_nodes_that_linux_forgets_are_forgotten() -> None:
    server = Server(FakeTree())
    node = lookup(server, 1, "a")
    assert lookup(server, 1, "a") == node
    forget = struct.pack("<IIQQIIIIQ", 48, 2, 1, node, 0, 0, 0, 0, 1)
    assert server.handle(forget) is None
    assert node in server._paths
    batch = struct.pack("<IIQQIIII", 64, 42, 1, 0, 0, 0, 0, 0) + struct.pack("<IIQQ", 1, 0, node, 1)
    assert server.handle(batch) is None
    assert node not in server._paths
    assert set(server._nodes) == {""}


def test_linux_shows_it(tmp_path: Path) -> None:
    if not os.access(fuse.DEVICE, os.R_OK | os.W_OK):
        with pytest.raises(OSError):  # what the daemon takes for "no FUSE here"
            fuse.mount()
        return

    def child() -> list[object]:
        namespaces.enter_machine()
        device, root = fuse.mount()
        threading.Thread(target=fuse.serve, args=(device, FakeTree()), daemon=True).start()
        linux.move_mount(root, tmp_path)
        os.close(root)
        with pytest.raises(OSError) as caught:
            (tmp_path / "a").write_text("no")
        found: list[object] = [sorted(path.name for path in tmp_path.iterdir()), (tmp_path / "l").read_text()]
        found += [len((tmp_path / "d/b").read_bytes()), caught.value.errno, (tmp_path / "none").exists()]
        linux.unmount(tmp_path)
        return found

    assert in_child(child) == [["a", "d", "l"], "first\n", 10_000, errno.EROFS, False]
