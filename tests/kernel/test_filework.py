"""The files of an io kernel: what others may do with them, and that nothing outside of them is reached."""

import errno
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from popnet.kernel import filewire, filework


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    path = tmp_path / "io"
    path.mkdir()
    (tmp_path / "outside").write_text("secret")
    return path


@pytest.fixture
def files(shared: Path) -> Iterator[filework.Files]:
    made = filework.Files(str(shared))
    yield made
    made.close()


def ask(files: filework.Files, data: bytes = b"", **head: Any) -> tuple[dict[str, Any], bytes]:
    return filewire.unpack(files.handle(filewire.pack(head, data)))


def number(files: filework.Files, **head: Any) -> int:
    return int(ask(files, **head)[0].get("errno", 0))


def test_a_file_is_made_written_read_and_removed(files: filework.Files, shared: Path) -> None:
    made, _ = ask(files, op="create", path="a", mode=0o640, uid=os.getuid(), gid=os.getgid())
    assert stat.S_IMODE(made["mode"]) == 0o640
    assert ask(files, b"hello", op="write", path="a", offset=0) == ({"size": 5}, b"")
    ask(files, b"!", op="write", path="a", offset=7)
    assert (shared / "a").read_bytes() == b"hello\0\0!"
    assert ask(files, op="read", path="a", offset=1, size=3) == ({}, b"ell")
    assert ask(files, op="read", path="a", offset=100, size=3) == ({}, b"")
    assert number(files, op="create", path="a", mode=0o640, exclusive=True) == errno.EEXIST
    found, _ = ask(files, op="set", path="a", size=2, mode=0o600, atime_ns=1, mtime_ns=5 * 10**9)
    assert (found["size"], stat.S_IMODE(found["mode"]), found["mtime_ns"]) == (2, 0o600, 5 * 10**9)
    assert number(files, op="rename", path="a", to="b") == 0
    assert number(files, op="unlink", path="b") == 0
    assert number(files, op="stat", path="b") == errno.ENOENT


def test_directories_and_links(files: filework.Files, shared: Path) -> None:
    ask(files, op="mkdir", path="d", mode=0o755)
    ask(files, op="create", path="d/f", mode=0o644)
    ask(files, op="symlink", path="d/l", target="../x")
    assert ask(files, op="readlink", path="d/l")[0] == {"target": "../x"}
    names = dict(ask(files, op="list", path="d")[0]["names"])
    assert (stat.S_ISREG(names["f"]), stat.S_ISLNK(names["l"])) == (True, True)
    assert stat.S_ISDIR(ask(files, op="stat", path="")[0]["mode"])
    assert number(files, op="rmdir", path="d") == errno.ENOTEMPTY
    assert ask(files, op="space")[0]["blocks"] > 0


@pytest.mark.parametrize("path", ["../outside", "d/../../outside", "way/outside", "direct"])
def test_nothing_outside_is_reached(files: filework.Files, shared: Path, path: str) -> None:
    (shared / "d").mkdir()
    (shared / "way").symlink_to("..")
    (shared / "direct").symlink_to("../outside")
    for head in (
        {"op": "read", "offset": 0, "size": 10},
        {"op": "write", "offset": 0},
        {"op": "set", "size": 0},
        {"op": "create", "mode": 0o644},
    ):
        assert number(files, path=path, **head) in (errno.EINVAL, errno.ENOTDIR, errno.ELOOP)
    assert number(files, op="list", path="way") in (errno.ENOTDIR, errno.ELOOP)
    assert number(files, op="rename", path="d", to=path) != 0 or path == "direct"
    number(files, op="set", path="direct", mode=0o777)
    assert (shared.parent / "outside").read_text() == "secret"
    assert stat.S_IMODE((shared.parent / "outside").stat().st_mode) != 0o777


def test_a_pipe_stalls_nobody(files: filework.Files, shared: Path) -> None:
    os.mkfifo(shared / "pipe")
    assert number(files, op="read", path="pipe", offset=0, size=1) == errno.EPERM
    assert number(files, op="write", path="pipe", offset=0) in (errno.EPERM, errno.ENXIO)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]\n",
        b"{}\n",
        b'{"op": "stat", "path": 7}\n',
        b'{"op": ["stat"]}\n',
        b'{"op": "read", "path": "a"}\n',
        b'{"op": "read", "path": "a", "offset": "x", "size": 1}\n',
        b'{"op": "stat", "path": "a\\u0000b"}\n',
        b'{"op": "nonsense"}\n',
    ],
)
def test_nonsense_is_answered(files: filework.Files, body: bytes) -> None:
    answer, _ = filewire.unpack(files.handle(body))
    assert answer["errno"] in (errno.EINVAL, errno.ENOSYS, errno.ENOENT)


def test_the_worker_answers_in_order_until_its_channel_ends(shared: Path) -> None:
    ours, theirs = socket.socketpair()

    def work() -> None:
        with theirs:
            filework.run(theirs, str(shared))

    before = os.umask(0o022)
    try:
        worker = threading.Thread(target=work)
        worker.start()
        for name in ("a", "b"):
            body = filewire.pack({"op": "create", "path": name, "mode": 0o644})
            ours.sendall(filework.HEADER.pack(len(body), ord(name)) + body)
        with ours.makefile("rb") as answers:
            for name in ("a", "b"):
                length, told = filework.HEADER.unpack(answers.read(filework.HEADER.size))
                assert told == ord(name)
                assert "mode" in filewire.unpack(answers.read(length))[0]
        ours.close()
        worker.join(20)
        assert not worker.is_alive()
    finally:
        os.umask(before)
