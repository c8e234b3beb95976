"""One kernel in the primary's table, whether it runs or not: what is known of it, and how it is shown."""

import os
import time
from dataclasses import dataclass, field
from typing import Any

from popnet.core import addresses
from popnet.core.errors import PopnetError
from popnet.kernel.cgroup import Group
from popnet.kernel.events import Journal
from popnet.kernel.incarnation import Incarnation
from popnet.machine import restart, states
from popnet.machine.image import Image
from popnet.machine.spec import KernelSpec, MachineSpec
from popnet.machine.states import KernelState
from popnet.machine.units import format_cpus
from popnet.tty.hub import Terminal


@dataclass(slots=True)
class Entry:
    """A kernel of the machine.

    Attributes:
        log, terminals, timeline: outlive its generations.
        life: its state; changed by the primary's state machine only.
        incarnation: of the generation that runs; None for kernel 0, which is the primary itself.
        hung: its heartbeat is missing.
        hint: what to do about a boot that failed before there was an incarnation.
        restarts: how often it failed in a row.
        root: the tree that it shows, got ready before its boot; None is the host's own.
        broken: why there is none.
        origin: it and its image as the machine file has them; None if the file does not, and `load` added it.
    """

    spec: KernelSpec
    image: Image
    log: Journal
    terminals: list[Terminal]
    life: states.Life
    incarnation: Incarnation | None = None
    timeline: list[dict[str, Any]] = field(default_factory=list)
    hung: bool = False
    hint: str = ""
    restarts: restart.Record = field(default_factory=restart.Record)
    root: str | None = None
    broken: PopnetError | None = None
    origin: tuple[KernelSpec, Image] | None = None

    def state_text(self) -> str:
        """Its state as the events tell it: `kernel 3: online (generation 2, 8 ms)`."""
        life = self.life
        text = f"kernel {self.spec.kid}: {life.state.value}"
        if life.state is KernelState.ONLINE and self.timeline:
            took_ms = max(step["start_ms"] + step["took_ms"] for step in self.timeline)
            return f"{text} (generation {life.generation}, {took_ms:.0f} ms)"
        return f"{text} ({life.reason})" if life.reason else f"{text} (generation {life.generation})"

    def row(self, machine: MachineSpec, own_group: Group) -> dict[str, Any]:
        """It as the control API shows it; *own_group* is the control group of kernel 0."""
        spec, life = self.spec, self.life
        group = own_group if spec.kid == 0 else self.incarnation and self.incarnation.group
        pid = os.getpid() if spec.kid == 0 else self.incarnation and self.incarnation.pid
        online = life.state is KernelState.ONLINE
        return {
            "kid": spec.kid,
            "name": spec.name,
            "image": spec.image,
            "state": life.state.value,
            "hung": self.hung,
            "generation": life.generation,
            "cpus": format_cpus(spec.cpus),
            "memory_bytes": spec.memory_bytes,
            "memory_used_bytes": group.memory_used() if group else None,
            "ipv4": spec.address,
            "ipv6": str(addresses.ipv6(spec.kid, machine.subnet6)),
            "mac": addresses.mac_text(spec.kid),
            "mtu": spec.mtu,
            "ttys": spec.ttys,
            "ssh": spec.ssh,
            "pid": pid,
            "uptime_s": round(time.monotonic() - life.since_s, 3) if online else None,
            "reason": life.reason,
            "isolated": spec.isolated,
        }
