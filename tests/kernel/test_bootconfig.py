"""What a daemon is told at boot comes through JSON as it went."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from popnet.kernel.bootconfig import BootConfig, hosts_file
from popnet.kernel.rootfs import RootPlan
from popnet.machine import file as machine_file
from popnet.machine.host import Host
from popnet.machine.search import image_search_path
from popnet.machine.spec import MachineSpec

MACHINE = """\
apiVersion: popnet/v1
name: test
kernels:
  k1: {image: full, hostname: one, cpus: 0-1, env: {COLOUR: blue, PATH: /bin}}
"""


@pytest.fixture
def machine(tmp_path: Path) -> MachineSpec:
    path = tmp_path / "machine.yaml"
    path.write_text(MACHINE)
    return machine_file.load(path, Host((0, 1), 1 << 30), image_search_path({}, path))


@pytest.fixture
def config(machine: MachineSpec) -> BootConfig:
    return BootConfig(
        machine="test",
        kernel=machine.by_name("k1"),
        generation=7,
        subnet=machine.subnet,
        subnet6=machine.subnet6,
        root=RootPlan("directory", "/srv/mine", files={"/etc/hosts": "x\n"}, size=5),
        mount_point="/run/mnt",
        host_key="secret",
        authorized_keys="",
        shell="/bin/sh",
        started_at_s=1.5,
    )


def test_there_and_back(config: BootConfig) -> None:
    assert BootConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("services", [None, (), ("echo", "store")])
def test_the_services_of_its_programs_too(config: BootConfig, services: tuple[str, ...] | None) -> None:
    kernel = replace(config.kernel, services=services)
    listed = replace(config, kernel=kernel, kids={"primary": 0, "k1": 1})
    assert BootConfig.from_json(json.loads(json.dumps(listed.to_json()))) == listed


def test_address_and_environment(config: BootConfig) -> None:
    assert (config.kid, config.address) == (1, "10.1.2.2")
    environ = config.environment(TERM="vt100", COLOUR="red")
    assert (environ["TERM"], environ["SHELL"], environ["HOME"]) == ("vt100", "/bin/sh", "/root")
    assert environ["PATH"] == "/bin", "the machine file's"
    assert environ["COLOUR"] == "red", "the caller's"


def test_every_kernel_is_in_the_hosts_file_under_both_names(machine: MachineSpec) -> None:
    text = hosts_file(machine.kernels, machine.subnet6)
    assert text.startswith("127.0.0.1 localhost\n::1 localhost")
    lines = text.splitlines()
    assert "10.1.2.1 primary" in lines
    assert "10.1.2.2 one k1" in lines
    assert any(line.endswith("::2 one k1") for line in lines)
    same = replace(machine.by_name("k1"), hostname="k1")
    assert "10.1.2.2 k1\n" in hosts_file([same], machine.subnet6)
