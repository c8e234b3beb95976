"""Unpacking what nobody vouches for: all of it below the directory, and nothing else, ever."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from popnet.core.errors import BrokenImage
from popnet.image import tars
from popnet.image.entry import Entry, Kind, Member
from popnet.image.unpack import Unpacker

OWNERS = os.geteuid() == 0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("safe")
    return path


def unpack(root: Path, *members: Member, owners: bool = False, bytes_max: int = 1 << 20) -> Unpacker:
    unpacker = Unpacker(root, owners, bytes_max)
    try:
        unpacker.unpack(iter(members))
    finally:
        unpacker.close()
    return unpacker


def file(path: str, data: bytes = b"x", mode: int = 0o644) -> Member:
    return Entry(path, Kind.FILE, mode, mtime_s=1000), (data,)


def link(path: str, target: str) -> Member:
    return Entry(path, Kind.SYMLINK, 0o777, link=target), ()


def directory(path: str, mode: int = 0o755) -> Member:
    return Entry(path, Kind.DIRECTORY, mode, mtime_s=2000), ()


def test_what_is_written(root: Path) -> None:
    made = unpack(
        root,
        directory("", 0o750),
        directory("closed", 0o500),
        file("closed/in", b"hello", 0o4755),
        file("deep/er/file"),
        link("closed/link", "/abs/olute"),
        (Entry("other", Kind.HARDLINK, 0o644, link="closed/in"), ()),
        (Entry("dev/null", Kind.SPECIAL, 0o666), ()),
    )
    assert (root / "closed/in").read_bytes() == b"hello"
    assert (root / "closed/in").stat().st_mode & 0o7777 == 0o4755
    assert (root / "closed/in").stat().st_mtime == 1000
    assert (root / "closed").stat().st_mode & 0o7777 == 0o700, "an ordinary user can remove it again"
    assert (root / "closed").stat().st_mtime == 2000
    assert root.stat().st_mode & 0o7777 == 0o750
    assert str((root / "closed/link").readlink()) == "/abs/olute"
    assert (root / "other").stat().st_ino == (root / "closed/in").stat().st_ino
    assert not (root / "dev/null").exists()
    assert (made.entries, made.left_out, made.size_bytes) == (7, 1, 6)


@pytest.mark.skipif(not OWNERS, reason="only root can give files away")
def test_owners_and_set_uid_are_kept_for_root(root: Path) -> None:
    member = Entry("su", Kind.FILE, 0o4711, 12, 34), (b"x",)
    unpack(root, (Entry("d", Kind.DIRECTORY, 0o555, 5, 6), ()), member, owners=True)
    status = (root / "su").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (12, 34, 0o4711)
    assert ((root / "d").stat().st_uid, (root / "d").stat().st_mode & 0o7777) == (5, 0o555)


def test_a_later_member_replaces_an_earlier_one_not_what_it_points_to(root: Path) -> None:
    unpack(root, link("name", "../outside/file"), file("name", b"mine"))
    assert (root / "name").read_bytes() == b"mine"
    assert (root.parent / "outside/file").read_text() == "safe"
    unpack(root, file("name", b"again"))
    assert (root / "name").read_bytes() == b"again"


@pytest.mark.parametrize("target", ["../outside", "/tmp", "inside"])
def test_no_member_goes_through_a_link(root: Path, target: str) -> None:
    for bad in (file("way/file"), directory("way/new"), link("way/link", "x")):
        with pytest.raises(BrokenImage, match="'way' is a file or a link"):
            unpack(root, directory("inside"), link("way", target), bad)
        (root / "way").unlink()
    assert sorted(path.name for path in (root.parent / "outside").iterdir()) == ["file"]


def test_no_hard_link_leads_out(root: Path) -> None:
    for other in ("way/file", "absent"):
        with pytest.raises(BrokenImage):
            unpack(root, link("way", "../outside"), (Entry("got", Kind.HARDLINK, 0o644, link=other), ()))
    assert not (root / "got").exists()


def test_a_hard_link_to_a_link_is_that_link(root: Path) -> None:
    unpack(root, link("way", "../outside/file"), (Entry("got", Kind.HARDLINK, 0o644, link="way"), ()))
    assert (root / "got").is_symlink()


def test_what_is_two_things(root: Path) -> None:
    with pytest.raises(BrokenImage, match="a directory, and a file as well"):
        unpack(root, directory("a"), file("a"))
    with pytest.raises(BrokenImage, match="the root itself is a symbolic link"):
        unpack(root, link("", "/"))


def test_no_more_than_allowed(root: Path) -> None:
    with pytest.raises(BrokenImage, match="more than 10 bytes"):
        unpack(root, file("a", b"12345"), file("b", b"123456"), bytes_max=10)


# tar


def tar(*infos: tuple[tarfile.TarInfo, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for info, data in infos:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


def info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, 0o755
    return made


def members(data: bytes) -> Iterator[Member]:
    return tars.read(io.BytesIO(data))


def test_a_tar_with_all_there_is(root: Path) -> None:
    data = tar(
        (info("./", tarfile.DIRTYPE), b""),
        (info("./bin", tarfile.DIRTYPE), b""),
        (info("/bin/program"), b"p" * 5000),
        (info("./bin/l", tarfile.SYMTYPE, "program"), b""),
        (info("./bin/h", tarfile.LNKTYPE, "./bin/program"), b""),
        (info("./dev/sda", tarfile.BLKTYPE), b""),
        (info("long/" + "n" * 200), b"long"),
    )
    unpack(root, *members_read(data))
    assert (root / "bin/l").read_bytes() == b"p" * 5000
    assert (root / "bin/h").stat().st_nlink == 2
    assert (root / ("long/" + "n" * 200)).read_bytes() == b"long"
    assert not (root / "dev/sda").exists()


def members_read(data: bytes) -> list[Member]:
    return [(entry, [*chunks]) for entry, chunks in members(data)]


@pytest.mark.parametrize("name", ["../evil", "/../evil", "a/../../evil"])
def test_a_tar_whose_names_lead_out(root: Path, name: str) -> None:
    for bad in (tar((info(name), b"x")), tar((info("x", tarfile.LNKTYPE, name), b""))):
        with pytest.raises(BrokenImage, match="leads out"):
            unpack(root, *members_read(bad))
    assert not (root.parent / "evil").exists()


def test_a_tar_that_was_cut_off_anywhere() -> None:
    whole = tar((info("a"), b"x" * 700), (info("b"), b"y"))
    content = 512 + 1024 + 512 + 512
    for end in (0, 100, 512, 1000, 1536, 1600, 2048, content):
        with pytest.raises(BrokenImage, match=r"cut off|cannot be read"):
            members_read(whole[:end])
    assert len(members_read(whole[: content + 512])) == 2


def test_what_is_no_tar() -> None:
    with pytest.raises(BrokenImage, match="cannot be read"):
        members_read(b"#!/bin/sh\n" * 200)
