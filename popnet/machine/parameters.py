"""Every boot parameter of a kernel: how it is written, what it does, and which key of a machine file compiles
to it. `cmdline` reads and writes by this table, and `docs/boot-parameters.md` is made of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Any, Final

from popnet.core.limits import TTYS_MAX
from popnet.machine import names
from popnet.machine.devices import DEVICES_ALLOWED, PCI_ALLOWED, parse_devices, parse_pci_flags
from popnet.machine.memory import MEMMAP_ALLOWED, format_memmap, parse_memmap
from popnet.machine.units import CPUS_ALLOWED, SIZE_ALLOWED, format_cpus, format_size, parse_cpus, parse_size

LOGLEVEL_ALL: Final = 8
"""`loglevel=` that hides nothing: one more than the level of KERN_DEBUG."""

LOGLEVEL_DEFAULT: Final = 7
"""What `loglevel=` is unless it is given, as in Linux."""

LOGLEVEL_QUIET: Final = 4
"""What `loglevel=` is with `quiet`, as in Linux."""

HARDWARE: Final = {
    "mklinux": "this is a secondary kernel",
    "vty_offset": "where the shared terminals are in physical memory",
    "mcomm": "where the region of the MPI-like channel is",
    "lapic_timer": "ticks of the local timer, which a secondary cannot calibrate",
    "acpi_irq_nobalance": "no balancing of interrupts",
    "no_ipi_broadcast": "no interrupts to other kernels' CPUs",
    "earlyprintk": "a serial console, before there is any other",
    "console": "the console's device; here it is tty0",
}
"""Parameters of Popcorn and Linux for hardware that no kernel of popnet drives: shown, and not passed on."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter.

    Attributes:
        name: as it is written.
        field: of `BootParameters`, which holds its value.
        example: the parameter as a user might write it.
        allowed: what its value may be; empty for one that has none.
        does: what it does.
        default: what is the case without it.
        key: the key of a kernel in a machine file that compiles to it.
        parse, write: from the text of a value to the value, and back; None for a parameter without one.
        many: given twice, both count; of any other the last one does.
    """

    name: str
    field: str
    example: str
    allowed: str
    does: str
    default: str
    key: str = ""
    parse: Callable[[str], Any] | None = None
    write: Callable[[Any], str] = str
    many: bool = False


def _whole(minimum: int, maximum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= 9 and minimum <= int(text) <= maximum):
            raise ValueError(f"got {text!r}; allowed: {minimum} to {maximum}")
        return int(text)

    return parse


def _address(text: str) -> str:
    try:
        return str(IPv4Address(text))
    except AddressValueError as error:
        raise ValueError(f"got {text!r} ({error}); allowed: an IPv4 address such as 10.1.2.9") from None


def _joined(values: tuple[object, ...]) -> str:
    return ",".join(map(str, values))


PARAMETERS: Final = (
    Parameter(
        name="present_mask",
        field="cpus",
        example="present_mask=0-1,3",
        allowed=CPUS_ALLOWED,
        does="The CPUs of the host that the kernel has: its processes run on no others. No two kernels may "
        "list the same CPU, unless the machine overcommits.",
        default="a fair share of the CPUs that no kernel lists",
        key="cpus",
        parse=parse_cpus,
        write=format_cpus,
    ),
    Parameter(
        name="mem",
        field="memory_bytes",
        example="mem=512M",
        allowed=SIZE_ALLOWED,
        does="The most memory that the kernel may use: its control group's limit. With `memmap=` it is, as "
        "in Linux, the address where the kernel's memory ends.",
        default="no limit",
        key="memory",
        parse=parse_size,
        write=format_size,
    ),
    Parameter(
        name="memmap",
        field="memmap",
        example="memmap=2G@4G",
        allowed=MEMMAP_ALLOWED,
        does="The memory that the kernel has, by address, in the machine's memory map (`popnet topology` "
        "prints it). How much that is becomes its control group's limit, and where it is decides the "
        "NUMA nodes that its memory comes from. No two kernels may have the same address, unless the "
        "machine overcommits. In a kernel's memory map nothing is promised about single pages: Linux "
        "gives out pages, not addresses.",
        default="memory from anywhere",
        key="memmap",
        parse=parse_memmap,
        write=format_memmap,
        many=True,
    ),
    Parameter(
        name="devices",
        field="devices",
        example="devices=loop0,fuse:b",
        allowed=DEVICES_ALLOWED,
        does="Devices of the host in the kernel's `/dev`, beside `null`, `zero`, `full`, `random`, `urandom`"
        " and `tty`, which every kernel has. `net/tun` and `fuse` are there unless `:b` takes them "
        "away; any other device belongs to one kernel, unless the machine overcommits. Whoever has a "
        "disk can write to it.",
        default="`net/tun` and `fuse`",
        key="devices",
        parse=parse_devices,
        write=_joined,
        many=True,
    ),
    Parameter(
        name="pci_dev_flags",
        field="pci_flags",
        example="pci_dev_flags=0x8086:0x10c9:b",
        allowed=PCI_ALLOWED,
        does="PCI devices that the kernel does not see in `/sys`: all of that vendor and device number.",
        default="all of the host are seen",
        parse=parse_pci_flags,
        write=_joined,
        many=True,
    ),
    Parameter(
        name="vty",
        field="ttys",
        example="vty=2",
        allowed=f"1 to {TTYS_MAX}",
        does="How many terminals the kernel has: `tty0`, its console, and so on.",
        default="the image's",
        key="ttys",
        parse=_whole(1, TTYS_MAX),
    ),
    Parameter(
        name="hostname",
        field="hostname",
        example="hostname=k1",
        allowed="letters, digits, - and ., as host names are",
        does="What `uname -n` says in the kernel, and a name of its addresses in every kernel's "
        "`/etc/hosts`.",
        default="the kernel's name",
        key="hostname",
        parse=names.hostname,
    ),
    Parameter(
        name="ip",
        field="address",
        example="ip=10.1.2.9",
        allowed="an IPv4 address of the machine's `subnet`",
        does="The address of `eth0`.",
        default="number *kid* + 1 of the subnet",
        key="ip",
        parse=_address,
    ),
    Parameter(
        name="quiet",
        field="quiet",
        example="quiet",
        allowed="",
        does=f"As `loglevel={LOGLEVEL_QUIET}`, unless that is given too: only errors reach the console.",
        default="all but debugging reaches it",
    ),
    Parameter(
        name="debug",
        field="debug",
        example="debug",
        allowed="",
        does=f"As `loglevel={LOGLEVEL_ALL}`, unless that is given too: everything reaches the console.",
        default="all but debugging reaches it",
    ),
    Parameter(
        name="loglevel",
        field="loglevel",
        example="loglevel=5",
        allowed=f"0 to {LOGLEVEL_ALL}",
        does="Which lines of the kernel's log reach its console: those of a lower level (0 emerg, 1 alert, 2"
        " crit, 3 err, 4 warning, 5 notice, 6 info, 7 debug). `popnet dmesg` has them all.",
        default=str(LOGLEVEL_DEFAULT),
        parse=_whole(0, LOGLEVEL_ALL),
    ),
    Parameter(
        name="init",
        field="init",
        example="init=/bin/sh",
        allowed="the absolute path of a program in the image",
        does="The program that is the kernel's pid 1; when it ends, the kernel has panicked.",
        default="the image's, or popnet's own",
        key="init",
        parse=names.program,
    ),
)
"""In the order in which a compiled command line has them."""

BY_NAME: Final = {parameter.name: parameter for parameter in PARAMETERS}
