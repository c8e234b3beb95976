"""From images to roots: where they come from, and which files they are given."""

import subprocess
from pathlib import Path

import pytest

from popnet.kernel import roots
from popnet.machine import file as machine_file
from popnet.machine.host import Host
from popnet.machine.search import image_search_path
from popnet.machine.spec import MachineSpec

MACHINE = (
    "apiVersion: popnet/v1\nname: test\nkernels:\n  k1: {image: full, hostname: one}\n  k2: {image: light}\n"
)


@pytest.fixture
def machine(tmp_path: Path) -> MachineSpec:
    path = tmp_path / "machine.yaml"
    path.write_text(MACHINE)
    return machine_file.load(path, Host((0,), 1 << 30), image_search_path({}, path))


def test_a_full_kernel_has_the_hosts_tree_and_files_of_its_own(machine: MachineSpec) -> None:
    plan = roots.root_plan(machine, machine.by_name("k1"), None)
    assert (plan.kind, plan.source) == ("host-overlay", "")
    assert plan.files["/etc/hostname"] == "one\n"
    assert "10.1.2.2 one k1\n" in plan.files["/etc/hosts"]
    assert "10.1.2.3 k2\n" in plan.files["/etc/hosts"]
    assert "hostname=one" in plan.proc_files["cmdline"]


def test_any_other_has_a_tree_and_the_same_files(machine: MachineSpec) -> None:
    plan = roots.root_plan(machine, machine.by_name("k2"), "/srv/mine")
    assert (plan.kind, plan.source) == ("directory", "/srv/mine")
    assert plan.files["/etc/hostname"] == "k2\n"


def test_the_shell_of_terminals(tmp_path: Path) -> None:
    assert subprocess.run([roots.login_shell(None), "-c", "exit 7"]).returncode == 7
    assert roots.login_shell(str(tmp_path)) == "/bin/sh", "there is none: it says so when it is started"
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "usr/bin/bash").touch()
    assert roots.login_shell(str(tmp_path)) == "/bin/bash"
