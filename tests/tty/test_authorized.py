"""Whose keys let in: files, directories, variables; and the host key that stays."""

from pathlib import Path

import pytest

from popnet.core.errors import Refused
from popnet.tty import keys
from popnet.tty.authorized import AuthorizedKeys, valid_lines
from popnet.tty.hostkeys import host_key, state_dir


def line(comment: str) -> str:
    return keys.generate_key(comment)[1]


def test_a_file_and_a_variable_open_every_machine(tmp_path: Path) -> None:
    first, second = line("a"), line("b")
    (tmp_path / "keys").write_text(first)
    found = AuthorizedKeys(["keys", "$MORE"], {"MORE": second}, tmp_path)
    for machine in ("red", None):
        assert found.of(machine).splitlines() == [first, second]
    assert not found.empty()
    assert found.problems() == []


def test_a_directory_opens_each_machine_by_its_name(tmp_path: Path) -> None:
    everybody, red, blue = line("all"), line("red"), line("blue")
    found = AuthorizedKeys([str(tmp_path)], {}, Path())
    assert found.empty()
    for name, text in (("authorized_keys", everybody), ("red.pub", red), ("blue.pub", blue)):
        (tmp_path / name).write_text(text)  # read at each login
    assert found.of("red").splitlines() == [everybody, red]
    assert found.of("green").splitlines() == [everybody]
    assert found.of(None).splitlines() == [everybody]
    assert not found.empty()


def test_a_line_that_is_no_key_stops_no_other(tmp_path: Path) -> None:
    good = line("good")
    path = tmp_path / "keys"
    path.write_text(f"# mine\n\nnonsense\n{good}\n")
    found = AuthorizedKeys([str(path)], {}, Path())
    assert valid_lines(found.of(None)) == good + "\n"
    assert found.problems() == [f"{path}:3: no public key as in authorized_keys; it lets nobody in"]


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"/nothing: no such file"):
        AuthorizedKeys(["nothing"], {}, tmp_path)
    with pytest.raises(Refused, match=r"\$KEYS: there is no environment variable KEYS"):
        AuthorizedKeys(["$KEYS"], {}, tmp_path)


def test_a_host_key_stays(tmp_path: Path) -> None:
    first = host_key(tmp_path / "new/lab", "lab")
    assert host_key(tmp_path / "new/lab", "lab") == first
    assert host_key(tmp_path / "other", "lab") != first
    assert sorted(path.name for path in (tmp_path / "new/lab").iterdir()) == ["host_key", "host_key.pub"]
    assert (tmp_path / "new/lab/host_key").stat().st_mode & 0o777 == 0o600
    assert keys.public_line(first.encode()) == (tmp_path / "new/lab/host_key.pub").read_text().strip()


def test_a_host_key_that_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match=r"file/lab/host_key: cannot keep"):
        host_key(tmp_path / "file/lab", "lab")
    (tmp_path / "host_key").write_text("x")
    with pytest.raises(Refused, match="no private key"):
        host_key(tmp_path, "lab")


def test_where_state_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POPNET_STATE_DIR", "/x/y")
    assert state_dir() == Path("/x/y")
    monkeypatch.delenv("POPNET_STATE_DIR")
    monkeypatch.setattr("os.getuid", lambda: 0)
    assert state_dir() == Path("/var/lib/popnet")
    monkeypatch.setattr("os.getuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    assert state_dir() == Path("/s/popnet")
