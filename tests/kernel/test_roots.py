"""From images to roots: which programs may go into a ramdisk, and what is said of those that may not."""

import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from popnet.core.errors import Unavailable
from popnet.kernel import roots
from popnet.machine import file as machine_file
from popnet.machine.host import Host
from popnet.machine.image import Image
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


def image_of(machine: MachineSpec, kernel: str) -> Image:
    return machine_file.load_image(machine.by_name(kernel).image_path)


def test_a_full_kernel_has_the_hosts_tree_and_files_of_its_own(machine: MachineSpec) -> None:
    plan = roots.root_plan(machine, machine.by_name("k1"), image_of(machine, "k1"))
    assert (plan.kind, plan.programs) == ("host-overlay", {})
    assert plan.files["/etc/hostname"] == "one\n"
    assert "10.1.2.2 one k1\n" in plan.files["/etc/hosts"]
    assert "10.1.2.3 k2\n" in plan.files["/etc/hosts"]
    assert "hostname=one" in plan.proc_files["cmdline"]


def test_a_light_kernel_has_busybox_under_all_its_names(machine: MachineSpec) -> None:
    plan = roots.root_plan(machine, machine.by_name("k2"), image_of(machine, "k2"))
    assert plan.kind == "ramdisk"
    assert Path(plan.programs["/bin/busybox"]).is_file()
    assert plan.links["/bin/sh"] == "busybox"
    assert "/bin/busybox" not in plan.links
    assert plan.files["/etc/passwd"].startswith("root:")


def test_a_program_that_the_host_lacks_says_what_to_install(machine: MachineSpec) -> None:
    image = replace(image_of(machine, "k2"), programs=("no-such-program",))
    with pytest.raises(Unavailable, match="'no-such-program', which this host does not have") as caught:
        roots.root_plan(machine, machine.by_name("k2"), image)
    assert "apt install no-such-program" in caught.value.hint


def test_a_program_with_a_dynamic_loader_is_refused(machine: MachineSpec) -> None:
    image = replace(image_of(machine, "k2"), programs=("bash",))
    with pytest.raises(Unavailable, match="statically linked 'bash'") as caught:
        roots.root_plan(machine, machine.by_name("k2"), image)
    assert "bash-static" in caught.value.hint


def _elf(*kinds: int) -> bytes:
    header = b"\x7fELF\x02\x01\x01".ljust(32, b"\0") + struct.pack("<Q", 64)
    header = header.ljust(54, b"\0") + struct.pack("<HH", 56, len(kinds))
    return header.ljust(64, b"\0") + b"".join(struct.pack("<I", kind).ljust(56, b"\0") for kind in kinds)


@pytest.mark.parametrize(
    ("data", "static"),
    [
        (_elf(1, 1), True),
        (_elf(1, 3), False),
        (_elf(), True),
        (b"#!/bin/sh\n", False),
        (b"", False),
        (b"\x7fELF\x02", False),
        (_elf(1)[:64], False),
        (b"\x7fELF\x01" + bytes(60), False),
    ],
)
def test_what_is_static(tmp_path: Path, data: bytes, static: bool) -> None:
    path = tmp_path / "program"
    path.write_bytes(data)
    assert roots._is_static(str(path)) is static


def test_the_shell_of_terminals(machine: MachineSpec) -> None:
    assert roots.login_shell(image_of(machine, "k2")) == "/bin/sh"
    shell = roots.login_shell(image_of(machine, "k1"))
    assert subprocess.run([shell, "-c", "exit 7"]).returncode == 7
