"""Roots that are kept: unpacked once, whole or not at all, and removed only when nobody shows them."""

import os
from pathlib import Path

import pytest

from popnet.core.errors import BrokenImage, Unavailable
from popnet.image.entry import Entry, Kind
from popnet.image.store import Store, store_directory
from popnet.image.unpack import Unpacker


def fill(unpacker: Unpacker, directory: Path) -> None:
    unpacker.unpack(
        iter([(Entry("closed", Kind.DIRECTORY, 0o500), ()), (Entry("f", Kind.FILE, 0o644), (b"abc",))])
    )


def never(unpacker: Unpacker, directory: Path) -> None:
    raise AssertionError("it is there already")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store/roots", owners=False)


def test_where_it_is() -> None:
    assert store_directory({"POPNET_CACHE_DIR": "/x"}, True) == Path("/x/roots")
    assert store_directory({"HOME": "/home/u", "XDG_CACHE_HOME": ""}, True) == Path("/var/cache/popnet/roots")
    assert store_directory({"HOME": "/home/u"}, False) == Path("/home/u/.cache/popnet/roots")
    assert store_directory({"XDG_CACHE_HOME": "/c"}, False) == Path("/c/popnet/roots")


def test_it_is_unpacked_once_and_nobody_elses(store: Store) -> None:
    first = store.keep("d1", "a.tar", fill)
    assert (first.path / "f").read_bytes() == b"abc"
    assert (first.fresh, first.about["entries"], first.about["size_bytes"]) == (True, 2, 3)
    assert store.directory.stat().st_mode & 0o777 == 0o700
    other = Store(store.directory, owners=False)
    again = other.keep("d1", "b.tar", never)
    assert (again.path, again.fresh, again.about) == (first.path, False, first.about)
    assert [row["digest"] for row in store.rows()] == ["d1"]


def test_nothing_of_one_that_failed_is_left(store: Store) -> None:
    def fail(unpacker: Unpacker, directory: Path) -> None:
        fill(unpacker, directory)
        raise BrokenImage("cut off")

    with pytest.raises(BrokenImage):
        store.keep("d1", "a.tar", fail)
    assert [path.name for path in store.directory.iterdir()] == ["d1.lock"]
    assert store.keep("d1", "a.tar", fill).fresh, "the next try begins anew"


def test_what_a_crash_left_does_not_matter(store: Store) -> None:
    (store.directory / ".new-d1/root/half").mkdir(parents=True)
    kept = store.keep("d1", "a.tar", fill)
    assert not (kept.path / "half").exists()


def test_only_what_nobody_shows_is_removed(store: Store) -> None:
    store.keep("d1", "a.tar", fill)
    store.keep("d2", "b.tar", fill)
    visitor = Store(store.directory, owners=False)
    assert visitor.prune() == []
    store.close()
    shown = Store(store.directory, owners=False)
    shown.keep("d2", "b.tar", never)
    assert [row["digest"] for row in visitor.prune()] == ["d1"]
    assert sorted(path.name for path in store.directory.iterdir()) == ["d2", "d2.lock"]
    assert shown.keep("d1", "a.tar", fill).fresh


def test_digests_are_remembered_until_the_file_changes(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    file.write_bytes(b"abc")
    first = store.digest(file)
    assert first == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    known = (store.directory / "digests.json").read_text()
    assert first in known
    assert store.digest(file) == first
    os.utime(file, (1, 1))
    assert store.digest(file) == first
    file.write_bytes(b"abd")
    assert store.digest(file) != first
    (store.directory / "digests.json").write_text("[nonsense")
    assert store.digest(file) != first


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="cannot keep roots") as caught:
        Store(tmp_path / "file/roots", owners=False).keep("d", "a", never)
    assert "POPNET_CACHE_DIR" in caught.value.hint
