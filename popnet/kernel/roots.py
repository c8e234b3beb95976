"""From an image to the root file system of a kernel: which programs of the host it needs, and which files it
is given."""

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

from popnet.core.errors import Unavailable
from popnet.kernel.bootconfig import hosts_file
from popnet.kernel.rootfs import RootPlan
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
        "/etc/hosts": hosts_file(machine.kernels, machine.subnet, machine.subnet6),
        "/etc/hostname": f"{kernel.hostname}\n",
        "/etc/resolv.conf": "# a popnet machine has no name server\n",
    }
    proc_files = {"cmdline": f"{kernel.cmdline}\n"}
    if image.root == "host-overlay":
        return RootPlan("host-overlay", files=files, proc_files=proc_files)
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
    return RootPlan("ramdisk", programs=programs, links=links, files=files, proc_files=proc_files)


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
