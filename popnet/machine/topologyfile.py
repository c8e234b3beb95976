"""The text of a topology, YAML or JSON: what `popnet topology` prints, for a machine that one does not have.

apiVersion: popnet/v1
kind: Topology
memory: 60G                             # what may be given away; default: all that the nodes have
cores:                                  # a core has one CPU or more: its hardware threads
  - {cpus: "0,16", package: 0, node: 0}
nodes:                                  # the memory of each NUMA node, by address
  - {node: 0, memory: [3G@0, 61G@4G]}
caches:                                 # may be left out
  - {level: 3, type: Unified, size: 32M, cpus: 0-7}
"""

from collections import Counter
from collections.abc import Iterator

from popnet.machine.document import read
from popnet.machine.memory import common, describe, total
from popnet.machine.problems import Path, shown
from popnet.machine.report import Report, read_text
from popnet.machine.schema import CacheSection, CoreSection, NodeSection, SectionType, TopologySection
from popnet.machine.topology import Cache, Core, Node, Topology, ordered
from popnet.machine.units import approximate_size, format_cpus, format_size


def load_topology(path: str) -> Topology:
    """The topology in the file at *path*; raises InvalidMachineFile with every error, one a line."""
    return loads_topology(read_text(path, "topology"), path)


def loads_topology(text: str, file: str = "<text>") -> Topology:
    """As `load_topology`, of a *text* that came from *file*."""
    report = Report(file, read(text))
    top = report.section(TopologySection, ())
    if top is None or not isinstance(report.document.data, dict):
        raise report.error()
    nodes = _nodes(report, top)
    cores = _cores(report, top, nodes)
    caches = [
        Cache(cache.level, cache.type, cache.size, cache.cpus or ())
        for _, cache in _rows(report, CacheSection, "caches", top.caches)
    ]
    have = sum(total(node.memory) for node in nodes)
    if have and top.memory > have:
        text = f"got {format_size(top.memory)}, but the nodes have {approximate_size(have)}"
        report.problem(("memory",), text)
    if not have and not top.memory and not report.lines:
        report.problem((), "nothing says how much memory there is: give 'memory', or the memory of 'nodes'")
    if report.lines:
        raise report.error()
    return Topology(ordered(cores), tuple(nodes), tuple(caches), top.memory or have)


def _nodes(report: Report, top: TopologySection) -> list[Node]:
    nodes: dict[int, Node] = {}
    for path, section in _rows(report, NodeSection, "nodes", top.nodes):
        if section.node in nodes:
            report.problem((*path, "node"), f"node {section.node} is there already")
        for other in nodes.values():
            if both := common(other.memory, section.memory):
                report.problem((*path, "memory"), f"node {other.number} has {describe(both)} too")
        nodes[section.node] = Node(section.node, section.memory)
    return [nodes[number] for number in sorted(nodes)] or [Node(0, ())]


def _cores(report: Report, top: TopologySection, nodes: list[Node]) -> list[Core]:
    cores = []
    for path, section in _rows(report, CoreSection, "cores", top.cores):
        if section.cpus is None:
            report.problem(path, "key 'cpus' is missing; it lists the core's CPUs")
            continue
        if section.node not in {node.number for node in nodes}:
            report.problem((*path, "node"), f"there is no node {section.node} in 'nodes'")
        cores.append(Core(section.cpus, section.package, section.node))
    twice = [cpu for cpu, n in Counter(cpu for core in cores for cpu in core.cpus).items() if n > 1]
    if twice:
        report.problem(("cores",), f"CPU {format_cpus(twice)} is in two cores")
    if not cores and not report.lines:
        report.problem(("cores",), "there are no cores; allowed: a list such as [{cpus: 0}, {cpus: 1}]")
    return cores


def _rows(
    report: Report, section: type[SectionType], key: str, value: object
) -> Iterator[tuple[Path, SectionType]]:
    """The rows of the list at *key*, each checked."""
    if value is None:
        return
    if not isinstance(value, list):
        report.problem((key,), f"got {shown(value)}; allowed: a list")
        return
    for index in range(len(value)):
        path = (key, str(index))
        row = report.section(section, path)
        if row is not None:
            yield path, row
