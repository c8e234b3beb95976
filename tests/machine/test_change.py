"""Changes of partitions: what each word makes of a kernel, and what cannot be, with the nearest that can."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popnet.core.errors import Refused
from popnet.machine import cmdline
from popnet.machine.change import Change, changed_spec, check_memory, differences, given_back, with_cores
from popnet.machine.file import loads
from popnet.machine.host import Host
from popnet.machine.search import image_search_path
from popnet.machine.spec import KernelSpec, MachineSpec

TEXT = """\
apiVersion: popnet/v1
name: test
kernels:
  k1: {cpus: 0-1, memory: 1G}
  k2: {cpus: 2-3, memory: 1G, devices: [loop0]}
  k3: {image: light}
"""
HOST = Host(tuple(range(8)), 4 << 30)


def machine(text: str = TEXT) -> MachineSpec:
    return loads(text, HOST, image_search_path({}))


def change(name: str = "k1", used: int | None = None, **words: str) -> KernelSpec:
    lab = machine()
    return changed_spec(lab, lab.by_name(name), Change(**words), lab.kernels, used)


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("+4", (0, 1, 4)), ("-1", (0,)), ("5-6", (5, 6)), ("+1", (0, 1)), ("+4,6", (0, 1, 4, 6))],
)
def test_cpus(text: str, cpus: tuple[int, ...]) -> None:
    spec = change(cpus=text)
    assert (spec.cpus, spec.cpus_listed) == (cpus, True)
    assert cmdline.parse(spec.cmdline).cpus == cpus


@pytest.mark.parametrize(
    ("text", "mib"), [("+512M", 1536), ("-512M", 512), ("2G", 2048), ("none", None), ("32M", 32)]
)
def test_memory(text: str, mib: int | None) -> None:
    spec = change(memory=text)
    wanted = None if mib is None else mib << 20
    assert spec.memory_bytes == wanted
    assert cmdline.parse(spec.cmdline).memory_bytes == wanted


def test_devices() -> None:
    spec = change("k2", devices="+loop1,-loop0,-fuse")
    assert spec.devices == ("net/tun", "loop1")
    assert "devices=loop1,fuse:b" in spec.cmdline


def test_several_at_once_and_the_rest_is_as_it_was() -> None:
    before, spec = machine().by_name("k1"), change(cpus="+4", memory="2G")
    assert differences(before, spec) == "CPUs 0-1 -> 0-1,4, memory 1G -> 2G"
    assert replace(spec, cpus=before.cpus, memory_bytes=before.memory_bytes, cmdline=before.cmdline) == before
    assert differences(before, before) == ""


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"cpus": "+2"}, "CPU 2 belongs to k2, which lists 2-3; give k1 0-1,4"),
        ({"cpus": "+9"}, "has no CPU 9; it has 0-7; nearest to it is 0-2"),
        ({"cpus": "-3"}, "it has no CPU 3; it has 0-1"),
        ({"cpus": "-0-1"}, "a kernel needs one, so it may give all but CPU 0"),
        ({"cpus": "x"}, r"got 'x'; allowed: \+LIST"),
        ({"cpus": ""}, "got ''; allowed"),
        ({"memory": "+4G"}, "are left for it|but this host|the machine has"),
        ({"memory": "-1000M"}, "that leaves it 24M; allowed: at least 32M"),
        ({"memory": "-2G"}, "that leaves it nothing"),
        ({"memory": "256M", "used": 300 << 20}, "it uses 300M, more than 256M; the least .* is 300M"),
        ({"memory": "lots"}, "got 'lots'; allowed"),
        ({"devices": "+loop0"}, "device loop0 belongs to k2"),
        ({"devices": "-loop7"}, "it has no device loop7; it has net/tun, fuse"),
        ({"devices": "loop1"}, r"got 'loop1'; allowed: \+NAME or -NAME"),
        ({"devices": "+../sda"}, "got '../sda'"),
    ],
)
def test_what_cannot_be_says_why_and_what_is_nearest(words: dict[str, str], reason: str) -> None:
    with pytest.raises(Refused, match=reason) as caught:
        change("k1", **words)  # type: ignore[arg-type]
    assert all(line.startswith("cannot update kernel k1: ") for line in str(caught.value).splitlines())


def test_every_reason_is_told_at_once() -> None:
    with pytest.raises(Refused) as caught:
        change(cpus="+2", memory="lots", devices="-loop7")
    assert len(str(caught.value).splitlines()) == 3
    assert "--from KERNEL" in caught.value.hint


def test_memory_by_address_is_not_an_amount() -> None:
    lab = machine("apiVersion: popnet/v1\nname: test\nkernels: {k1: {memmap: 64M@0}}\n")
    with pytest.raises(Refused, match="it has its memory by address"):
        changed_spec(lab, lab.by_name("k1"), Change(memory="1G"), lab.kernels)
    spec = changed_spec(lab, lab.by_name("k1"), Change(cpus="3"), lab.kernels)
    assert "memmap=64M@0" in spec.cmdline
    assert spec.memory_bytes == 64 << 20


def test_the_other_half_of_a_move() -> None:
    k2 = machine().by_name("k2")
    assert given_back(k2, Change("+2", "+512M", "+loop0")) == Change("-2", "-512M", "-loop0")
    for wrong in (Change(cpus="2"), Change(cpus="-2"), Change(memory="1G"), Change(devices="+a,-b")):
        with pytest.raises(Refused, match="only what is added"):
            given_back(k2, wrong)
    with pytest.raises(Refused, match="no memory limit"):
        given_back(machine().by_name("k3"), Change(memory="+1G"))


@settings(deadline=None)
@given(st.sets(st.integers(0, 7), min_size=1), st.sets(st.integers(0, 7)))
def test_what_is_added_and_taken_again_was_never_there(has: set[int], more: set[int]) -> None:
    lab = machine()
    spec = replace(lab.by_name("k1"), cpus=tuple(sorted(has)))
    extra = sorted(more - has)
    if not extra:
        return
    listed = ",".join(map(str, extra))
    grown = changed_spec(lab, spec, Change(cpus=f"+{listed}"), [spec])
    assert set(grown.cpus) == has | set(extra)
    assert changed_spec(lab, grown, Change(cpus=f"-{listed}"), [grown]).cpus == spec.cpus


def test_a_cpu_that_two_have_is_half_a_core_of_each() -> None:
    lab = machine()
    k1, k2 = lab.by_name("k1"), lab.by_name("k2")
    cores = with_cores([k1, replace(k2, cpus=(1, 2))])
    assert cores == {"k1": 1.5, "k2": 1.5}


def test_memory_is_checked_against_what_is_used() -> None:
    spec = machine().by_name("k1")
    check_memory(spec, None)
    check_memory(spec, 1 << 30)
    check_memory(replace(spec, memory_bytes=None), 1 << 40)
    with pytest.raises(Refused, match=r"it uses 1.5G, more than 1G; the least that it can have now is 1536M"):
        check_memory(spec, 3 << 29)


def test_a_kernel_that_has_its_cores_alone_keeps_them() -> None:
    lab = machine()
    alone = replace(lab.by_name("k1"), isolated=True, cores=0.0)
    with pytest.raises(Refused, match="it has its cores alone"):
        changed_spec(lab, alone, Change(cpus="+4"), [alone])
    assert changed_spec(lab, alone, Change(memory="2G"), [alone]).memory_bytes == 2 << 30
    assert with_cores([alone, lab.by_name("k2")]) == {"k1": 0.0, "k2": 2.0}
