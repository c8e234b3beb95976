"""What a kernel is told at boot, from the machine file, its image, and what the host has."""

import time
from pathlib import Path

from popnet.kernel import roots
from popnet.kernel.bootconfig import BootConfig
from popnet.kernel.credentials import Credentials
from popnet.machine.image import Image
from popnet.machine.spec import KernelSpec, MachineSpec


def boot_config(
    machine: MachineSpec,
    kernel: KernelSpec,
    image: Image,
    generation: int,
    credentials: Credentials,
    directory: Path,
) -> BootConfig:
    """The configuration for one boot of *kernel*. Raises Unavailable if the host lacks what its image
    needs."""
    mount_point = directory / "mnt"
    mount_point.mkdir(exist_ok=True)
    return BootConfig(
        machine=machine.name,
        kernel=kernel,
        generation=generation,
        subnet=machine.subnet,
        subnet6=machine.subnet6,
        root=roots.root_plan(machine, kernel, image),
        mount_point=str(mount_point),
        host_key=credentials.host_keys[kernel.name],
        authorized_keys=credentials.authorized_keys,
        shell=roots.login_shell(image),
        started_at_s=time.monotonic(),
        kids={other.name: other.kid for other in machine.kernels},
    )
