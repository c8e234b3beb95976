"""A change of a kernel's partition, as a user writes it, and what it makes of the kernel. Pure.

cpus     +3     CPU 3 as well          -2-3   without CPUs 2 and 3      0-1   these
memory   +512M  512 MiB more           -256M  256 MiB less              1G    this much; none: no limit
devices  +loop0 /dev/loop0 as well     -loop0 without it                (several, joined by commas)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from popnet.core.errors import Refused
from popnet.core.limits import MEMORY_MIN
from popnet.machine import cmdline
from popnet.machine.claims import MEMORY_STEP
from popnet.machine.devices import SHARED, Device, parse_devices
from popnet.machine.loading import conflicts
from popnet.machine.partition import owned_cores
from popnet.machine.spec import KernelSpec, MachineSpec
from popnet.machine.units import approximate_size, format_cpus, format_size, parse_cpus, parse_size

CPUS_ALLOWED = "+LIST, -LIST or LIST, such as +3, -2-3 or 0,1"
MEMORY_ALLOWED = "+SIZE, -SIZE, SIZE or none, such as +512M or 1G"


@dataclass(frozen=True, slots=True)
class Change:
    """What is asked for; None leaves that part as it is."""

    cpus: str | None = None
    memory: str | None = None
    devices: str | None = None

    @property
    def is_nothing(self) -> bool:
        return self == Change()


def changed_spec(
    machine: MachineSpec,
    spec: KernelSpec,
    change: Change,
    holders: Iterable[KernelSpec],
    used_bytes: int | None = None,
) -> KernelSpec:
    """*spec*, a kernel of *machine*, with its partition changed, beside *holders*.

    Args:
        used_bytes: the memory that it cannot give back; None: nobody knows, or it does not run.

    Raises Refused with everything that is wrong, and the nearest that could be had.
    """
    problems: list[str] = []
    new = spec
    try:
        new = _with_cpus(new, change.cpus)
    except ValueError as error:
        problems.append(f"--cpus: {error}")
    try:
        new = _with_memory(new, change.memory, used_bytes)
    except ValueError as error:
        problems.append(f"--memory: {error}")
    try:
        new = _with_devices(new, change.devices)
    except ValueError as error:
        problems.append(f"--devices: {error}")
    others = [kernel for kernel in holders if kernel.name != spec.name]
    problems += dict.fromkeys(problem.text for problem in conflicts(machine, new, others))
    if problems:
        text = "\n".join(f"cannot update kernel {spec.name}: {problem}" for problem in problems)
        taken = any("belongs to" in problem or "left for it" in problem for problem in problems)
        hint = f"`popnet update {spec.name} --from KERNEL` moves what another kernel has."
        raise Refused(text, hint if taken else "")
    return recompiled(new)


def recompiled(spec: KernelSpec) -> KernelSpec:
    """*spec* with the command line that says what its partition is. Raises Refused if that is too long."""
    parameters = cmdline.parse(spec.cmdline)
    devices = (
        *(Device(name) for name in spec.devices if name not in SHARED),
        *(Device(name, blocked=True) for name in SHARED if name not in spec.devices),
    )
    memory = parameters.memory_bytes if parameters.memmap else spec.memory_bytes
    parameters = replace(parameters, cpus=spec.cpus, memory_bytes=memory, devices=devices)
    try:
        return replace(spec, cmdline=cmdline.compose(parameters))
    except ValueError as error:
        raise Refused(f"cannot update kernel {spec.name}: {error}") from None


def check_memory(spec: KernelSpec, used_bytes: int | None) -> None:
    """Raises Refused if a kernel that cannot give back *used_bytes* cannot become *spec*."""
    if problem := _too_little(spec.memory_bytes, used_bytes):
        raise Refused(f"cannot update kernel {spec.name}: memory: {problem}")


def given_back(spec: KernelSpec, change: Change) -> Change:
    """What *spec* must give for another kernel to be changed by *change*: the move's other half.

    Raises Refused: what is wanted exactly, and not on top, cannot be taken from somebody.
    """
    parts: dict[str, str | None] = {"cpus": change.cpus, "memory": change.memory, "devices": change.devices}
    halves: dict[str, str] = {}
    for key, text in parts.items():
        if text is None:
            continue
        if not text.startswith("+") or (key == "devices" and any(w[:1] == "-" for w in text.split(","))):
            raise Refused(f"--{key} {text}: with --from only what is added (+) can be moved")
        words = [f"-{word.lstrip('+')}" for word in text.split(",")]
        halves[key] = ",".join(words) if key == "devices" else f"-{text[1:]}"
    if "memory" in halves and spec.memory_bytes is None:
        raise Refused(f"kernel {spec.name} has no memory limit, so none can be taken from it")
    return Change(**halves)


def with_cores(kernels: Iterable[KernelSpec]) -> Mapping[str, float]:
    """How many whole cores each of *kernels* owns; as in a machine file, the primary counts for itself
    only."""
    kernels = list(kernels)
    alone = {kernel.name: kernel.cores for kernel in kernels if kernel.isolated}
    every = [kernel for kernel in kernels if not kernel.isolated]
    cores = owned_cores({kernel.name: kernel.cpus for kernel in every})
    return {**cores, **owned_cores({kernel.name: kernel.cpus for kernel in every if kernel.kid}), **alone}


def differences(old: KernelSpec, new: KernelSpec) -> str:
    """What of the partition changes from *old* to *new*, in words: `CPUs 0 -> 0-1, memory 1G -> 2G`."""
    words = []
    if old.cpus != new.cpus:
        words.append(f"CPUs {format_cpus(old.cpus)} -> {format_cpus(new.cpus)}")
    if old.memory_bytes != new.memory_bytes:
        words.append(f"memory {_size(old.memory_bytes)} -> {_size(new.memory_bytes)}")
    if old.memory_nodes != new.memory_nodes:
        nodes = [format_cpus(spec.memory_nodes) or "any" for spec in (old, new)]
        words.append(f"NUMA nodes {nodes[0]} -> {nodes[1]}")
    gone, come = set(old.devices) - set(new.devices), set(new.devices) - set(old.devices)
    moved = [*(f"+{name}" for name in sorted(come)), *(f"-{name}" for name in sorted(gone))]
    if moved:
        words.append("devices " + " ".join(moved))
    return ", ".join(words)


def _size(memory_bytes: int | None) -> str:
    return "no limit" if memory_bytes is None else format_size(memory_bytes)


def _with_cpus(spec: KernelSpec, text: str | None) -> KernelSpec:
    if text is None:
        return spec
    if spec.isolated:
        raise ValueError("it has its cores alone; `popnet load` with another present_mask= changes that")
    sign, listed = (text[0], text[1:]) if text[:1] in ("+", "-") else ("", text)
    try:
        named = parse_cpus(listed)
    except ValueError:
        raise ValueError(f"got {text!r}; allowed: {CPUS_ALLOWED}") from None
    has = set(spec.cpus)
    if sign == "-":
        absent = set(named) - has
        if absent:
            raise ValueError(f"it has no CPU {format_cpus(absent)}; it has {format_cpus(has)}")
        left = has - set(named)
        if not left:
            raise ValueError(f"that is all it has; a kernel needs one, so it may give all but CPU {min(has)}")
        return replace(spec, cpus=tuple(sorted(left)), cpus_listed=True)
    cpus = has | set(named) if sign == "+" else set(named)
    return replace(spec, cpus=tuple(sorted(cpus)), cpus_listed=True)


def _with_memory(spec: KernelSpec, text: str | None, used_bytes: int | None) -> KernelSpec:
    if text is None:
        return spec
    if spec.memory_map:
        reason = "it has its memory by address (memmap=)"
        raise ValueError(f"{reason}; `popnet load {spec.name} --append` with another memmap= changes that")
    if text == "none":
        return replace(spec, memory_bytes=None)
    sign, size = (text[0], text[1:]) if text[:1] in ("+", "-") else ("", text)
    try:
        amount = parse_size(size)
    except ValueError:
        raise ValueError(f"got {text!r}; allowed: {MEMORY_ALLOWED}") from None
    if sign and spec.memory_bytes is None:
        raise ValueError("it has no limit that could grow or shrink; give it an amount")
    if sign:
        amount = (spec.memory_bytes or 0) + (amount if sign == "+" else -amount)
    if amount < MEMORY_MIN:
        left = format_size(amount) if amount > 0 else "nothing"
        raise ValueError(f"that leaves it {left}; allowed: at least {format_size(MEMORY_MIN)}")
    if problem := _too_little(amount, used_bytes):
        raise ValueError(problem)
    return replace(spec, memory_bytes=amount)


def _too_little(memory_bytes: int | None, used_bytes: int | None) -> str | None:
    """Why a kernel that cannot give back *used_bytes* cannot have *memory_bytes* only; None if it can."""
    if memory_bytes is None or used_bytes is None or memory_bytes >= used_bytes:
        return None
    nearest = -(-used_bytes // MEMORY_STEP) * MEMORY_STEP
    text = f"it uses {approximate_size(used_bytes)}, more than {format_size(memory_bytes)}"
    return f"{text}; the least that it can have now is {format_size(nearest)}"


def _with_devices(spec: KernelSpec, text: str | None) -> KernelSpec:
    if text is None:
        return spec
    devices = dict.fromkeys(spec.devices)
    for word in text.split(","):
        sign, name = (word[0], word[1:]) if word[:1] in ("+", "-") else ("", word)
        if not sign:
            raise ValueError(f"got {word!r}; allowed: +NAME or -NAME, such as +loop0")
        [device] = parse_devices(name)
        if sign == "+":
            devices[device.name] = None
        elif device.name not in devices:
            raise ValueError(f"it has no device {device.name}; it has {', '.join(spec.devices) or 'none'}")
        else:
            del devices[device.name]
    return replace(spec, devices=tuple(devices))
