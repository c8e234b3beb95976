"""The roster: which kernels a machine has, what each of them is, and who has a partition.

It begins as the machine file says. `to_load` may give a kernel another image or command line, or add one, and
`restore` undoes that. The machine's description, the entries, the tables of names and the keys for ssh change
here only, together, so they always agree. States change elsewhere: here they are only asked.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from popnet.core import limits
from popnet.core.errors import Refused
from popnet.kernel.cgroup import Group
from popnet.kernel.credentials import Credentials
from popnet.kernel.entry import Entry
from popnet.kernel.events import Journal
from popnet.machine import names, states
from popnet.machine.file import load_image
from popnet.machine.image import Image
from popnet.machine.loading import check_load, loaded_spec
from popnet.machine.problems import suggestion
from popnet.machine.search import find_images, image_search_path
from popnet.machine.spec import KernelSpec, MachineSpec
from popnet.machine.states import KernelState
from popnet.tty.hub import Terminal


class Roster:
    """The kernels of a machine; iterating gives their entries.

    Args:
        images: by name, all that the machine file uses.
        own_group: the control group of kernel 0.

    Attributes:
        machine: its description, with the kernels that there are now.
        credentials: with keys for each of them.
        by_kid: their entries.
        names, kids: kid -> name, and name -> kid. The same two tables for as long as the machine runs.
    """

    def __init__(
        self, machine: MachineSpec, images: Mapping[str, Image], credentials: Credentials, own_group: Group
    ) -> None:
        self.machine = machine
        self.credentials = credentials
        self.own_group = own_group
        self.by_kid = {
            spec.kid: Entry(
                spec,
                images[spec.image],
                Journal(limits.LOG_LINES_MAX),
                [Terminal(spec.name) for _ in range(spec.ttys)],
                states.Life(spec.name),
                origin=(spec, images[spec.image]),
            )
            for spec in machine.kernels
        }
        self._ended: dict[int, int] = {}
        self.names = {spec.kid: spec.name for spec in machine.kernels}
        self.kids = {spec.name: spec.kid for spec in machine.kernels}

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.by_kid.values())

    @property
    def own(self) -> Entry:
        """Kernel 0."""
        return self.by_kid[0]

    def named(self, name: str) -> Entry:
        """Raises NoSuchKernel, which says what there is."""
        return self.by_kid[self.machine.by_name(name).kid]

    def online(self, name: str) -> bool:
        return self.by_kid[self.kids[name]].life.state is KernelState.ONLINE

    def row(self, kernel: Entry) -> dict[str, Any]:
        """It as the control API shows it."""
        return kernel.row(self.machine, self.own_group)

    # Loading

    def check(self, kernel: Entry) -> None:
        """Raises IllegalState or Refused if *kernel* cannot be given its partition now."""
        states.handle(kernel.life, states.Load(), 0.0)  # whether it may be loaded at all comes first
        check_load(self.machine, kernel.spec, self.holders())

    def to_load(self, name: str, image: str | None, append: str | None) -> Entry:
        """The kernel *name*, which can be given its partition now: with *image* or *append* it is what these
        say from now on, and may be new. Raises IllegalState, Refused, NoSuchKernel."""
        if image is None and append is None:
            kernel = self.named(name)
            self.check(kernel)
            return kernel
        known = self.by_kid[self.kids[name]] if name in self.kids else None
        if known is not None:
            states.handle(known.life, states.Load(), 0.0)  # as in `check`
        return self._redefine(name, known, image, append)

    def respec(self, kernel: Entry, spec: KernelSpec) -> None:
        """*kernel* is what *spec* says, until it is unloaded."""
        kernel.spec = spec
        self._place(kernel)

    def restore(self, kernel: Entry) -> None:
        """Have *kernel*, which has no partition any more, be again what the machine file says; one that is
        not in the file is no longer there."""
        if kernel.origin is not None:
            kernel.spec, kernel.image = kernel.origin
            self._place(kernel)
            return
        self.forget(kernel)

    def forget(self, kernel: Entry) -> None:
        """*kernel*, which has no partition, is no longer there."""
        for terminal in kernel.terminals:
            terminal.close()
        kernel.log.close()
        kid, name = kernel.spec.kid, kernel.spec.name
        self._ended[kid] = kernel.life.generation
        del self.by_kid[kid], self.names[kid], self.kids[name]
        self.machine = replace(self.machine, kernels=tuple(k for k in self.machine.kernels if k.name != name))

    def define(self, spec: KernelSpec, image: Image) -> Entry:
        """The kernel of that name, which is what these say from now on; a new one if it is not there, or has
        another number. It does not run."""
        known = self.by_kid[self.kids[spec.name]] if spec.name in self.kids else None
        if known is not None and known.spec.kid != spec.kid:
            self.forget(known)
            known = None
        return self._enter(known, spec, image)

    def describe(self, machine: MachineSpec) -> None:
        """The machine is shared, checked and impaired as *machine* says; its kernels are as they are."""
        self.machine = replace(machine, name=self.machine.name, kernels=self.machine.kernels)

    def adopt(self, machine: MachineSpec, images: Mapping[str, Image]) -> None:
        """*machine* is what the machine file says from now on: what `restore` leads back to."""
        self.describe(machine)
        for spec in machine.kernels:
            self.named(spec.name).origin = (spec, images[spec.image])

    def _redefine(self, name: str, known: Entry | None, image: str | None, append: str | None) -> Entry:
        """The kernel *name* with another image or command line; a new one if it is not *known*."""
        try:
            names.kernel_name(name)
        except ValueError as error:
            raise Refused(f"not a kernel's name: {error}") from None
        chosen = self._image(image) if image is not None else known.image if known else self._image("full")
        words = known.spec.append if append is None and known is not None else append or ""
        spec = loaded_spec(self.machine, name, chosen, words, self.holders())
        return self._enter(known, spec, chosen)

    def _enter(self, known: Entry | None, spec: KernelSpec, image: Image) -> Entry:
        """The entry *known*, or a new one, as *spec* and *image* say."""
        if known is None:
            # It counts on from the one that had its number: others remember which generations are dead.
            life = states.Life(spec.name, generation=self._ended.get(spec.kid, 0))
            known = Entry(spec, image, Journal(limits.LOG_LINES_MAX), [], life)
            self.by_kid[spec.kid] = known
            self.names[spec.kid], self.kids[spec.name] = spec.name, spec.kid
        known.spec, known.image = spec, image
        self._place(known)
        return known

    def _place(self, kernel: Entry) -> None:
        """Have the machine's description and the kernel's terminals agree with its spec."""
        spec = kernel.spec
        others = (other for other in self.machine.kernels if other.kid != spec.kid)
        kernels = tuple(sorted([*others, spec], key=lambda one: one.kid))
        self.machine = replace(self.machine, kernels=kernels)
        while len(kernel.terminals) < spec.ttys:
            kernel.terminals.append(Terminal(spec.name))
        for terminal in kernel.terminals[spec.ttys :]:
            terminal.close()
        del kernel.terminals[spec.ttys :]
        self.credentials = self.credentials.having(self.machine, spec.name)

    def _image(self, name: str) -> Image:
        """The image of that name, as the machine file would find it; or the one in the directory *name*."""
        if os.sep in name:
            return load_image(name.rstrip(os.sep))
        found = find_images(image_search_path(os.environ, self.machine.file))
        if name not in found:
            raise Refused(f"no image {name!r}{suggestion(name, found)}", "Or give the path of its directory.")
        return load_image(found[name])

    def holders(self) -> list[KernelSpec]:
        """Those that have a partition now."""
        without = (KernelState.OFFLINE, KernelState.FAILED)
        return [kernel.spec for kernel in self if kernel.life.state not in without]
