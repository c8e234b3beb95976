"""A topology as a text: there and back, and its errors with their places."""

import json

import pytest
import yaml

from popnet.core.errors import InvalidMachineFile
from popnet.machine.topology import summary, to_data
from popnet.machine.topologyfile import loads_topology
from tests.machine.topologies import ALL, BIG, EIGHT

TOP = "apiVersion: popnet/v1\nkind: Topology\n"


@pytest.mark.parametrize("name", ALL)
def test_there_and_back_as_yaml_and_json(name: str) -> None:
    data = to_data(ALL[name])
    assert loads_topology(json.dumps(data)) == ALL[name]
    assert loads_topology(yaml.safe_dump(data)) == ALL[name]


def test_what_may_be_left_out() -> None:
    topology = loads_topology("cores: [{cpus: 0}, {cpus: 1}]\nmemory: 1G\n")
    assert (topology.cpus, topology.memory_bytes, topology.caches) == ((0, 1), 1 << 30, ())
    assert loads_topology("cores: [{cpus: 0}]\nnodes: [{memory: [1G@0, 1G@4G]}]\n").memory_bytes == 2 << 30


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "t:1:1: the file is empty"),
        ("memory: 1G\n", "t:1:1: cores: there are no cores; allowed: a list such as"),
        ("memory: 1G\ncores: 3\n", "t:2:8: cores: got 3; allowed: a list"),
        (
            "memory: 1G\ncores: [{cpu: 0}]\n",
            "t:2:9: cores.0: key 'cpus' is missing; it lists the core's CPUs",
        ),
        ("memory: 1G\ncores: [{cpus: 0-1}, {cpus: 1}]\n", "t:2:8: cores: CPU 1 is in two cores"),
        ("memory: 1G\ncores: [{cpus: 0, node: 3}]\n", "t:2:25: cores.0.node: there is no node 3 in 'nodes'"),
        (
            "memory: 2G\ncores: [{cpus: 0}]\nnodes: [{memory: [1G@0]}]\n",
            "t:1:9: memory: got 2G, but the nodes",
        ),
        ("cores: [{cpus: 0}]\n", "t:1:1: nothing says how much memory there is"),
        (
            "cores: [{cpus: 0}]\nnodes: [{memory: [1G]}]\n",
            "t:2:18: nodes.0.memory: got '1G'; allowed: SIZE@ST",
        ),
        (
            "cores: [{cpus: 0}]\nnodes: [{memory: [2G@0]}, {node: 1, memory: [1G@1G]}]\n",
            "t:2:45: nodes.1.memory: node 0 has 1G@1G too",
        ),
        ("cores: [{cpus: 0}]\nmemory: 1G\nkind: Machine\n", "t:3:7: kind: got 'Machine'; allowed: Topology"),
    ],
)
def test_errors(text: str, expected: str) -> None:
    with pytest.raises(InvalidMachineFile) as caught:
        loads_topology(text, "t")
    assert str(caught.value).splitlines()[0].startswith(expected)


def test_in_a_sentence() -> None:
    assert summary(EIGHT) == "1 package, 1 NUMA node, 4 cores, 8 CPUs, 15G of memory with 1 hole"
    assert summary(BIG) == "2 packages, 2 NUMA nodes, 64 cores, 128 CPUs, 511G of memory with 1 hole"
