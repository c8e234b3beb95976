"""From an image to the root file system of a kernel: which programs of the host it needs, and which files it
is given."""

import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any, Final

from popnet.core.errors import Unavailable
from popnet.kernel.bootconfig import hosts_file
from popnet.kernel.rootfs import RootPlan
from popnet.machine.devices import SHARED
from popnet.machine.image import Image
from popnet.machine.spec import KernelSpec, MachineSpec

_LIGHT_PASSWD: Final = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
_LIGHT_GROUP: Final = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"
_LIGHT_PROFILE: Final = "export PS1='\\u@\\h:\\w\\$ '\n"


def root_plan(machine: MachineSpec, kernel: KernelSpec, image: Image) -> RootPlan:
    """The root of *kernel*, which runs *image*.

    Raises:
        Unavailable: the host lacks a program that the image needs.
    """
    files = {
        "/etc/hosts": hosts_file(machine.kernels, machine.subnet6),
        "/etc/hostname": f"{kernel.hostname}\n",
        "/etc/resolv.conf": "# a popnet machine has no name server\n",
    }
    common: dict[str, Any] = {
        "proc_files": {"cmdline": f"{kernel.cmdline}\n"},
        "devices": _devices(kernel),
        "hidden_pci": kernel.hidden_pci,
    }
    if image.root == "host-overlay":
        return RootPlan("host-overlay", files=files, **common)
    files |= {
        "/etc/passwd": _LIGHT_PASSWD,
        "/etc/group": _LIGHT_GROUP,
        "/etc/profile": _LIGHT_PROFILE,
        "/etc/nsswitch.conf": "hosts: files\n",
    }
    programs: dict[str, str] = {}
    links: dict[str, str] = {}
    for name in image.programs:
        path = _find_program(name, image)
        programs[f"/bin/{name}"] = path
        if name == "busybox":
            links |= {f"/bin/{applet}": "busybox" for applet in _applets(path) if applet != "busybox"}
    return RootPlan("ramdisk", programs=programs, links=links, files=files, **common)


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


def login_shell(image: Image) -> str:
    """The shell that terminals and ssh start in kernels of *image*."""
    if image.root == "host-overlay" and Path("/bin/bash").exists():
        return "/bin/bash"
    return "/bin/sh"


def _find_program(name: str, image: Image) -> str:
    path = shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        hint = f"install it (Debian, Ubuntu: apt install {name}{'-static' * (name == 'busybox')})"
        raise Unavailable(
            f"image {image.name} needs the program {name!r}, which this host does not have", hint
        )
    real = str(Path(path).resolve())
    if not _is_static(real):
        hint = f"install a static one (Debian, Ubuntu: apt install {name}-static)"
        raise Unavailable(f"image {image.name} needs a statically linked {name!r}; {real} is not", hint)
    return real


def _is_static(path: str) -> bool:
    """Whether the 64-bit ELF file at *path* names no dynamic loader (program header PT_INTERP, elf(5))."""
    with open(path, "rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:5] != b"\x7fELF\x02":
            return False
        offset, size, count = (
            struct.unpack_from("<Q", header, 32)[0],
            *struct.unpack_from("<HH", header, 54),
        )
        file.seek(offset)
        table = file.read(size * count)
    if len(table) < size * count:
        return False
    return all(struct.unpack_from("<I", table, i * size)[0] != 3 for i in range(count))


def _applets(busybox: str) -> list[str]:
    """The names that this busybox answers to."""
    result = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    return result.stdout.split()
