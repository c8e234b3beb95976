"""Splits of computers of 2, 8 and 128 CPUs: legal always, fair, near, explained; or refused with the nearest
split that is legal."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popnet.core.errors import Refused
from popnet.machine.file import loads
from popnet.machine.gives import Give, nearest, parse_give
from popnet.machine.memory import Range, common, subtract, total
from popnet.machine.planfile import explanation, machine_file
from popnet.machine.planner import Plan, plan
from popnet.machine.policies import POLICIES, Wish
from popnet.machine.spec import MachineSpec
from popnet.machine.topology import Topology
from tests.machine.topologies import ALL, BIG, EIGHT, TWO, G

KERNELS = [str(Path(__file__).parents[2] / "kernels")]


def validated(split: Plan, topology: Topology) -> MachineSpec:
    """What the plan's machine file means on its computer."""
    return loads(machine_file(split, "m", explain=True), topology.host(), KERNELS, file="plan")


def check(split: Plan, topology: Topology, overcommit: bool = False) -> None:
    """What holds for every plan: legal, and as the file says."""
    spec = validated(split, topology)
    planned = {share.name for share in split.shares}
    assert {
        (kernel.name, kernel.cpus, kernel.memory_bytes, kernel.memory_map)
        for kernel in spec.kernels
        if kernel.name in planned
    } == {(share.name, share.cpus, share.memory_bytes, share.memory) for share in split.shares}
    assert {kernel.name for kernel in spec.kernels} == planned | {"primary"}
    assert split.shares[0].name == "primary" or "the primary has no CPU of its own" in split.notes[0]
    cpus = [cpu for share in split.shares for cpu in share.cpus]
    assert set(cpus) <= set(topology.cpus)
    assert overcommit or len(cpus) == len(set(cpus))
    for share in split.shares:
        assert subtract(share.memory, topology.host().memory_map) == ()
        assert all(share is other or not common(share.memory, other.memory) for other in split.shares)
        assert all(one.start % (2 << 20) == 0 == one.size_bytes % (2 << 20) for one in share.memory)
    lines = explanation(split)
    for share in split.shares:
        assert any(line.startswith(f"{share.name}: CPU") for line in lines)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_on_every_computer(policy: str, name: str) -> None:
    topology = ALL[name]
    split = plan(topology, policy, Wish(kernels=2 if policy == "equal" else None))
    check(split, topology)
    assert {cpu for share in split.shares for cpu in share.cpus} == set(topology.cpus), "none is left over"
    given_away = sum(share.memory_bytes or 0 for share in split.shares)
    assert topology.memory_bytes - given_away >= topology.memory_bytes // 16
    assert given_away > topology.memory_bytes * 0.9 - (64 << 20) * len(split.shares)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(ALL.values())),
    st.sampled_from(["equal", "compute-io", "real-time"]),
    st.integers(-1, 140),
    st.none() | st.integers(-1, 70),
    st.booleans(),
)
def test_whatever_is_wished_for_is_legal_or_refused_with_advice(
    topology: Topology, policy: str, kernels: int, cores: int | None, overcommit: bool
) -> None:
    try:
        split = plan(topology, policy, Wish(kernels, cores, overcommit))
    except Refused as error:
        assert "Nearest legal split: " in error.hint
        return
    check(split, topology, overcommit)


def cpus_of(split: Plan) -> dict[str, tuple[int, ...]]:
    return {share.name: share.cpus for share in split.shares}


def test_one_kernel_a_core_keeps_hardware_threads_together() -> None:
    split = plan(EIGHT, "per-core", Wish())
    assert cpus_of(split) == {"primary": (0, 4), "k1": (1, 5), "k2": (2, 6), "k3": (3, 7)}
    assert len(plan(BIG, "per-core", Wish()).shares) == 64


def test_one_kernel_a_node_has_the_memory_of_its_node() -> None:
    split = plan(BIG, "per-node", Wish(), reserve=1 * G)
    assert cpus_of(split) == {
        "primary": (*range(32), *range(64, 96)),
        "k1": (*range(32, 64), *range(96, 128)),
    }
    primary, k1 = validated(split, BIG).kernels
    assert (primary.memory_nodes, k1.memory_nodes) == ((0,), (1,))
    assert len(primary.memory_map) == 2, "around the hole"


def test_equal_kernels_are_equal_and_do_not_cross_nodes_unless_they_must() -> None:
    split = plan(BIG, "equal", Wish(8))
    assert {len(share.cpus) for share in split.shares} == {16}
    assert len({share.memory_bytes for share in split.shares}) == 1
    assert all(len(kernel.memory_nodes) == 1 for kernel in validated(split, BIG).kernels)
    caches = [{BIG.last_cache(cpu) for cpu in share.cpus} for share in split.shares]
    assert all(len(own) == 1 for own in caches), "each has a last cache of its own"
    three = plan(BIG, "equal", Wish(3))
    assert [len(share.cpus) for share in three.shares] == [42, 42, 44]
    assert "across NUMA nodes 0-1" in explanation(three)[2]


def test_more_kernels_than_cores_split_cores_and_say_so() -> None:
    split = plan(EIGHT, "equal", Wish(8))
    assert sorted(cpus_of(split).values()) == [(cpu,) for cpu in range(8)]
    assert "the other threads of its cores are CPU 4" in explanation(split)[0]


def test_sharing_cpus_only_when_asked_for() -> None:
    with pytest.raises(Refused, match="5 kernels cannot have a CPU each: there are 2") as caught:
        plan(TWO, "equal", Wish(5))
    assert "--kernels 2" in caught.value.hint
    split = plan(TWO, "equal", Wish(5, overcommit=True))
    check(split, TWO, overcommit=True)
    assert cpus_of(split) == {"primary": (0,), "k1": (1,), "k2": (0,), "k3": (1,), "k4": (0,)}


def test_compute_and_io() -> None:
    split = plan(BIG, "compute-io", Wish(kernels=2, cores=8))
    assert {name: len(cpus) for name, cpus in cpus_of(split).items()} == {
        "primary": 16,
        "compute1": 56,
        "compute2": 56,
    }
    assert 0 in split.shares[0].cpus


def test_a_real_time_kernel_is_alone_on_its_core_and_far_from_cpu_0() -> None:
    split = plan(EIGHT, "real-time", Wish())
    assert cpus_of(split) == {"primary": (0, 1, 2, 4, 5, 6), "rt": (3, 7)}
    assert "its L3 cache of 16M is that of CPUs 0-2,4-6 too" in "".join(explanation(split))
    alone = plan(BIG, "real-time", Wish(cores=8))
    assert "cache of" not in "".join(explanation(alone)), "eight cores have their last cache to themselves"
    with pytest.raises(Refused, match="8 cores for rt leave none") as caught:
        plan(EIGHT, "real-time", Wish(cores=8))
    assert caught.value.hint == "Nearest legal split: --cores 3"


def gives(*texts: str) -> list[Give]:
    return [parse_give(text) for text in texts]


def test_what_is_given_is_given_and_the_rest_is_split() -> None:
    split = plan(EIGHT, "equal", Wish(2), gives("db=0,4:2G@4G", "web=1:1G"))
    check(split, EIGHT)
    assert cpus_of(split) == {"primary": (2, 5), "db": (0, 4), "web": (1,), "k1": (3, 6, 7)} or set(
        cpus_of(split)
    ) == {"primary", "db", "web", "k1"}
    assert next(share for share in split.shares if share.name == "db").memory == (Range(4 * G, 6 * G),)
    alone = plan(EIGHT, None, Wish(), gives("db=0,4"))
    assert cpus_of(alone) == {"primary": (1, 2, 3, 5, 6, 7), "db": (0, 4)}


@pytest.mark.parametrize(
    ("texts", "reason", "hint"),
    [
        (
            ["k1=0-3", "k2=3-5"],
            "k2: CPU 3 belongs to k1, which lists 0-3; give k2 4-6",
            "--give k1=0-3 --give k2=4-6",
        ),
        (["k1=0,9"], "k1: got '0,9', but this topology has no CPU 9; it has 0-7", "--give k1=0-1"),
        (["k1=0:99G"], "k1: got 99G, but 14.1G of 15G may be given away", "--give k1=0:14400M"),
        (
            ["k1=0:2G@2G"],
            "k1: 2G@2G is not all memory: the machine has a hole there (1G@3G)",
            "--give k1=0:2G@1G",
        ),
        (["k1=0:2G@99G"], "k1: 2G@99G is not all memory: the machine has nothing", "--give k1=0:2G@15G"),
        (
            ["k1=0:2G@4G", "k2=1:2G@5G"],
            "k2: 2G@5G overlaps k1, which has 2G@4G, by 1G@5G; the nearest that is free is 2G@6G",
            "--give k1=0:2G@4G --give k2=1:2G@6G",
        ),
        (
            ["k1=0:10G", "k2=1:10G"],
            "k2: with these 10G the kernels want 20G, but 14.1G of 15G may be given away; 4160M are left",
            "--give k1=0:10G --give k2=1:4160M",
        ),
    ],
)
def test_what_cannot_be_given_says_why_and_what_could(texts: Sequence[str], reason: str, hint: str) -> None:
    with pytest.raises(Refused) as caught:
        plan(EIGHT, None, Wish(), gives(*texts))
    assert reason in str(caught.value)
    assert caught.value.hint == f"Nearest legal split: {hint}"
    near = caught.value.hint.removeprefix("Nearest legal split: --give ").split(" --give ")
    check(plan(EIGHT, None, Wish(), gives(*near)), EIGHT)


GIVE = st.builds(
    lambda number, cpus, memory: Give(f"k{number}", tuple(sorted(cpus)), memory),
    st.integers(1, 99),
    st.sets(st.integers(0, 11), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=1).map(
        lambda found: tuple(Range(start * G // 2, (start + size) * G // 2) for start, size in found)
    ),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(GIVE, min_size=1, max_size=5, unique_by=lambda give: give.name))
def test_the_nearest_legal_split_is_legal(wanted: list[Give]) -> None:
    limit = EIGHT.memory_bytes - G
    legal = nearest(EIGHT, wanted, limit)
    assert legal, "there is always one for the first"
    split = plan(EIGHT, None, Wish(), legal, reserve=G)
    check(split, EIGHT)
    assert nearest(EIGHT, legal, limit) == legal, "what is legal stays as it is"


@pytest.mark.parametrize(
    ("options", "reason", "hint"),
    [
        ({"memory": 5 * G}, "4 kernels with 5G each want 20G, but 14.1G may be given away", "--memory 3600M"),
        ({"memory": 1 << 20}, "1M is too little for a kernel; allowed: at least 32M", "--memory 32M"),
        ({"reserve": 15 * G}, "15G kept back of 15G leave no memory", "--reserve 15224M"),
    ],
)
def test_too_much_memory(options: dict[str, int], reason: str, hint: str) -> None:
    with pytest.raises(Refused) as caught:
        plan(EIGHT, "equal", Wish(4), **options)  # type: ignore[arg-type]
    assert reason in str(caught.value)
    assert caught.value.hint == f"Nearest legal split: {hint}"
    key, value = hint.removeprefix("--").split()
    check(plan(EIGHT, "equal", Wish(4), **{key: int(value[:-1]) << 20}), EIGHT)  # type: ignore[arg-type]


def test_memory_as_amounts_or_not_at_all() -> None:
    split = plan(EIGHT, "equal", Wish(2), by_address=False)
    check(split, EIGHT)
    assert all(not share.memory and share.memory_bytes for share in split.shares)
    unlimited = plan(EIGHT, "equal", Wish(2), memory=None)
    check(unlimited, EIGHT)
    assert all(share.memory_bytes is None for share in unlimited.shares)


def test_no_policy_of_that_name() -> None:
    with pytest.raises(Refused, match="no policy 'per-cpu'; did you mean 'per-core'"):
        plan(TWO, "per-cpu", Wish())


@pytest.mark.parametrize("text", ["", "k1", "k1=", "=0", "k1=0:", "K1=0", "k1=x", "k1=0:1X", "k1=0:1G@x"])
def test_wrong_gives(text: str) -> None:
    with pytest.raises(ValueError, match="allowed"):
        parse_give(text)


def test_the_most_memory_a_plan_gives_is_what_may_be_used() -> None:
    split = plan(EIGHT, "per-core", Wish())
    assert sum(total(share.memory) for share in split.shares) + split.kept_bytes <= EIGHT.memory_bytes
