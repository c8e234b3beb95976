"""What `popnet wireshark` puts into a user's directories, and takes away."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Machine


@pytest.fixture
def home(machine: Machine, tmp_path: Path) -> Path:
    """A home of its own, and no tshark, so that places are those of the manual."""
    machine.env |= {"HOME": str(tmp_path / "home"), "PATH": "/nonexistent"}
    machine.env.pop("XDG_CONFIG_HOME", None)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def states(machine: Machine, action: str) -> dict[str, str]:
    result = machine.run("wireshark", action, "-o", "json")
    assert result.returncode == 0, result.stderr
    return {row["what"]: row["state"] for row in json.loads(result.stdout)["items"]}


def test_there_and_back(machine: Machine, home: Path) -> None:
    missing = {"interfaces": "missing", "dissector": "missing"}
    installed = {"interfaces": "installed", "dissector": "installed"}
    assert states(machine, "status") == missing
    assert states(machine, "install") == installed
    assert states(machine, "install") == installed
    script = home / ".config/wireshark/extcap/popnet"
    assert os.access(script, os.X_OK)
    assert "Proto(" in (home / ".local/lib/wireshark/plugins/popnet.lua").read_text()
    listed = subprocess.run([script, "--extcap-interfaces"], capture_output=True, text=True, check=True)
    assert "popnet:demo/k1" in listed.stdout, "it remembers the run directory that was not the usual one"
    assert states(machine, "uninstall") == missing
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_files_of_others_stay(machine: Machine, home: Path) -> None:
    theirs = home / ".config/wireshark/extcap/popnet"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    assert states(machine, "status")["interfaces"] == "somebody else's"
    result = machine.run("wireshark", "install")
    assert result.returncode == 1
    assert b"is there and not popnet's" in result.stderr
    assert states(machine, "uninstall")["interfaces"] == "somebody else's"
    assert theirs.read_text() == "mine"


def test_an_older_one_of_ours_is_replaced(machine: Machine, home: Path) -> None:
    states(machine, "install")
    script = home / ".config/wireshark/extcap/popnet"
    script.write_text(script.read_text().replace("exec", "exec /old/"))
    assert states(machine, "status")["interfaces"] == "of another popnet"
    assert states(machine, "install")["interfaces"] == "installed"


def test_a_home_that_cannot_be_written(machine: Machine, home: Path) -> None:
    (home / ".config").write_text("no directory")
    result = machine.run("wireshark", "install")
    assert result.returncode == 1
    assert b"Not a directory" in result.stderr
    assert b"Traceback" not in result.stderr
