"""Loading a kernel into a machine that runs: what its image and its boot parameters make of it there. Pure.

A kernel holds its partition from `load` until it is offline again. What another holds cannot be loaded; CPUs
that nobody lists are shared, as `cpus: auto` does, and the newcomer gets those with the fewest kernels
on them.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from popnet.core.errors import Refused
from popnet.core.limits import KERNELS_MAX
from popnet.machine import claims, cmdline, isolation
from popnet.machine.claims import Claim
from popnet.machine.image import Image
from popnet.machine.partition import number_kernels, owned_cores
from popnet.machine.problems import Problem
from popnet.machine.resolve import resolve
from popnet.machine.schema import KernelSection, MachineSection
from popnet.machine.spec import KernelSpec, MachineSpec
from popnet.machine.units import approximate_size, format_cpus


def loaded_spec(
    machine: MachineSpec, name: str, image: Image, append: str, holders: Iterable[KernelSpec]
) -> KernelSpec:
    """The kernel *name* running *image* with the command line *append*, in *machine*; it may be new there.

    Raises Refused with everything that is wrong, also with what *holders* have already.
    """
    old = next((kernel for kernel in machine.kernels if kernel.name == name), None)
    taken = {kernel.name: kernel.kid for kernel in machine.kernels if kernel.name != name}
    kid = old.kid if old else number_kernels([name], taken)[name]
    if kid >= KERNELS_MAX:
        raise Refused(f"cannot load kernel {name}: the machine has {KERNELS_MAX} kernels already")
    holders = [kernel for kernel in holders if kernel.name != name]
    listed = True
    try:
        listed = cmdline.parse(append).cpus is not None
    except ValueError as error:
        raise Refused(f"cannot load kernel {name}: {error}") from None
    if image.isolated:
        listed = True
    words = append if listed else f"present_mask={format_cpus([_quietest(machine, holders)])} {append}"
    if image.isolated and cmdline.parse(append).cpus is None:
        words = f"present_mask={format_cpus(_core_alone(machine, name, image, holders))} {append}"
    section = KernelSection(image=image.name, append=words, kid=kid)
    common = MachineSection.model_construct(
        mtu=machine.mtu,
        subnet=machine.subnet,
        subnet6=machine.subnet6,
        overcommit=machine.overcommit,
        cpus=None,
        memory=None,
    )
    images = {image.name: image}
    alone, problems = resolve(machine.name, "", common, {name: section}, images, machine.resources)
    if alone is None:
        raise _refused(name, problems)
    spec = replace(alone.by_name(name), cpus_listed=listed)
    if old is not None:
        spec = replace(
            spec,
            env=old.env,
            services=old.services,
            restart=old.restart,
            mtu=old.mtu,
            ssh=old.ssh and image.ssh,
        )
    others = [kernel for kernel in machine.kernels if kernel.name != name]
    for kernel in others:
        if spec.hostname in (kernel.hostname, kernel.name) or spec.address == kernel.address:
            what = spec.address if spec.address == kernel.address else repr(spec.hostname)
            problems.append(Problem((), f"{what} is {kernel.name}'s already; give each kernel its own"))
    problems += conflicts(machine, spec, holders)
    if problems:
        raise _refused(name, problems)
    if spec.isolated:
        return spec
    cores = owned_cores({kernel.name: kernel.cpus for kernel in [*holders, spec] if kernel.kid})
    return replace(spec, cores=cores.get(name, spec.cores))


def check_load(machine: MachineSpec, spec: KernelSpec, holders: Iterable[KernelSpec]) -> None:
    """Raises Refused if *spec*, a kernel of *machine*, cannot be loaded beside *holders*."""
    problems = conflicts(machine, spec, [kernel for kernel in holders if kernel.name != spec.name])
    if problems:
        raise _refused(spec.name, problems)


def conflicts(machine: MachineSpec, spec: KernelSpec, holders: Iterable[KernelSpec]) -> list[Problem]:
    """What of *spec*'s partition is not to be had, because it is not there or *holders* have it."""
    kernels = [*holders, spec]
    free = machine.overcommit
    resources = machine.resources
    cpus = {kernel.name: Claim((kernel.name,), kernel.cpus) for kernel in kernels if kernel.cpus_listed}
    problems = claims.check_cpus(cpus, resources.cpus, "the machine", free)
    for alone in kernels:
        # Kernels that share a CPU with one that has it alone: either may be the newcomer.
        others = {other.name: other.cpus for other in kernels if other.name != alone.name}
        if alone is not spec:
            others = {spec.name: spec.cpus}
        text = isolation.conflict(alone.name, alone.cpus, others, resources.cores) if alone.isolated else None
        if text is not None:
            problems.append(Problem((spec.name,), text))
    maps = {kernel.name: Claim((kernel.name,), kernel.memory_map) for kernel in kernels if kernel.memory_map}
    problems += claims.check_memory_maps(maps, resources.memory_map, free)
    devices = {kernel.name: Claim((kernel.name,), kernel.devices) for kernel in kernels}
    problems += claims.check_devices(devices, free)
    if not free:
        amounts = {
            kernel.name: Claim((kernel.name,), kernel.memory_bytes)
            for kernel in kernels
            if kernel.memory_bytes is not None
        }
        has = f"the machine has {approximate_size(resources.memory_bytes)}"
        problems += claims.check_amounts(amounts, resources.memory_bytes, has)
    return [problem for problem in problems if problem.path == (spec.name,)]


def _quietest(machine: MachineSpec, holders: Iterable[KernelSpec]) -> int:
    """The CPU that no kernel lists, if there is one, and that the fewest have."""
    holders = list(holders)
    users = Counter(cpu for kernel in holders if kernel.kid for cpu in kernel.cpus)
    listed = {cpu for kernel in holders if kernel.cpus_listed for cpu in kernel.cpus}
    free = [cpu for cpu in machine.resources.cpus if cpu not in listed] or machine.resources.cpus
    return min(free, key=lambda cpu: (users[cpu], -cpu))


def _core_alone(
    machine: MachineSpec, name: str, image: Image, holders: Iterable[KernelSpec]
) -> tuple[int, ...]:
    """A core that nobody who has a partition runs on, for a kernel that is to have it alone."""
    taken = {kernel.name: kernel.cpus for kernel in holders}
    placed = isolation.place([name], taken, machine.resources.cpus, machine.resources.cores)
    if name not in placed:
        text = (
            f"image {image.name} needs a core alone, and other kernels run on all of them "
            "(those that list no CPUs, the primary too, share all that are left)"
        )
        raise _refused(name, [Problem((), text)])
    return placed[name]


def _refused(name: str, problems: Iterable[Problem]) -> Refused:
    texts = dict.fromkeys(problem.text for problem in problems)
    hint = f"`popnet unload {name}` or `popnet kill` of another kernel frees what it has."
    return Refused("\n".join(f"cannot load kernel {name}: {text}" for text in texts), hint)
