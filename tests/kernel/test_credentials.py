"""The keys of a machine: private ones are private, and ssh finds all of them."""

import stat
import sys
from pathlib import Path

import pytest

from popnet.kernel import credentials
from popnet.machine import file as machine_file
from popnet.machine.host import Host
from popnet.machine.search import image_search_path
from popnet.machine.spec import MachineSpec

MACHINE = """\
apiVersion: popnet/v1
name: test
kernels:
  k1: {image: full}
  k2: {image: light}
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MachineSpec:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = tmp_path / "machine.yaml"
    path.write_text(MACHINE)
    return machine_file.load(path, Host((0,), 1 << 30), image_search_path({}, path))


def test_what_is_made(machine: MachineSpec, tmp_path: Path) -> None:
    directory = tmp_path / "run/test"
    directory.mkdir(parents=True)
    made = credentials.make(machine, directory, tmp_path / "run", [sys.executable, "-m", "popnet"])
    assert set(made.host_keys) == {"primary", "k1", "k2"}
    assert len(set(made.host_keys.values())) == 3
    assert all("PRIVATE KEY" in key for key in made.host_keys.values())
    assert stat.S_IMODE((directory / "id_ed25519").stat().st_mode) == 0o600
    public = (directory / "id_ed25519.pub").read_text().strip()
    assert made.authorized_keys == f"{public}\n"
    known = (directory / "known_hosts").read_text()
    assert known.count("ssh-ed25519") == 4, "three kernels and the gateway"
    assert stat.S_IMODE((directory / "gateway_key").stat().st_mode) == 0o600
    assert (directory / "authorized_keys").read_text() == made.authorized_keys
    config = (directory / "ssh_config").read_text()
    assert config == made.ssh_config
    assert "k1" in config
    assert "Host k2 " not in config, "it has no sshd"
    assert "Host k2.gw\n" in config and "Host k2.tty0\n" in config, "but the gateway has it"
    assert not any(key in config + known for key in made.host_keys.values())


def test_the_users_own_keys_may_log_in(machine: MachineSpec, tmp_path: Path) -> None:
    ssh = tmp_path / "home/.ssh"
    ssh.mkdir(parents=True)
    (ssh / "id_a.pub").write_text("ssh-ed25519 AAAA a\n")
    (ssh / "id_b.pub").write_text("ssh-rsa BBBB b\n")
    (ssh / "id_dir.pub").mkdir()
    (ssh / "id_latin.pub").write_bytes(b"ssh-rsa CCCC caf\xe9\n")
    (ssh / "other.pub").write_text("ssh-rsa DDDD no\n")
    made = credentials.make(machine, tmp_path, tmp_path, ["popnet"])
    lines = made.authorized_keys.splitlines()
    assert lines[1:3] == ["ssh-ed25519 AAAA a", "ssh-rsa BBBB b"]
    assert lines[3].startswith("ssh-rsa CCCC")
    assert len(lines) == 4
