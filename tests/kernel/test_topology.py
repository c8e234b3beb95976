"""Reading a /sys/devices/system: one written here, for every case, and the host's own."""

import os
from pathlib import Path

import pytest

from popnet.kernel.host import memory_nodes
from popnet.kernel.topology import read_topology, topology_of
from popnet.machine.memory import Range
from popnet.machine.topology import Cache, Core, Node

BLOCK = 128 << 20


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """Two nodes, two cores of two threads each, memory blocks with a hole, one of them offline."""

    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")

    write("memory/block_size_bytes", "8000000")
    for node, cpus, blocks in ((0, "0,2", (0, 1, 4)), (1, "1,3", (8, 9))):
        write(f"node/node{node}/cpulist", cpus)
        for block in blocks:
            write(f"node/node{node}/memory{block}/state", "offline" if block == 9 else "online")
    for cpu in range(4):
        write(f"cpu/cpu{cpu}/topology/core_cpus_list", "0,2" if cpu % 2 == 0 else "1,3")
        write(f"cpu/cpu{cpu}/topology/physical_package_id", str(cpu % 2))
        for index, level, size, shared in (("0", "1", "32K", f"{cpu}"), ("3", "3", "8M", "0-3")):
            write(f"cpu/cpu{cpu}/cache/index{index}/level", level)
            write(f"cpu/cpu{cpu}/cache/index{index}/type", "Unified")
            write(f"cpu/cpu{cpu}/cache/index{index}/size", size)
            write(f"cpu/cpu{cpu}/cache/index{index}/shared_cpu_list", shared)
    return tmp_path


def test_nodes_cores_threads_and_caches(system: Path) -> None:
    topology = topology_of((0, 1, 2, 3), 1 << 30, system)
    assert topology.cores == (Core((0, 2), 0, 0), Core((1, 3), 1, 1))
    assert topology.nodes == (
        Node(0, (Range(0, 2 * BLOCK), Range(4 * BLOCK, 5 * BLOCK))),
        Node(1, (Range(8 * BLOCK, 9 * BLOCK),)),
    )
    assert Cache(3, "Unified", 8 << 20, (0, 1, 2, 3)) in topology.caches
    assert sum(cache.level == 1 for cache in topology.caches) == 4


def test_only_the_cpus_that_may_be_used(system: Path) -> None:
    assert topology_of((0, 1, 3), 1 << 30, system).cores == (Core((0,), 0, 0), Core((1, 3), 1, 1))


def test_a_host_that_tells_nothing(tmp_path: Path) -> None:
    topology = topology_of((0, 1), 1 << 30, tmp_path)
    assert topology.cores == (Core((0,), 0, 0), Core((1,), 0, 0))
    assert topology.nodes == (Node(0, ()),)
    assert memory_nodes(tmp_path) == {}
    assert topology.host().memory_map == (Range(0, 1 << 30),)


def test_this_host() -> None:
    topology = read_topology()
    assert set(topology.cpus) == os.sched_getaffinity(0)
    assert topology.memory_bytes > 0
