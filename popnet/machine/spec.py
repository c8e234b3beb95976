"""A machine and its kernels as validated values: a machine file on one host, with every default filled in."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from popnet.core import addresses
from popnet.core.errors import NoSuchKernel
from popnet.machine.checks import Check
from popnet.machine.devices import SHARED
from popnet.machine.faults import Fault, Way
from popnet.machine.gatewayspec import GatewaySpec
from popnet.machine.host import Host
from popnet.machine.impairment import Impairment
from popnet.machine.isolation import housekeeping
from popnet.machine.memory import Memory
from popnet.machine.problems import nearest


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """One kernel.

    Attributes:
        kid: its number; 0 is the primary.
        name: its name in every command.
        image: name of the image it runs.
        image_path: directory of that image.
        cpus: CPUs of the host it may run on, in rising order, at least one.
        cores: how many whole cores that is, if secondaries share evenly what several list. Below 1, nothing
            in the kernel may spin: others could run meanwhile.
        memory_bytes: most it may use; None is no limit.
        mtu: of its NIC, in bytes.
        offload: whether its NIC has offloads; without, every frame is as on a wire.
        ttys: how many terminals it has.
        hostname: what `uname -n` says in it.
        init: absolute path of the program it runs as init; None is popnet's own.
        ssh: whether sshd runs in it.
        env: environment of its init, as (name, value).
        append: the boot parameters that were asked for by name, the image's first.
        cmdline: all its boot parameters, compiled; what its /proc/cmdline says.
        services: the only services that its programs may open or offer; None: all but the kernels' own.
        address: its IPv4 address.
        cpus_listed: its CPUs were listed, so no other kernel may list them.
        memory_map: the memory it has, if it has it by address; `memory_bytes` is how much that is.
        memory_nodes: the NUMA nodes its memory comes from; () is any.
        devices: names below /dev of the devices it has, beside those that every kernel has.
        restart: whether it boots again when it ended by itself: one of `restart.POLICIES`.
        hidden_pci: (vendor, device) of the PCI devices that it does not see.
        files: `serve`, `use`, or "": what it does with /io, as its image says.
        isolated: it has its CPUs alone; its daemon runs elsewhere, and `cores` is 0, as that must not spin.
        groups: the only groups that its programs may join; None: all, or none if `services` are listed.
    """

    kid: int
    name: str
    image: str
    image_path: str
    cpus: tuple[int, ...]
    cores: float
    memory_bytes: int | None
    mtu: int
    offload: bool
    ttys: int
    hostname: str
    init: str | None
    ssh: bool
    env: tuple[tuple[str, str], ...]
    append: str
    cmdline: str
    services: tuple[str, ...] | None = None
    address: str = ""
    cpus_listed: bool = False
    memory_map: Memory = ()
    memory_nodes: tuple[int, ...] = ()
    devices: tuple[str, ...] = SHARED
    hidden_pci: tuple[tuple[int, int], ...] = ()
    restart: str = "never"
    groups: tuple[str, ...] | None = None
    isolated: bool = False
    files: str = ""


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """One machine.

    Attributes:
        name: its name: of its run directory, and in every command.
        file: the path of the file that describes it, as given.
        subnet, subnet6: the networks its kernels' addresses come from.
        kernels: in the order of their kids; the first is the primary.
        resources: what of the host they share.
        mtu: of a NIC, unless its kernel says otherwise.
        overcommit: whether kernels may have the same CPUs and memory.
        impairments: of links and NICs, from the start on.
        faults: what goes wrong later.
        gateway: the ssh server that the machine starts; None: none.
        checks: what must be true of it while it runs.
    """

    name: str
    file: str
    subnet: IPv4Network
    subnet6: IPv6Network
    kernels: tuple[KernelSpec, ...]
    resources: Host
    mtu: int = 1500
    overcommit: bool = False
    impairments: tuple[tuple[Way, Impairment], ...] = ()
    faults: tuple[Fault, ...] = ()
    gateway: GatewaySpec | None = None
    checks: tuple[Check, ...] = ()

    @property
    def housekeeping(self) -> tuple[int, ...]:
        """The CPUs for everything that is not to run on those that kernels have alone."""
        return housekeeping(self.resources.cpus, (one.cpus for one in self.kernels if one.isolated))

    @property
    def primary(self) -> KernelSpec:
        return self.kernels[0]

    def by_name(self, name: str) -> KernelSpec:
        """The kernel called *name*; raises NoSuchKernel, which names those there are."""
        for kernel in self.kernels:
            if kernel.name == name:
                return kernel
        names = [kernel.name for kernel in self.kernels]
        guess = nearest(name, names)
        near = f"; did you mean {guess!r}?" if guess else ""
        text = f"machine {self.name} has no kernel {name!r}{near}"
        raise NoSuchKernel(text, hint=f"Its kernels are {', '.join(names)}.")

    def ipv4(self, kernel: KernelSpec) -> IPv4Address:
        return IPv4Address(kernel.address)

    def ipv6(self, kernel: KernelSpec) -> IPv6Address:
        return addresses.ipv6(kernel.kid, self.subnet6)
