"""From the machine that runs to the one that a file describes: the steps, in order, each with what undoes it.
Pure.

Theory of operation. `plan` compares what there is (`Standing`: each kernel's description and whether it runs)
with what is wanted, kernel by kernel. What can change while a kernel runs is one Update; anything else of it
takes a Reboot, whose reasons say what; a kernel that is wanted and does not run is booted; one that is not
wanted any more is unloaded. The order frees before it takes: unloads, then updates that give more than they
take, then the others, reboots, boots, and links last, when the kernels are there. What a kernel holds between
two steps may so be less than what it has at both ends, never more than the machine has: the end was validated
whole, and each step goes towards it.

A plan of what is there already has no steps. `undo` of a step leads back over it; a transaction that fails
undoes what it did, last first."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Final

from popnet.core.errors import Refused
from popnet.machine import cmdline
from popnet.machine.change import differences
from popnet.machine.devices import SHARED
from popnet.machine.faults import Way
from popnet.machine.image import Image
from popnet.machine.impairment import Impairment
from popnet.machine.spec import KernelSpec, MachineSpec
from popnet.machine.units import format_cpus

LIVE: Final = ("cpus", "cores", "memory_bytes", "memory_nodes", "memory_map", "cpus_listed", "restart")
"""What of a kernel can change while it runs; and so can its devices, but for those that all kernels share."""

_WRITTEN: Final = ("append", "cmdline", "devices")
"""What is compared by its parts."""

_WORDS: Final = {
    "kid": "number",
    "image_path": "image's place",
    "mtu": "MTU",
    "ttys": "number of terminals",
    "init": "init",
    "env": "environment",
    "hidden_pci": "hidden PCI devices",
    "address": "address",
}
"""How fields are called, where the name of the key is another."""


_SHORT: Final = 40
"""Letters of a value that is told as it is."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A kernel that there is: what it is, what it runs, and whether it runs or is loaded."""

    spec: KernelSpec
    image: Image
    runs: bool = True
    loaded: bool = True


@dataclass(frozen=True, slots=True)
class Boot:
    """Boot a kernel, which may be new; *old* is what it was if there was one, and it was *loaded*."""

    new: KernelSpec
    image: Image
    why: str
    old: Standing | None = None

    @property
    def text(self) -> str:
        return f"boot {self.new.name}: {self.why}"

    @property
    def undo(self) -> "Step":
        return (
            Unload(Standing(self.new, self.image), "it was not there") if self.old is None else Stop(self.old)
        )


@dataclass(frozen=True, slots=True)
class Stop:
    """End a kernel that runs; it stays as it was: what undoes the boot of one that there was."""

    old: Standing

    @property
    def text(self) -> str:
        return f"stop {self.old.spec.name}: it did not run"

    @property
    def undo(self) -> "Step":
        return Boot(self.old.spec, self.old.image, "it ran", self.old)


@dataclass(frozen=True, slots=True)
class Update:
    """Give a kernel another partition; one that does not run has it from its next boot on."""

    old: KernelSpec
    new: KernelSpec

    @property
    def text(self) -> str:
        return f"update {self.new.name}: {changes(self.old, self.new)}"

    @property
    def undo(self) -> "Step":
        return Update(self.new, self.old)


@dataclass(frozen=True, slots=True)
class Reboot:
    """End a kernel and boot it as something else."""

    old: Standing
    new: KernelSpec
    image: Image
    why: str

    @property
    def text(self) -> str:
        return f"reboot {self.new.name}: {self.why}"

    @property
    def undo(self) -> "Step":
        return Reboot(Standing(self.new, self.image), self.old.spec, self.old.image, "as it was")


@dataclass(frozen=True, slots=True)
class Unload:
    """End a kernel, if it runs, and have it no longer."""

    old: Standing
    why: str

    @property
    def text(self) -> str:
        return f"unload {self.old.spec.name}: {self.why}"

    @property
    def undo(self) -> "Step":
        return Boot(self.old.spec, self.old.image, "it was there") if self.old.runs else Keep(self.old)


@dataclass(frozen=True, slots=True)
class Keep:
    """Have a kernel again that does not run: what undoes the unloading of one."""

    old: Standing

    @property
    def text(self) -> str:
        return f"keep {self.old.spec.name}: it was there"

    @property
    def undo(self) -> "Step":
        return Unload(self.old, "it was not there")


@dataclass(frozen=True, slots=True)
class Impair:
    """Have a direction of a link or NIC suffer *new* instead of *old*; the empty one is nothing."""

    way: Way
    old: Impairment
    new: Impairment

    @property
    def text(self) -> str:
        return f"link {self.way}: {self.old.text() or 'nothing'} -> {self.new.text() or 'nothing'}"

    @property
    def undo(self) -> "Step":
        return Impair(self.way, self.new, self.old)


Step = Boot | Stop | Update | Reboot | Unload | Keep | Impair


def plan(
    machine: MachineSpec,
    standing: Mapping[str, Standing],
    impaired: Mapping[Way, Impairment],
    wanted: MachineSpec,
    images: Mapping[str, Image],
) -> tuple[Step, ...]:
    """The steps from *machine*, whose kernels are *standing* and links *impaired*, to *wanted*, with its
    *images*.

    Raises Refused: what differs takes another machine.
    """
    _check_whole(machine, standing, wanted, images)
    names = [kernel.name for kernel in wanted.kernels]
    unloads: list[Step] = [
        Unload(kernel, "the file does not have it") for name, kernel in standing.items() if name not in names
    ]
    updates: list[Update] = []
    others: list[Step] = []
    for new in wanted.kernels:
        old, image = standing.get(new.name), images[new.image]
        if old is None:
            others.append(Boot(new, image, "it is new"))
            continue
        why = reasons(old, new, image)
        if why and (old.runs or old.spec.kid != new.kid):
            others.append(Reboot(old, new, image, why))
        elif not old.runs:
            others.append(Boot(new, image, "it does not run", old))
        elif changes(old.spec, new):
            updates.append(Update(old.spec, new))
    updates.sort(key=_takes)
    others.sort(key=lambda step: not isinstance(step, Reboot))
    links = _links(
        impaired,
        dict(wanted.impairments),
        {step.old.spec.name for step in unloads if isinstance(step, Unload)},
    )
    return (*unloads, *updates, *others, *links)


def reasons(old: Standing, new: KernelSpec, image: Image) -> str:
    """Why a kernel cannot become *new* with *image* while it runs; empty if it can."""
    before, why = old.spec, []
    for field in fields(KernelSpec):
        name = field.name
        if name in LIVE or name in _WRITTEN or getattr(before, name) == getattr(new, name):
            continue
        values = [getattr(spec, name) for spec in (before, new)]
        told = ["none" if value is None else str(value) for value in values]
        short = name != "env" and max(map(len, told)) < _SHORT
        word = _WORDS.get(name, name.replace("_", " "))
        why.append(f"{word} {' -> '.join(told)}" if short else f"another {word}")
    if not why and replace(old.image, name="", path="") != replace(image, name="", path=""):
        why.append("its image has changed")
    if before.isolated and before.cpus != new.cpus:
        why.append(f"cores alone {format_cpus(before.cpus)} -> {format_cpus(new.cpus)}")
    if _other_words(before) != _other_words(new):
        why.append("other boot parameters")
    if _shared(before) != _shared(new):
        why.append("devices that all kernels share come and go with a boot")
    return ", ".join(why)


def changes(old: KernelSpec, new: KernelSpec) -> str:
    """What changes from *old* to *new* without a boot, in words; empty if nothing does."""
    words = [text] if (text := differences(old, new)) else []
    if old.memory_map != new.memory_map and old.memory_bytes == new.memory_bytes:
        words.append("memory at other addresses")
    if old.restart != new.restart:
        words.append(f"restart {old.restart} -> {new.restart}")
    if old.cpus == new.cpus and old.cpus_listed != new.cpus_listed:
        words.append(f"CPUs {'its own' if new.cpus_listed else 'shared out'}")
    return ", ".join(words)


def _check_whole(
    machine: MachineSpec, standing: Mapping[str, Standing], wanted: MachineSpec, images: Mapping[str, Image]
) -> None:
    problems = [
        f"{name}: {getattr(machine, name)} -> {getattr(wanted, name)}"
        for name in ("name", "subnet", "subnet6")
        if getattr(machine, name) != getattr(wanted, name)
    ]
    own = wanted.primary
    if why := reasons(standing[own.name], own, images[own.image]):
        problems.append(f"kernel {own.name}: {why}")
    if problems:
        text = "; ".join(problems)
        raise Refused(f"that takes another machine: {text}", "`popnet down`, then `popnet up` with the file.")


def _takes(step: Update) -> int:
    """How much more than before the kernel has, so that those that give come first."""
    cpus = len(set(step.new.cpus) - set(step.old.cpus)) - len(set(step.old.cpus) - set(step.new.cpus))
    limits = [1 << 62 if spec.memory_bytes is None else spec.memory_bytes for spec in (step.old, step.new)]
    memory = (limits[1] > limits[0]) - (limits[1] < limits[0])
    return cpus + memory + len(step.new.devices) - len(step.old.devices)


def _links(old: Mapping[Way, Impairment], new: Mapping[Way, Impairment], gone: Iterable[str]) -> list[Step]:
    """What changes of links; those of kernels that are *gone* went with them. A seed that the file does not
    say was drawn, and is no difference."""
    names, nothing = set(gone), Impairment()
    steps: list[Step] = []
    for way in dict.fromkeys((*old, *new)):
        if way.source in names or way.target in names:
            continue
        before, after = old.get(way, nothing), new.get(way, nothing)
        if before != (after if after.seed is not None else replace(after, seed=before.seed)):
            steps.append(Impair(way, before, after))
    return steps


def _other_words(spec: KernelSpec) -> object:
    """The boot parameters that have no field of their own."""
    parameters = cmdline.parse(spec.cmdline)
    return (parameters.quiet, parameters.debug, parameters.loglevel, parameters.rest, parameters.arguments)


def _shared(spec: KernelSpec) -> set[str]:
    return set(spec.devices) & set(SHARED)
