"""What a kernel is told at boot, from the machine file, its image, and what the host has."""

import time
from pathlib import Path

from popnet.kernel import roots
from popnet.kernel.bootconfig import BootConfig
from popnet.kernel.credentials import Credentials
from popnet.machine.spec import KernelSpec, MachineSpec


def boot_config(
    machine: MachineSpec,
    kernel: KernelSpec,
    generation: int,
    credentials: Credentials,
    directory: Path,
    source: str | None,
) -> BootConfig:
    """The configuration for one boot of *kernel*, whose root is the tree *source* (None: the host's own).
    Raises Unavailable if the host lacks what it needs."""
    mount_point = directory / "mnt"
    mount_point.mkdir(exist_ok=True)
    return BootConfig(
        machine=machine.name,
        kernel=kernel,
        generation=generation,
        subnet=machine.subnet,
        subnet6=machine.subnet6,
        root=roots.root_plan(machine, kernel, source),
        mount_point=str(mount_point),
        host_key=credentials.host_keys[kernel.name],
        authorized_keys=credentials.authorized_keys,
        shell=roots.login_shell(source),
        started_at_s=time.monotonic(),
        kids={other.name: other.kid for other in machine.kernels},
        housekeeping=machine.housekeeping if kernel.isolated else (),
    )
