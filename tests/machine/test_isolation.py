"""Cores that a kernel has alone: where they are put, and what is refused, at validation and at load."""

from pathlib import Path

import pytest

from popnet.core.errors import InvalidMachineFile, Refused
from popnet.machine.file import load_image, loads
from popnet.machine.host import Host
from popnet.machine.isolation import conflict, housekeeping, place, whole_core
from popnet.machine.loading import check_load, loaded_spec
from popnet.machine.spec import MachineSpec

KERNELS = Path(__file__).parents[2] / "kernels"
FOUR = Host((0, 1, 2, 3), 8 << 30)
THREADS = Host((0, 1, 2, 3), 8 << 30, cores=((0, 2), (1, 3)))


def machine(text: str, host: Host = FOUR) -> MachineSpec:
    return loads(f"apiVersion: popnet/v1\nname: m\n{text}", host, [str(KERNELS)])


def error(text: str, host: Host = FOUR) -> str:
    with pytest.raises(InvalidMachineFile) as caught:
        machine(text, host)
    return str(caught.value)


def test_threads_of_a_core() -> None:
    assert whole_core(2, THREADS.cores) == (0, 2)
    assert whole_core(2, ()) == (2,)
    assert place(["a", "b"], {"k": (3,)}, (0, 1, 2, 3), ()) == {"a": (2,), "b": (1,)}
    assert place(["a", "b"], {"k": (3,)}, (0, 1, 2, 3), THREADS.cores) == {"a": (0, 2)}
    assert place(["a"], {}, (0, 1, 2), THREADS.cores) == {"a": (0, 2)}
    assert housekeeping((0, 1, 2, 3), [(3,), (1,)]) == (0, 2)


def test_conflicts() -> None:
    assert conflict("rt", (3,), {"k": (0, 1)}, ()) is None
    assert conflict("rt", (2, 3), {"k": (0, 3)}, ()) == "rt has its cores alone, and CPU 3 is k's too"
    beside = "rt has its cores alone, and CPU 1, which is k's, is the other thread of CPU 3"
    assert conflict("rt", (3,), {"k": (0, 1)}, THREADS.cores) == beside


def test_it_is_put_on_the_last_core_and_nobody_else_is() -> None:
    found = machine("kernels: {rt: {image: rt}, k1: {}, k2: {cpus: 0}}")
    assert {one.name: one.cpus for one in found.kernels} == {
        "primary": (1,),
        "rt": (3,),
        "k1": (2,),
        "k2": (0,),
    }
    rt = found.by_name("rt")
    assert (rt.isolated, rt.cores, rt.cpus_listed) == (True, 0.0, True)
    assert "present_mask=3" in rt.cmdline
    assert found.housekeeping == (0, 1, 2)


def test_on_a_core_of_two_threads_it_has_both() -> None:
    found = machine("kernels: {rt: {image: rt}, k1: {}}", THREADS)
    assert found.by_name("rt").cpus == (1, 3)
    assert set(found.primary.cpus) | set(found.by_name("k1").cpus) == {0, 2}


def test_who_lists_all_cpus_does_not_share_them_with_the_primary() -> None:
    found = machine('kernels: {rt: {image: rt, cpus: 3}, k1: {cpus: "0-2"}}')
    assert found.primary.cpus == (0, 1, 2), "which has them too, but not the one that is alone"


@pytest.mark.parametrize(
    ("kernels", "host", "what"),
    [
        ("{primary: {image: rt}}", FOUR, "kernels.primary.image: image 'rt' has its cores alone"),
        ("{rt: {image: rt, cpus: 3}, k1: {cpus: '2-3'}}", FOUR, "CPU 3 belongs to rt"),
        ("{rt: {image: rt, cpus: '0-3'}}", FOUR, "CPU 0-3 is primary's too"),
        ("{rt: {image: rt}, k1: {cpus: '0-3'}}", FOUR, "kernels.rt.image: image 'rt' needs a core alone"),
        ("{rt: {image: rt, cpus: 3}, k1: {cpus: 1}}", THREADS, "kernels.rt.cpus: rt has its cores alone"),
        ("{rt: {image: rt, append: 'present_mask=0-3'}}", FOUR, "kernels.rt.append: rt has its cores alone"),
    ],
)
def test_what_is_refused(kernels: str, host: Host, what: str) -> None:
    assert what in error(f"kernels: {kernels}", host)


def test_overcommit_does_not_change_it() -> None:
    shared = "machine: {overcommit: true}\nkernels: {rt: {image: rt, cpus: 3}, k1: {cpus: '2-3'}}"
    assert "rt has its cores alone, and CPU 3 is k1's too" in error(shared)


def test_one_is_loaded_into_a_machine_that_runs() -> None:
    found = machine("kernels: {primary: {cpus: 0}, k1: {cpus: 1}, k2: {cpus: 2}}")
    rt = load_image(str(KERNELS / "rt"))
    spec = loaded_spec(found, "new", rt, "", found.kernels)
    assert (spec.cpus, spec.isolated, spec.cpus_listed) == ((3,), True, True)
    with pytest.raises(Refused, match="has its cores alone, and CPU 1 is k1's too"):
        loaded_spec(found, "new", rt, "present_mask=1", found.kernels)


def test_none_is_left_for_one_or_beside_one() -> None:
    found = machine("kernels: {k1: {}}", Host((0, 1), 8 << 30))
    rt = load_image(str(KERNELS / "rt"))
    with pytest.raises(Refused, match="other kernels run on all of them"):
        loaded_spec(found, "new", rt, "", found.kernels)
    alone = loaded_spec(found, "new", rt, "present_mask=1", [found.primary])
    with pytest.raises(Refused, match="new has its cores alone, and CPU 1 is k1's too"):
        check_load(found, found.by_name("k1"), [found.primary, alone])
