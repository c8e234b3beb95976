"""From an image to the root file system of a kernel: where it comes from, and which files it is given."""

import os
from pathlib import Path

from popnet.core.errors import Unavailable
from popnet.image.check import shell_of
from popnet.kernel.bootconfig import hosts_file
from popnet.kernel.rootfs import RootPlan
from popnet.machine.devices import SHARED
from popnet.machine.spec import KernelSpec, MachineSpec
from popnet.tty.hostkeys import state_dir


def root_plan(machine: MachineSpec, kernel: KernelSpec, source: str | None) -> RootPlan:
    """The root of *kernel*: the tree at *source*, or the host's own (None).

    Raises:
        Unavailable: the host lacks a device that the kernel is to have.
    """
    return RootPlan(
        "host-overlay" if source is None else "directory",
        source or "",
        files={
            "/etc/hosts": hosts_file(machine.kernels, machine.subnet6),
            "/etc/hostname": f"{kernel.hostname}\n",
            "/etc/resolv.conf": "# a popnet machine has no name server\n",
        },
        proc_files={"cmdline": f"{kernel.cmdline}\n"},
        devices=_devices(kernel),
        hidden_pci=kernel.hidden_pci,
        hidden=(str(state_dir()),),  # with the gateway's private key
    )


def _devices(kernel: KernelSpec) -> tuple[str, ...]:
    """The devices of the host that *kernel* has. Raises Unavailable for one that it asks for and that cannot
    be used; those that every kernel may have come only where the host has them."""
    for name in kernel.devices:
        path = Path("/dev", name)
        if name in SHARED:
            continue
        if not (path.is_char_device() or path.is_block_device()):
            raise Unavailable(f"kernel {kernel.name}: devices={name}: this host has no device {path}")
        if not os.access(path, os.R_OK | os.W_OK):
            hint = "the user who starts the machine needs permission to use it"
            raise Unavailable(f"kernel {kernel.name}: devices={name}: no permission to use {path}", hint)
    return kernel.devices


def login_shell(source: str | None) -> str:
    """The shell that terminals and ssh start in kernels with that root."""
    return shell_of(Path(source or "/")) or "/bin/sh"
