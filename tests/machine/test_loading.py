"""Loading kernels into a machine that runs: what they get, and what they are refused."""

from pathlib import Path

import pytest

from popnet.core.errors import Refused
from popnet.machine.file import load_image, loads
from popnet.machine.host import Host
from popnet.machine.loading import check_load, loaded_spec
from popnet.machine.spec import KernelSpec, MachineSpec

KERNELS = Path(__file__).parents[2] / "kernels"
LIGHT = load_image(str(KERNELS / "light"))
TEXT = """\
apiVersion: popnet/v1
name: m
kernels:
  primary: {cpus: 0}
  k1: {cpus: 1, memory: 2G, ip: 10.1.2.50, env: {A: b}}
  k2: {image: light}
"""


@pytest.fixture
def machine() -> MachineSpec:
    return loads(TEXT, Host((0, 1, 2, 3), 4 << 30), [str(KERNELS)], file="m.yaml")


def holders(machine: MachineSpec, *names: str) -> list[KernelSpec]:
    return [kernel for kernel in machine.kernels if kernel.name in names]


def test_a_new_kernel_has_the_next_kid_and_the_quietest_cpu(machine: MachineSpec) -> None:
    spec = loaded_spec(machine, "k9", LIGHT, "mem=1G hue=blue", holders(machine, "primary", "k1"))
    assert (spec.kid, spec.name, spec.image, spec.memory_bytes) == (3, "k9", "light", 1 << 30)
    assert (spec.cpus, spec.cpus_listed, spec.cores) == ((3,), False, 1.0)
    assert spec.cmdline == "present_mask=3 mem=1G vty=1 hostname=k9 ip=10.1.2.4 hue=blue"


def test_a_known_one_keeps_its_number_and_environment(machine: MachineSpec) -> None:
    spec = loaded_spec(machine, "k1", LIGHT, "present_mask=2-3", [])
    assert (spec.kid, spec.cpus, spec.env, spec.ssh) == (1, (2, 3), (("A", "b"),), False)
    assert spec.cpus_listed


@pytest.mark.parametrize(
    ("append", "reason"),
    [
        ("present_mask=1-2", "CPU 1 belongs to k1, which lists 1; give k9 2-3, which are free"),
        ("present_mask=9", "got '9', but this host has no CPU 9"),
        ("mem=3G", "with these 3G the kernels want 5G, but the machine has 4G; 2G are left for it"),
        ("mem=x", "mem=: got 'x'; allowed: a size"),
        ("hostname=k2", "'k2' is k2's already"),
        ("ip=10.1.2.50", "10.1.2.50 is k1's already"),
        ("ip=10.9.9.9", "allowed: an address of 10.1.2.0/24"),
        ('a="b', "opened and never closed"),
    ],
)
def test_what_cannot_be_had_is_refused(machine: MachineSpec, append: str, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        loaded_spec(machine, "k9", LIGHT, append, holders(machine, "primary", "k1", "k2"))
    assert reason in str(caught.value)
    assert str(caught.value).startswith("cannot load kernel k9: ")


def test_what_nobody_holds_is_free(machine: MachineSpec) -> None:
    spec = loaded_spec(machine, "k9", LIGHT, "present_mask=1 mem=3G", holders(machine, "primary"))
    assert spec.cpus == (1,)
    with pytest.raises(Refused, match="cannot load kernel k1: CPU 1 belongs to k9"):
        check_load(machine, machine.by_name("k1"), [spec])
    check_load(machine, machine.by_name("k2"), [spec])
