"""The counters of a machine in Prometheus' text format (0.0.4): one sample a kernel, link, ring, terminal.

Pure. Names follow Prometheus' conventions: `popnet_` first, the unit, `_total` for what only grows. What a
kernel counts, and this module does not know, becomes a counter of its own name; nothing is left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

STATES: Final = ("offline", "loaded", "starting", "online", "stopping", "failed")

_GAUGES: Final = {
    "messages": ("links", "streams", "calls", "tasks"),
    "programs": ("connected", "streams", "calls", "registered", "memberships"),
    "tty": ("viewers",),
}

_RINGS: Final = ("high", "normal", "frames")

_HELP: Final = {
    "popnet_info": "Version of popnet, and the machine's file.",
    "popnet_machine_uptime_seconds": "Since the primary started.",
    "popnet_kernel_state": "1 for the state the kernel is in, 0 for all others.",
    "popnet_kernel_hung": "1 if its heartbeat has stopped.",
    "popnet_kernel_generation": "Which incarnation of the kernel it is.",
    "popnet_kernel_uptime_seconds": "Since the kernel was online.",
    "popnet_kernel_answered": "1 if the kernel told its counters this time.",
    "popnet_kernel_cpu_seconds_total": "CPU time of its daemon and programs.",
    "popnet_kernel_memory_bytes": "Memory in use.",
    "popnet_kernel_memory_limit_bytes": "Memory that its partition has.",
    "popnet_nic_drops_total": "Frames dropped, by reason.",
}


_GROUPS: Final = {
    "nic": "Of a kernel's NIC, as popnet stats net shows it",
    "ring": "Of a ring of a link, as popnet stats shows it",
    "link": "Of a link, as its kernel sees it",
    "messages": "Of a kernel's message layer",
    "programs": "Of the programs that use a kernel's messages",
    "tty": "Of a terminal",
}


class _Families:
    """Samples by metric, in the order in which metrics come first."""

    def __init__(self, machine: str) -> None:
        self._machine = machine
        self._samples: dict[str, list[str]] = {}

    def add(self, name: str, value: float, **labels: str) -> None:
        pairs = {"machine": self._machine, **labels}
        text = ",".join(f'{key}="{_escaped(label)}"' for key, label in pairs.items())
        self._samples.setdefault(name, []).append(f"{name}{{{text}}} {_number(value)}")

    def text(self) -> str:
        return "".join(line + "\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        for name, samples in self._samples.items():
            yield f"# HELP {name} {_HELP.get(name) or _help(name)}"
            yield f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}"
            yield from samples


def text(
    version: str,
    machine: Mapping[str, Any],
    kernels: Sequence[Mapping[str, Any]],
    told: Mapping[str, Mapping[str, Any]],
) -> str:
    """The whole document.

    Args:
        machine, kernels: as `/v1/machine` and `/v1/kernels` tell them.
        told: by kernel, as `/v1/counters` tells it.
    """
    families = _Families(machine["name"])
    families.add("popnet_info", 1, version=version, file=str(machine.get("file", "")))
    families.add("popnet_machine_uptime_seconds", machine["uptime_s"])
    names = {str(row["kid"]): row["name"] for row in kernels}
    for row in kernels:
        _add_kernel(families, row, told.get(row["name"]))
    for row in kernels:
        _add_counters(families, row["name"], told.get(row["name"], {}), names)
    return families.text()


def _add_kernel(families: _Families, row: Mapping[str, Any], told: Mapping[str, Any] | None) -> None:
    kernel = row["name"]
    for state in STATES:
        families.add("popnet_kernel_state", row["state"] == state, kernel=kernel, state=state)
    families.add("popnet_kernel_hung", bool(row.get("hung")), kernel=kernel)
    families.add("popnet_kernel_generation", row["generation"], kernel=kernel)
    answered = told is not None and "error" not in told
    families.add("popnet_kernel_answered", answered, kernel=kernel)
    usage = (told or {}).get("usage", {})
    for name, value in (
        ("popnet_kernel_uptime_seconds", row.get("uptime_s")),
        ("popnet_kernel_memory_limit_bytes", row.get("memory_bytes")),
        ("popnet_kernel_memory_bytes", usage.get("memory_bytes")),
        ("popnet_kernel_cpu_seconds_total", usage.get("cpu_s")),
    ):
        if value is not None:
            families.add(name, value, kernel=kernel)


def _add_counters(
    families: _Families, kernel: str, told: Mapping[str, Any], names: Mapping[str, str]
) -> None:
    """What one kernel told. It is its own word: what is no number is left out, and the rest is passed on."""
    for name, value in _numbers(told.get("nic")):
        if name.startswith("drop_"):
            families.add("popnet_nic_drops_total", value, kernel=kernel, reason=name.removeprefix("drop_"))
        else:
            families.add(f"popnet_nic_{name}_total", value, kernel=kernel)
    for kid, link in _objects(told.get("links")):
        peer = names.get(kid, kid)
        for name, value in _numbers(link):
            ring, _, rest = name.partition("_")
            if ring in _RINGS:
                families.add(f"popnet_ring_{rest}_total", value, kernel=kernel, peer=peer, ring=ring)
            else:
                families.add(f"popnet_link_{name}_total", value, kernel=kernel, peer=peer)
    for group in ("messages", "programs"):
        for name, value in _numbers(told.get(group)):
            kind = "" if name in _GAUGES[group] else "_total"
            families.add(f"popnet_{group}_{name}{kind}", value, kernel=kernel)
    for tty, counts in _objects(told.get("ttys")):
        for name, value in _numbers(counts):
            kind = "" if name in _GAUGES["tty"] else "_total"
            families.add(f"popnet_tty_{name}{kind}", value, kernel=kernel, tty=tty)


def _help(name: str) -> str:
    """What is known of a counter by its name."""
    _, group, *words = name.removesuffix("_total").split("_")
    return f"{_GROUPS[group]}: {' '.join(words)}."


def _numbers(counts: Any) -> Iterator[tuple[str, float]]:
    if isinstance(counts, Mapping):
        for name, value in counts.items():
            if isinstance(value, int | float) and str(name).isidentifier() and str(name).isascii():
                yield name, value


def _objects(counts: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(counts, Mapping):
        for name, value in counts.items():
            if isinstance(value, Mapping):
                yield str(name), value


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if isinstance(value, bool) else repr(value)
