"""From what a machine file says to what it means: defaults filled in, CPUs shared out, all checked together.

Pure. Each check reports into one list and goes on, so that a user sees every error at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any

from popnet.core.limits import KERNELS_MAX, MEMORY_MIN
from popnet.machine import claims, cmdline, isolation, names
from popnet.machine.claims import Claim
from popnet.machine.cmdline import BootParameters, is_given
from popnet.machine.devices import device_names
from popnet.machine.host import Host
from popnet.machine.image import Image
from popnet.machine.memory import Memory, kernel_memory, total
from popnet.machine.names import PRIMARY
from popnet.machine.parameters import PARAMETERS
from popnet.machine.partition import number_kernels, owned_cores, share_cpus
from popnet.machine.problems import Path, Problem
from popnet.machine.schema import KernelSection, MachineSection
from popnet.machine.spec import KernelSpec, MachineSpec
from popnet.machine.units import approximate_size, format_size

_KEYS = {parameter.key: parameter for parameter in PARAMETERS if parameter.key}
"""Keys of a kernel that are boot parameters too."""


@dataclass(frozen=True, slots=True)
class _Kernel:
    """What the file says about one kernel, with the boot parameters its `append` gives."""

    name: str
    path: Path
    section: KernelSection
    appended: BootParameters
    image: Image

    def said(self, key: str) -> Any:
        """The value of *key*, whether the file gives it as a key or in `append`; None or () if neither."""
        appended = getattr(self.appended, _KEYS[key].field)
        return appended if is_given(appended) else getattr(self.section, key)

    @property
    def parameters(self) -> BootParameters:
        """What `append` gives, over what the image's does."""
        return self.appended.over(cmdline.parse(self.image.append))

    def path_of(self, key: str) -> Path:
        return (*self.path, key if key in self.section.model_fields_set else "append")


def resolve(
    name: str,
    file: str,
    machine: MachineSection,
    sections: Mapping[str, KernelSection],
    images: Mapping[str, Image],
    host: Host,
    kept_kids: Mapping[str, int] | None = None,
) -> tuple[MachineSpec | None, list[Problem]]:
    """The machine that these *sections* of *file* describe on *host*, or None and what is wrong.

    Kernels have the numbers *kept_kids*, unless a section gives it to another, or them another.
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
    kids = _kids(kernels, kept_kids or {}, problems)
    resources = _resources(machine, host, problems)
    cpus = _cpus(kernels, machine, resources, problems)
    memory = _memory(kernels, machine, resources, problems)
    _check_devices(kernels, machine, problems)
    _check_hostnames(kernels, problems)
    _check_subnets(kids, machine, problems)
    ips = _addresses(kernels, kids, machine, problems)
    if problems:
        return None, problems
    # The primary mostly sleeps: a secondary owns a CPU that only the primary lists too, the primary does not.
    secondaries = {name: listed for name, listed in cpus.items() if kids[name]}
    cores = {**owned_cores(cpus), **owned_cores(secondaries)}
    specs: list[KernelSpec] = []
    for kernel in kernels.values():
        try:
            own = kernel.name
            spec = _spec(kernel, kids[own], ips[own], cpus[own], cores[own], machine)
            specs.append(replace(spec, **_partition(memory.get(own, ()), kernel, resources)))
        except ValueError as error:
            problems.append(Problem((*kernel.path, "append"), str(error)))
    specs.sort(key=lambda spec: spec.kid)
    whole = MachineSpec(
        name, file, machine.subnet, machine.subnet6, tuple(specs), resources, machine.mtu, machine.overcommit
    )
    return (None if problems else whole), problems


def _unknown_image(name: str) -> Image:
    """Stands in for an image that was not found, which is reported elsewhere; it forbids nothing."""
    return Image(name, "native", "host-overlay", None, True, 1, (), "", "")


def _appended(path: Path, section: KernelSection, problems: list[Problem]) -> BootParameters:
    try:
        appended = cmdline.parse(section.append)
    except ValueError as error:
        problems.append(Problem((*path, "append"), str(error)))
        return BootParameters()
    for key, parameter in _KEYS.items():
        if is_given(getattr(appended, parameter.field)) and key in section.model_fields_set:
            text = (
                f"{parameter.name}= means the same as the key {key!r}, which is given too; keep one of them"
            )
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


def _kids(kernels: Mapping[str, _Kernel], kept: Mapping[str, int], problems: list[Problem]) -> dict[str, int]:
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
    for name, kid in kept.items():
        if name in kernels and name not in explicit and kid not in owners:
            explicit[name] = kid
            owners[kid] = name
    return number_kernels(kernels, explicit)


def _resources(machine: MachineSection, host: Host, problems: list[Problem]) -> Host:
    """What of *host* the machine may use."""
    cpus, memory_bytes = host.cpus, host.memory_bytes
    if machine.cpus is not None:
        path = ("machine", "cpus")
        if problem := claims.absent_cpus(Claim(path, machine.cpus), host.cpus, "this host"):
            problems.append(problem)
        else:
            cpus = machine.cpus
    if machine.memory is not None:
        if machine.memory > memory_bytes and not machine.overcommit:
            text = f"got {format_size(machine.memory)}, but this host has {approximate_size(memory_bytes)}"
            problems.append(Problem(("machine", "memory"), text))
        else:
            memory_bytes = machine.memory
    return replace(host, cpus=cpus, memory_bytes=memory_bytes)


def _cpus(
    kernels: Mapping[str, _Kernel], machine: MachineSection, resources: Host, problems: list[Problem]
) -> dict[str, tuple[int, ...]]:
    """The CPUs of each kernel."""
    listed: dict[str, Claim[tuple[int, ...]]] = {
        name: Claim(kernel.path_of("cpus"), kernel.said("cpus"))
        for name, kernel in kernels.items()
        if kernel.said("cpus") is not None
    }
    owner = "this host" if machine.cpus is None else "the machine"
    problems += claims.check_cpus(listed, resources.cpus, owner, machine.overcommit)
    explicit = {name: claim.value for name, claim in listed.items()}
    isolated = [name for name, kernel in kernels.items() if kernel.image.isolated]
    explicit |= isolation.place(
        [name for name in isolated if name not in explicit], explicit, resources.cpus, resources.cores
    )
    alone = {
        thread
        for name in isolated
        for cpu in explicit.get(name, ())
        for thread in isolation.whole_core(cpu, resources.cores)
    }
    automatic = [name for name in kernels if name not in explicit]
    cpus = {**explicit, **share_cpus(resources.cpus, explicit, automatic, alone)}
    for name in isolated:
        problems += _check_isolated(kernels[name], name in explicit, cpus, resources)
    return cpus


def _check_isolated(
    kernel: _Kernel, placed: bool, cpus: Mapping[str, tuple[int, ...]], resources: Host
) -> list[Problem]:
    """What stands against *kernel* having its CPUs alone."""
    name = kernel.name
    path = kernel.path_of("cpus") if kernel.said("cpus") else (*kernel.path, "image")
    if name == PRIMARY:
        text = f"image {kernel.image.name!r} has its cores alone, and the primary serves all"
        return [Problem(path, f"{text}; give another kernel this image")]
    if not placed:
        text = (
            f"image {kernel.image.name!r} needs a core alone, and none is left of {len(resources.cpus)} CPUs"
        )
        return [Problem(path, f"{text}; let other kernels list fewer")]
    others = {other: own for other, own in cpus.items() if other != name}
    if problem := isolation.conflict(name, cpus[name], others, resources.cores):
        return [Problem(path, f"{problem}; give one of them other CPUs")]
    return []


def _memory(
    kernels: Mapping[str, _Kernel], machine: MachineSection, resources: Host, problems: list[Problem]
) -> dict[str, Memory]:
    """The memory of each kernel that has it by address."""
    maps: dict[str, Claim[Memory]] = {}
    amounts: dict[str, Claim[int]] = {}
    for name, kernel in kernels.items():
        if entries := kernel.said("memmap"):
            own = kernel_memory(resources.memory_map, entries, kernel.appended.memory_bytes)
            maps[name] = Claim(kernel.path_of("memmap"), own)
            amounts[name] = Claim(kernel.path_of("memmap"), total(own))
            if kernel.section.memory is not None:
                text = "the memory map says how much it is; leave this key out"
                problems.append(Problem((*kernel.path, "memory"), text))
        elif kernel.said("memory") is not None:
            amounts[name] = Claim(kernel.path_of("memory"), kernel.said("memory"))
    problems += claims.check_memory_maps(maps, resources.memory_map, machine.overcommit)
    for claim in amounts.values():
        if claim.value < MEMORY_MIN:
            text = (
                f"that is {format_size(claim.value)} of memory; allowed: at least {format_size(MEMORY_MIN)}"
            )
            problems.append(Problem(claim.path, text))
    if not machine.overcommit:
        limit = resources.memory_bytes
        has = f"this host has {approximate_size(limit)}"
        if machine.memory == limit:
            has = f"the machine has {format_size(limit)}"
        problems += claims.check_amounts(amounts, limit, has)
    return {name: claim.value for name, claim in maps.items()}


def _check_devices(kernels: Mapping[str, _Kernel], machine: MachineSection, problems: list[Problem]) -> None:
    named = {
        name: Claim(kernel.path_of("devices"), device_names(kernel.said("devices")))
        for name, kernel in kernels.items()
        if kernel.said("devices")
    }
    problems += claims.check_devices(named, machine.overcommit)


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


def _addresses(
    kernels: Mapping[str, _Kernel],
    kids: Mapping[str, int],
    machine: MachineSection,
    problems: list[Problem],
) -> dict[str, str]:
    """The IPv4 address of each kernel."""
    subnet = machine.subnet
    usual = {name: kid + 1 for name, kid in kids.items()}
    ips = {name: str(subnet[n]) if n < subnet.num_addresses else "" for name, n in usual.items()}
    chosen = {name: kernel.said("ip") for name, kernel in kernels.items() if kernel.said("ip") is not None}
    ips |= chosen
    for name, text in chosen.items():
        path, address = kernels[name].path_of("ip"), IPv4Address(text)
        same = [other for other in kernels if other != name and ips[other] == text]
        if address not in subnet or address in (subnet.network_address, subnet.broadcast_address):
            room = f"{subnet[1]} to {subnet[-2]}"
            problems.append(Problem(path, f"got {text!r}; allowed: an address of {subnet}, {room}"))
        elif same:
            problems.append(Problem(path, f"{text} is the address of {same[0]}; give each kernel its own"))
    return ips


def _partition(memory: Memory, kernel: _Kernel, resources: Host) -> dict[str, Any]:
    """What a kernel with this memory by address, and these devices, has beside its CPUs."""
    found: dict[str, Any] = {
        "cpus_listed": kernel.said("cpus") is not None or kernel.image.isolated,
        "devices": device_names(kernel.said("devices") or ()),
        "hidden_pci": tuple((flag.vendor, flag.device) for flag in kernel.parameters.pci_flags),
    }
    if memory:
        found |= {"memory_bytes": total(memory), "memory_map": memory}
        found["memory_nodes"] = resources.nodes_of(memory)
    return found


def _spec(
    kernel: _Kernel, kid: int, address: str, cpus: tuple[int, ...], cores: float, machine: MachineSection
) -> KernelSpec:
    """The kernel with every default filled in; raises ValueError if its boot parameters cannot be written."""
    section, image = kernel.section, kernel.image
    parameters = BootParameters(
        cpus=cpus,
        memory_bytes=kernel.said("memory"),
        memmap=kernel.said("memmap") or (),
        devices=kernel.said("devices") or (),
        ttys=kernel.said("ttys") or image.ttys,
        hostname=kernel.said("hostname") or kernel.name,
        address=address,
        init=kernel.said("init") or image.init,
    ).over(kernel.parameters)
    assert parameters.ttys is not None and parameters.hostname is not None
    return KernelSpec(
        kid=kid,
        name=kernel.name,
        image=image.name,
        image_path=image.path,
        cpus=cpus,
        cores=0.0 if image.isolated else cores,
        isolated=image.isolated,
        files=image.files,
        memory_bytes=parameters.memory_bytes,
        mtu=section.mtu or machine.mtu,
        offload=section.offload,
        ttys=parameters.ttys,
        hostname=parameters.hostname,
        init=parameters.init,
        ssh=image.ssh if section.ssh is None else section.ssh,
        env=tuple(section.env.items()),
        services=section.services,
        restart=section.restart,
        groups=section.groups,
        append=" ".join(text for text in (image.append, section.append) if text),
        cmdline=cmdline.compose(parameters),
        address=address,
    )
