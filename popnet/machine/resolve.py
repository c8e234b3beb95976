"""From what a machine file says to what it means: defaults filled in, CPUs shared out, all checked together.

Pure. Each check reports into one list and goes on, so that a user sees every error at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from popnet.core import addresses
from popnet.core.limits import KERNELS_MAX
from popnet.machine import cmdline, names
from popnet.machine.cmdline import BootParameters
from popnet.machine.host import Host
from popnet.machine.image import Image
from popnet.machine.names import PRIMARY
from popnet.machine.partition import number_kernels, owned_cores, share_cpus
from popnet.machine.problems import Path, Problem
from popnet.machine.schema import KernelSection, MachineSection
from popnet.machine.spec import KernelSpec, MachineSpec
from popnet.machine.units import approximate_size, format_cpus, format_size

_KEYS: dict[str, tuple[str, str]] = {
    "cpus": ("cpus", "present_mask"),
    "memory": ("memory_bytes", "mem"),
    "ttys": ("ttys", "vty"),
    "hostname": ("hostname", "hostname"),
    "init": ("init", "init"),
}
"""Keys of a kernel that are boot parameters too: the field of BootParameters, and the parameter."""


@dataclass(frozen=True, slots=True)
class _Kernel:
    """What the file says about one kernel, with the boot parameters its `append` gives."""

    name: str
    path: Path
    section: KernelSection
    appended: BootParameters
    image: Image

    def said(self, key: str) -> Any:
        """The value of *key*, whether the file gives it as a key or in `append`; None if neither does."""
        appended = getattr(self.appended, _KEYS[key][0])
        return getattr(self.section, key) if appended is None else appended

    def path_of(self, key: str) -> Path:
        return (*self.path, key if key in self.section.model_fields_set else "append")


def resolve(
    name: str,
    file: str,
    machine: MachineSection,
    sections: Mapping[str, KernelSection],
    images: Mapping[str, Image],
    host: Host,
) -> tuple[MachineSpec | None, list[Problem]]:
    """The machine that these *sections* of *file* describe on *host*, or None and what is wrong.

    *images* holds every image that a section names and that was found.
    """
    problems: list[Problem] = []
    kernels: dict[str, _Kernel] = {}
    for kernel_name, section in {PRIMARY: KernelSection(), **sections}.items():
        path = ("kernels", kernel_name)
        appended = _appended(path, section, problems)
        image = images.get(section.image, _unknown_image(section.image))
        kernels[kernel_name] = _Kernel(kernel_name, path, section, appended, image)
        _check_kernel(kernels[kernel_name], problems)
    kids = _kids(kernels, problems)
    cpus = _cpus(kernels, machine, host, problems)
    _check_memory(kernels, machine, host, problems)
    _check_hostnames(kernels, problems)
    _check_subnets(kids, machine, problems)
    if problems:
        return None, problems
    # The primary mostly sleeps: a secondary owns a CPU that only the primary lists too, the primary does not.
    secondaries = {name: listed for name, listed in cpus.items() if kids[name]}
    cores = {**owned_cores(cpus), **owned_cores(secondaries)}
    specs: list[KernelSpec] = []
    for kernel in kernels.values():
        try:
            own = kernel.name
            specs.append(_spec(kernel, kids[own], cpus[own], cores[own], machine))
        except ValueError as error:
            problems.append(Problem((*kernel.path, "append"), str(error)))
    specs.sort(key=lambda spec: spec.kid)
    spec = MachineSpec(name, file, machine.subnet, machine.subnet6, tuple(specs))
    return (None if problems else spec), problems


def _unknown_image(name: str) -> Image:
    """Stands in for an image that was not found, which is reported elsewhere; it forbids nothing."""
    return Image(name, "native", "host-overlay", None, True, 1, (), "", "")


def _appended(path: Path, section: KernelSection, problems: list[Problem]) -> BootParameters:
    try:
        appended = cmdline.parse(section.append)
    except ValueError as error:
        problems.append(Problem((*path, "append"), str(error)))
        return BootParameters()
    for key, (field, parameter) in _KEYS.items():
        if getattr(appended, field) is not None and key in section.model_fields_set:
            text = f"{parameter}= means the same as the key {key!r}, which is given too; keep one of them"
            problems.append(Problem((*path, "append"), text))
    if appended.address is not None:
        text = "ip= cannot be chosen: an address is made of the kid; set 'kid', or 'subnet' of the machine"
        problems.append(Problem((*path, "append"), text))
    return appended


def _check_kernel(kernel: _Kernel, problems: list[Problem]) -> None:
    try:
        names.kernel_name(kernel.name)
    except ValueError as error:
        problems.append(Problem(kernel.path, f"not a kernel's name: {error}", at_key=True))
    if kernel.section.ssh and not kernel.image.ssh:
        text = f"image {kernel.image.name!r} has no sshd; use another image, or leave this key out"
        problems.append(Problem((*kernel.path, "ssh"), text))


def _kids(kernels: Mapping[str, _Kernel], problems: list[Problem]) -> dict[str, int]:
    """The kid of each kernel."""
    explicit = {PRIMARY: 0}
    owners = {0: PRIMARY}
    for name, kernel in kernels.items():
        kid = kernel.section.kid
        if kid is None or (name == PRIMARY and kid == 0):
            continue
        path = (*kernel.path, "kid")
        if name == PRIMARY:
            problems.append(Problem(path, f"got {kid}; the primary is always kid 0; leave this key out"))
        elif kid in owners:
            problems.append(Problem(path, f"kid {kid} belongs to {owners[kid]}; give each kernel its own"))
        else:
            explicit[name] = kid
            owners[kid] = name
    if len(kernels) > KERNELS_MAX:
        text = f"{len(kernels)} kernels, the primary included; allowed: {KERNELS_MAX}"
        problems.append(Problem(("kernels",), text, at_key=True))
    return number_kernels(kernels, explicit)


def _cpus(
    kernels: Mapping[str, _Kernel], machine: MachineSection, host: Host, problems: list[Problem]
) -> dict[str, tuple[int, ...]]:
    """The CPUs of each kernel."""

    def check(path: Path, cpus: tuple[int, ...], available: tuple[int, ...], owner: str) -> None:
        absent = format_cpus(set(cpus) - set(available))
        if absent:
            text = (
                f"got {format_cpus(cpus)!r}, but {owner} has no CPU {absent}; it has {format_cpus(available)}"
            )
            problems.append(Problem(path, text))

    available, owner = host.cpus, "this host"
    if machine.cpus is not None:
        check(("machine", "cpus"), machine.cpus, available, owner)
        if set(machine.cpus) <= set(available):
            available, owner = machine.cpus, "the machine"
    explicit: dict[str, tuple[int, ...]] = {
        name: kernel.said("cpus") for name, kernel in kernels.items() if kernel.said("cpus") is not None
    }
    for name, cpus in explicit.items():
        check(kernels[name].path_of("cpus"), cpus, available, owner)
    for first, second in combinations(explicit, 2):
        shared = format_cpus(set(explicit[first]) & set(explicit[second]))
        if shared and not machine.overcommit:
            text = (
                f"CPU {shared} belongs to {first}, which lists {format_cpus(explicit[first])}; "
                f"give {second} others, or set 'overcommit: true' for the machine"
            )
            problems.append(Problem(kernels[second].path_of("cpus"), text))
    automatic = [name for name in kernels if name not in explicit]
    return {**explicit, **share_cpus(available, explicit, automatic)}


def _check_memory(
    kernels: Mapping[str, _Kernel], machine: MachineSection, host: Host, problems: list[Problem]
) -> None:
    if machine.overcommit:
        return
    has = f"this host has {approximate_size(host.memory_bytes)}"
    limit = host.memory_bytes
    if machine.memory is not None:
        if machine.memory > limit:
            problems.append(Problem(("machine", "memory"), f"got {format_size(machine.memory)}, but {has}"))
        else:
            limit, has = machine.memory, f"the machine has {format_size(machine.memory)}"
    total = 0
    for kernel in kernels.values():
        wanted: int | None = kernel.said("memory")
        if wanted is None:
            continue
        total += wanted
        if wanted > limit:
            text = f"got {format_size(wanted)}, but {has}"
        elif total > limit >= total - wanted:
            text = (
                f"with these {format_size(wanted)} the kernels want {approximate_size(total)}, but {has}; "
                "give them less, or set 'overcommit: true' for the machine"
            )
        else:
            continue
        problems.append(Problem(kernel.path_of("memory"), text))


def _check_hostnames(kernels: Mapping[str, _Kernel], problems: list[Problem]) -> None:
    owners = {name: name for name in kernels}
    for name, kernel in kernels.items():
        hostname = kernel.said("hostname")
        if hostname is None:
            continue
        owner = owners.setdefault(hostname, name)
        if owner != name:
            text = f"{hostname!r} is the name of {owner} already; give each kernel its own"
            problems.append(Problem(kernel.path_of("hostname"), text))


def _check_subnets(kids: Mapping[str, int], machine: MachineSection, problems: list[Problem]) -> None:
    last = max(kids.values())
    kernel = next(name for name, kid in kids.items() if kid == last)
    room4 = machine.subnet.num_addresses - 2
    room6 = machine.subnet6.num_addresses - 1
    for key, network, room in (("subnet", machine.subnet, room4), ("subnet6", machine.subnet6, room6)):
        if last + 1 > room:
            text = f"{network} has no address for kid {last} ({kernel}), which needs number {last + 1} of it"
            problems.append(Problem(("machine", key), f"{text}; take a larger network"))


def _spec(
    kernel: _Kernel, kid: int, cpus: tuple[int, ...], cores: float, machine: MachineSection
) -> KernelSpec:
    """The kernel with every default filled in; raises ValueError if its boot parameters cannot be written."""
    section, image = kernel.section, kernel.image
    defaults = cmdline.parse(image.append)
    parameters = BootParameters(
        cpus=cpus,
        memory_bytes=kernel.said("memory"),
        ttys=kernel.said("ttys") or image.ttys,
        hostname=kernel.said("hostname") or kernel.name,
        address=str(addresses.ipv4(kid, machine.subnet)),
        init=kernel.said("init") or image.init,
    ).over(kernel.appended.over(defaults))
    assert parameters.ttys is not None and parameters.hostname is not None
    return KernelSpec(
        kid=kid,
        name=kernel.name,
        image=image.name,
        image_path=image.path,
        cpus=cpus,
        cores=cores,
        memory_bytes=parameters.memory_bytes,
        mtu=section.mtu or machine.mtu,
        ttys=parameters.ttys,
        hostname=parameters.hostname,
        init=parameters.init,
        ssh=image.ssh if section.ssh is None else section.ssh,
        env=tuple(section.env.items()),
        services=section.services,
        append=" ".join(text for text in (image.append, section.append) if text),
        cmdline=cmdline.compose(parameters),
    )
