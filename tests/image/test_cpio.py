"""cpio: what we write is what cpio(1) and we read, and nothing broken passes."""

import io
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popnet.core.errors import BrokenImage
from popnet.image import cpio
from popnet.image.entry import Entry, Kind, Member

MEMBERS: list[Member] = [
    (Entry("", Kind.DIRECTORY, 0o755), ()),
    (Entry("bin", Kind.DIRECTORY, 0o755, mtime_s=77), ()),
    (Entry("bin/odd", Kind.FILE, 0o4755, 3, 4, 5), (b"abc", b"de")),
    (Entry("bin/empty", Kind.FILE, 0o600), ()),
    (Entry("bin/link", Kind.SYMLINK, 0o777, link="../etc/x"), ()),
    (Entry("ünï", Kind.FILE, 0o644), (bytes(range(256)),)),
]


def written(members: list[Member]) -> bytes:
    file = io.BytesIO()
    cpio.write(file, members)
    return file.getvalue()


def read(data: bytes) -> list[tuple[Entry, bytes]]:
    return [(entry, b"".join(chunks)) for entry, chunks in cpio.read(io.BytesIO(data))]


def test_there_and_back() -> None:
    assert read(written(MEMBERS)) == [(entry, b"".join(data)) for entry, data in MEMBERS]
    assert written(MEMBERS) == written(MEMBERS), "the same members give the same bytes"


def test_members_that_nobody_reads_are_passed_over() -> None:
    assert [entry.path for entry, _ in cpio.read(io.BytesIO(written(MEMBERS)))] == [
        entry.path for entry, _ in MEMBERS
    ]


def test_cpio_reads_what_we_write(tmp_path: Path) -> None:
    subprocess.run(["cpio", "-idm", "--quiet"], cwd=tmp_path, input=written(MEMBERS), check=True)
    assert (tmp_path / "bin/odd").read_bytes() == b"abcde"
    assert (tmp_path / "bin/odd").stat().st_mode & 0o7777 == 0o4755
    assert str((tmp_path / "bin/link").readlink()) == "../etc/x"


def test_we_read_what_cpio_writes_with_hard_links_and_devices(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"shared")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    (tmp_path / "none").touch()
    (tmp_path / "nothing").hardlink_to(tmp_path / "none")
    (tmp_path / "s").symlink_to("/abs")
    subprocess.run(["mkfifo", str(tmp_path / "pipe")], check=True)
    names = b"./a\n./b\n./none\n./nothing\n./s\n./pipe\n"
    made = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=tmp_path, input=names, capture_output=True, check=True
    ).stdout
    found = {entry.path: (entry, data) for entry, data in read(made)}
    assert found["b"][1] == b"shared" and found["b"][0].kind is Kind.FILE, "the data is with the last name"
    assert (found["a"][0].kind, found["a"][0].link) == (Kind.HARDLINK, "b")
    assert {found["none"][0].kind, found["nothing"][0].kind} == {Kind.FILE, Kind.HARDLINK}
    assert found["pipe"][0].kind is Kind.SPECIAL
    assert found["s"][0].link == "/abs"


def test_archives_in_a_row_with_zeros_between_as_linux_has_them() -> None:
    two = written(MEMBERS[:2]) + bytes(512) + written(MEMBERS[2:3]) + bytes(8)
    assert [entry.path for entry, _ in read(two)] == ["", "bin", "bin/odd"]


@pytest.mark.parametrize("end", [1, 50, 109, 115, 200, 320, 400])
def test_one_that_was_cut_off(end: int) -> None:
    with pytest.raises(BrokenImage, match="cut off"):
        read(written(MEMBERS)[:end])


def test_every_cut_is_noticed() -> None:
    whole = written(MEMBERS)
    for end in range(len(whole) - 3):  # what is missing of the last padding is not missed
        with pytest.raises(BrokenImage):
            read(whole[:end])
    assert read(whole)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"PK\x03\x04" + bytes(200), "not a cpio archive"),
        (b"070701" + b"zz" * 52, "no numbers"),
        (b"070701" + b"0" * 88 + b"FFFFFFFF" + b"0" * 8, "a name of 4294967295 bytes"),
    ],
)
def test_what_is_none(data: bytes, what: str) -> None:
    with pytest.raises(BrokenImage, match=what):
        read(data)


@pytest.mark.parametrize("name", ["../out", "a/../../out", "a/..", "/../x"])
def test_names_that_lead_out(name: str) -> None:
    with pytest.raises(BrokenImage, match="leads out"):
        read(written([(Entry(name, Kind.FILE, 0o644), (b"x",))]))


@given(st.binary(max_size=300), st.integers(0, 600))
@settings(max_examples=200, deadline=None)
def test_noise_gives_members_or_a_broken_image(noise: bytes, at: int) -> None:
    data = bytearray(written(MEMBERS))
    data[at : at + len(noise)] = noise
    try:
        for entry, chunks in cpio.read(io.BytesIO(bytes(data))):
            assert ".." not in entry.path.split("/")
            assert sum(map(len, chunks)) <= len(data)
    except BrokenImage:
        pass
