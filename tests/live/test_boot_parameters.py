"""Each boot parameter does what it says, in a kernel that runs."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from popnet.control.client import Client
from tests.live.conftest import _lab
from tests.live.lab import Lab, wait_until

MACHINE = """\
apiVersion: popnet/v1
name: {name}
kernels:
  loud:
    image: light
    append: "debug vty=3 hostname=loud.lab ip=10.1.2.77 hue=blue single memory.x=1 -- -l"
  calm: {{image: light, append: "quiet mklinux vty_offset=0x1000 devices=fuse:b,loop-control"}}
  limited: {{image: light, memmap: 64M@0}}
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    for lab in _lab(tmp_path_factory.mktemp("parameters")):
        lab.popnet("up", lab.file(MACHINE.format(name="lab")))
        yield lab


def test_the_command_line_is_compiled_and_shown(machine: Lab) -> None:
    shown = machine.sh("loud", "cat /proc/cmdline")
    assert shown.startswith("present_mask=")
    assert shown.endswith(" vty=3 hostname=loud.lab ip=10.1.2.77 debug hue=blue single memory.x=1 -- -l\n")
    assert " memmap=64M@0 vty=1 hostname=limited " in machine.sh("limited", "cat /proc/cmdline")


def test_vty_and_hostname(machine: Lab) -> None:
    assert machine.sh("loud", "uname -n; ls /dev/tty0 /dev/tty1 /dev/tty2").split()[0] == "loud.lab"
    assert machine.exec("loud", "ls", "/dev/tty3", check=False).returncode == 1
    assert machine.kernels()["loud"]["ttys"] == 3


def test_an_address_of_ones_own_is_that_of_the_nic_and_in_every_hosts_file(machine: Lab) -> None:
    assert machine.kernels()["loud"]["ipv4"] == "10.1.2.77"
    assert "10.1.2.77/24" in machine.sh("loud", "ip addr show eth0")
    machine.ping("calm", "loud.lab")
    machine.ping("primary", "10.1.2.77")
    assert machine.exec("calm", "ping", "-c1", "-W1", "10.1.2.2", check=False).returncode == 1


def test_unknown_ones_are_inits(machine: Lab) -> None:
    assert machine.sh("loud", "echo $hue") == "blue\n"
    log = machine.popnet("dmesg", "loud").stdout
    assert "Unknown boot parameters 'single -l'" in log
    assert machine.sh("loud", "env | grep -c memory.x", check=False).strip() in ("0", "")
    assert "Unknown boot parameters" not in machine.popnet("dmesg", "calm").stdout, "mklinux is Popcorn's own"
    assert "mklinux vty_offset=0x1000" in machine.sh("calm", "cat /proc/cmdline")


def test_quiet_and_debug_say_what_reaches_the_console(machine: Lab) -> None:
    client = Client("lab", run_dir=machine.run_dir)
    loud, calm = (str(client.get(f"/v1/kernels/{name}/tty/0/history")) for name in ("loud", "calm"))
    assert "Command line: present_mask=" in loud
    assert "eth0: " in loud
    assert calm == ""
    assert "eth0: " in machine.popnet("dmesg", "calm").stdout, "the log has it all"


def test_devices(machine: Lab) -> None:
    assert Path("/dev/loop-control").exists()
    assert machine.sh("calm", "ls /dev/loop-control /dev/net/tun").split() == [
        "/dev/loop-control",
        "/dev/net/tun",
    ]
    assert machine.exec("calm", "ls", "/dev/fuse", check=False).returncode == 1
    assert machine.sh("loud", "ls /dev/fuse") == "/dev/fuse\n"
    assert machine.exec("loud", "ls", "/dev/loop-control", check=False).returncode == 1


def test_a_memory_map_is_a_limit(machine: Lab) -> None:
    assert machine.kernels()["limited"]["memory_bytes"] == 64 << 20
    if "memory" not in json.dumps(Client("lab", run_dir=machine.run_dir).get("/v1/machine")):
        assert "memory" in machine.popnet("dmesg", "limited").stdout
        return
    more = ("dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1")
    machine.exec("loud", *more)
    machine.exec("limited", *more, check=False)
    wait_until(lambda: machine.kernels()["limited"]["reason"] == "out of memory", "it has not that much")


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (
            "append: devices=no-such-device",
            "devices=no-such-device: this host has no device /dev/no-such-device",
        ),
        ("append: memmap=1M@9999G", "is not all memory"),
        ("append: loglevel=9", "loglevel=: got '9'; allowed: 0 to 8"),
    ],
)
def test_what_cannot_be_had_fails_before_anything_runs(lab: Lab, keys: str, reason: str) -> None:
    text = f"apiVersion: popnet/v1\nname: lab\nkernels:\n  k1: {{image: light, {keys}}}\n"
    result = lab.popnet("up", lab.file(text), check=False)
    assert result.returncode == 1
    assert reason in result.stderr
    assert "Traceback" not in result.stderr
    assert lab.machines() == []


PCI = Path("/sys/bus/pci/devices")


def test_hidden_pci_devices_are_not_seen(lab: Lab) -> None:
    numbers = {
        path.name: tuple((path / name).read_text().strip() for name in ("vendor", "device"))
        for path in PCI.glob("*")
    }
    assert len(set(numbers.values())) > 1, "this host has too few PCI devices to tell"
    hidden = sorted(numbers.values())[-1]
    text = (
        "apiVersion: popnet/v1\nname: lab\nkernels:\n"
        f"  k1: {{image: light, append: 'pci_dev_flags={hidden[0]}:{hidden[1]}:b'}}\n  k2: {{image: light}}\n"
    )
    lab.popnet("up", lab.file(text))
    left = sorted(name for name, pair in numbers.items() if pair != hidden)
    assert lab.sh("k1", f"ls {PCI}").split() == left
    assert lab.sh("k2", f"ls {PCI}").split() == sorted(numbers)
    gone = next(name for name, pair in numbers.items() if pair == hidden)
    place = os.path.realpath(PCI / gone)
    assert lab.exec("k1", "cat", f"{place}/vendor", check=False).returncode == 1
    assert lab.sh("k1", f"cat {PCI}/{left[0]}/vendor").strip() == numbers[left[0]][0]
