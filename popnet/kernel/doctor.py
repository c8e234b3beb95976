"""What this host can do for a machine, what it cannot, what that means, and how to mend it.

Every check looks or tries without changing the host: what has to be tried is tried by `probe`, in a child
with namespaces of its own. `python -m popnet.kernel.doctor` prints the checks as JSON.
"""

import fcntl
import json
import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from popnet.core.errors import PopnetError
from popnet.core.limits import MEMORY_MIN
from popnet.image import ramdisk
from popnet.kernel import contained, gc, probe
from popnet.kernel.fuse import DEVICE
from popnet.kernel.host import control_groups, read_host
from popnet.kernel.views import REFRESH_S
from popnet.machine.file import load_image
from popnet.machine.search import find_images, image_search_path
from popnet.machine.units import approximate_size, format_cpus
from popnet.net.filter import compile_filter

_PYTHON_MIN: Final = (3, 11)
_MACHINES: Final = ("x86_64", "aarch64", "riscv64")
_NOFILE_MIN: Final = 1024
_F_SEAL_FUTURE_WRITE: Final = 0x10


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a machine wants of its host.

    Attributes:
        name: what was looked at.
        status: `ok`; `degraded`: machines run, and can do less; `missing`: machines do not run.
        detail: what was found.
        consequence: what it means, if not ok.
        fix: how to mend it, if not ok.
    """

    name: str
    status: Literal["ok", "degraded", "missing"]
    detail: str
    consequence: str = ""
    fix: str = ""


def run_checks(run_dir: Path | None = None) -> list[Check]:
    """Every check, the needful first; what dead machines left in *run_dir*, if that is given.

    The caller must have one thread only. Takes well under a second.
    """
    checks = [check() for check in _CHECKS]
    checks += [_program(*row) for row in _PROGRAMS]
    if run_dir is not None:
        checks.append(_left_behind(run_dir))
    return checks


def _python() -> Check:
    found = platform.python_version()
    if sys.version_info >= _PYTHON_MIN:
        return Check("python", "ok", found)
    wanted = ".".join(map(str, _PYTHON_MIN))
    return Check("python", "missing", found, "popnet does not run", f"Install Python {wanted} or later.")


def _processor() -> Check:
    machine = platform.machine()
    detail = f"Linux {platform.release()} on {machine}"
    if machine in _MACHINES:
        return Check("processor", "ok", detail)
    return Check(
        "processor", "missing", detail, "kernels cannot be forked", f"Use one of {', '.join(_MACHINES)}."
    )


def _resources() -> Check:
    host = read_host()
    detail = f"CPUs {format_cpus(host.cpus)}, {approximate_size(host.memory_bytes)} of memory"
    if host.memory_bytes >= 4 * MEMORY_MIN:
        return Check("resources", "ok", detail)
    return Check(
        "resources", "degraded", detail, "there is room for few kernels", "Give this process more memory."
    )


def _tun() -> Check:
    path = "/dev/net/tun"
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        fix = contained.remedy(f"add `--device {path}`.", "Run `modprobe tun`.")
        return Check(path, "missing", "there is none", "kernels have no network", fix)
    except OSError as error:
        detail = f"cannot be opened: {error.strerror}"
        return Check(
            path,
            "missing",
            detail,
            "kernels have no network",
            contained.remedy(
                f"Run `chmod 0666 {path}` on the host, or add {contained.AS_ROOT}.",
                f"Run `chmod 0666 {path}`, or be root.",
            ),
        )
    return Check(path, "ok", "can be opened")


def _tap() -> Check:
    name = "TAP offloads"
    try:
        offloads = probe.in_child(probe.tap)
    except probe.ProbeFailed as error:
        fix = "Mend user namespaces and /dev/net/tun first."
        return Check(name, "missing", str(error), "kernels have no network", fix)
    if "uso4" in offloads:
        return Check(name, "ok", offloads)
    consequence = (
        "UDP is handed over packet by packet" if "tso4" in offloads else "TCP is handed over by packet"
    )
    return Check(
        name, "degraded", offloads or "none", f"{consequence}, and slower", "Linux 6.2 has them all."
    )


def _user_namespaces() -> Check:
    name = "user namespaces"
    try:
        probe.in_child(probe.user_namespace)
    except probe.ProbeFailed as error:
        return Check(name, "missing", str(error), "no kernel can be made", _allow_user_namespaces())
    if os.geteuid() != 0:
        return Check(name, "ok", "an ordinary user can make them")
    try:
        probe.in_child(probe.user_namespace_of_nobody)
    except probe.ProbeFailed as error:
        detail = f"root can make them, an ordinary user cannot: {error}"
        return Check(name, "degraded", detail, "only root can run machines", _allow_user_namespaces())
    return Check(name, "ok", "root and ordinary users can make them")


def _allow_user_namespaces() -> str:
    """The setting of this host that stands in the way."""
    for setting, wrong, right in (
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user/max_user_namespaces", "0", "10000"),
    ):
        path = Path("/proc/sys", setting)
        if path.exists() and path.read_text().strip() == wrong:
            return f"Run, as root: sysctl -w {setting.replace('/', '.')}={right}"
    return contained.remedy(contained.NAMESPACES, "Use a Linux with CONFIG_USER_NS.")


def _namespaces() -> Check:
    name = "namespaces"
    try:
        missing = probe.in_child(probe.kinds_of_namespaces)
    except probe.ProbeFailed as error:
        return Check(name, "missing", str(error), "no kernel can be made", _allow_user_namespaces())
    if missing:
        fix = "Use a Linux that is built with all namespaces (CONFIG_NAMESPACES)."
        return Check(name, "missing", f"not available: {missing}", "no kernel can be made", fix)
    return Check(name, "ok", ", ".join(probe.KINDS))


def _proc() -> Check:
    name = "/proc of kernels"
    try:
        probe.in_child(probe.proc)
    except probe.ProbeFailed as error:
        return Check(
            name,
            "missing",
            str(error),
            "no kernel boots",
            contained.remedy(
                f"add `--security-opt systempaths=unconfined`, or {contained.AS_ROOT}.",
                "Nothing may be mounted below /proc: see `findmnt -R /proc`.",
            ),
        )
    return Check(name, "ok", "can be mounted")


def _host_name() -> Check:
    name = "host names"
    try:
        probe.in_child(probe.host_name)
    except probe.ProbeFailed as error:
        fix = contained.remedy(contained.NAMESPACES, "Allow sethostname(2).")
        return Check(name, "missing", str(error), "no kernel boots", fix)
    return Check(name, "ok", "can be set")


def _overlay() -> Check:
    name = "overlay file system"
    fix = "Run `modprobe overlay`; ordinary users need Linux 5.11."
    try:
        probe.in_child(probe.overlay)
    except probe.ProbeFailed as error:
        return Check(name, "degraded", str(error), "the image full does not boot; light does", fix)
    if os.geteuid() != 0:
        return Check(name, "ok", "an ordinary user can mount it")
    try:
        probe.in_child(probe.overlay_of_user)
    except probe.ProbeFailed as error:
        detail = f"root can mount it, an ordinary user cannot: {error}"
        return Check(name, "degraded", detail, "for ordinary users the image full does not boot", fix)
    return Check(name, "ok", "root and ordinary users can mount it")


def _control_groups() -> Check:
    groups = control_groups()
    name = "control groups"
    found = f"version {groups.version}" if groups.version else "none mounted"
    missing = [controller for controller in ("cpuset", "memory") if controller not in groups.delegated]
    if not missing:
        return Check(name, "ok", f"{found}, with cpuset and memory")
    effects = {
        "cpuset": "CPUs are kept by affinity, which root in a kernel can change",
        "memory": "memory is not limited",
    }
    consequence = "; ".join(effects[controller] for controller in missing)
    if os.geteuid() == 0:
        fix = contained.remedy(
            "add `--volume /sys/fs/cgroup:/sys/fs/cgroup:rw`.", "Make /sys/fs/cgroup writable."
        )
    else:
        fix = contained.remedy(
            f"add {contained.AS_ROOT} and `--volume /sys/fs/cgroup:/sys/fs/cgroup:rw`.", "Be root."
        )
    return Check(name, "degraded", f"{found}, not ours: {', '.join(missing)}", consequence, fix)


def _views() -> Check:
    """What kernels show of their partition in /proc and /sys."""
    name = "partition views"
    try:
        probe.in_child(probe.fuse_file_system)
    except probe.ProbeFailed as error:
        detail = f"no FUSE: {error}"
        consequence = f"/proc/meminfo and /proc/stat of kernels are up to {REFRESH_S:.0f} s old"
        fix = f"Run `modprobe fuse`, and `chmod 0666 {DEVICE}`; in a container: `--device {DEVICE}`."
        return Check(name, "degraded", detail, consequence, fix)
    if not Path("/proc/self/timens_offsets").exists():
        consequence = "`ps` in kernels shows wrong ages of processes"
        return Check(name, "degraded", "no time namespaces", consequence, "Use Linux 5.6 or later.")
    return Check(name, "ok", "by FUSE, and with a boot clock of each kernel's own")


def _seals() -> Check:
    name = "sealed memory"
    try:
        fd = os.memfd_create("popnet-doctor", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE)
        finally:
            os.close(fd)
    except OSError as error:
        return Check(
            name, "missing", error.strerror or "", "kernels have no links", "Use Linux 5.1 or later."
        )
    return Check(name, "ok", "memfd with F_SEAL_FUTURE_WRITE")


def _pidfd() -> Check:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        text = error.strerror or ""
        return Check(
            "pidfd", "missing", text, "the death of a kernel is not noticed", "Use Linux 5.3 or later."
        )
    return Check("pidfd", "ok", "available")


def _light_image() -> Check:
    """Looks for what goes into the ramdisk of a light kernel: that needs the image and a static busybox."""
    name = "image light"
    search_path = image_search_path(os.environ)
    try:
        image = load_image(find_images(search_path)["light"])
        programs = [str(ramdisk.find_program(program, image.name)) for program in image.programs]
    except PopnetError as error:
        return Check(name, "degraded", str(error), "light kernels do not boot", error.hint)
    return Check(name, "ok", ", ".join(sorted(programs)))


def _libpcap() -> Check:
    try:
        compile_filter("icmp", 64)
    except PopnetError as error:
        return Check("libpcap", "degraded", str(error), "captures cannot be filtered", error.hint)
    return Check("libpcap", "ok", "compiles filters")


def _ipv6() -> Check:
    if Path("/proc/net/if_inet6").exists():
        return Check("ipv6", "ok", "available")
    fix = "Boot Linux without `ipv6.disable=1`."
    return Check("ipv6", "degraded", "not in this Linux", "kernels have IPv4 only", fix)


def _open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    name, detail = "open files", f"{soft} a process, at most {hard}"
    if soft >= _NOFILE_MIN:
        return Check(name, "ok", detail)
    return Check(
        name, "degraded", detail, "large machines run out of descriptors", f"Run `ulimit -n {_NOFILE_MIN}`."
    )


def _cpu_latency() -> Check:
    path = Path("/dev/cpu_dma_latency")
    if os.access(path, os.W_OK):
        return Check("idle latency", "ok", f"{path} can be held open")
    detail = f"{path} is not writable" if path.exists() else f"there is no {path}"
    fix = "Only for measurements: be root, and hold it open with the value 0."
    return Check(
        "idle latency", "degraded", detail, "an idle CPU may take longer to wake, so figures vary", fix
    )


def _real_time() -> Check:
    """What kernels with their cores alone (image rt) have on this host."""
    name = "real time"
    try:
        lacking = probe.in_child(probe.real_time)
    except probe.ProbeFailed as error:
        fix = "Be root, or have `USER - rtprio 99` in /etc/security/limits.conf."
        return Check(name, "degraded", str(error), "rt kernels have no real-time priorities", fix)
    if not _partitions():
        lacking = ", ".join(filter(None, (lacking, "cpuset of control groups version 2")))
    if not lacking:
        return Check(name, "ok", "SCHED_FIFO, limits, and cores that are nobody else's")
    effect = "; ".join(text for word, text in _REAL_TIME_EFFECTS.items() if word in lacking)
    fix = "Be root with CAP_SYS_RESOURCE, on a host with control groups of version 2."
    return Check(name, "degraded", f"SCHED_FIFO, but no {lacking}", effect, fix)


_REAL_TIME_EFFECTS: Final = {
    "rtprio": "in rt kernels only `popnet exec --fifo` gives real-time priorities",
    "cpuset": "processes of the host may run on cores of rt kernels",
}


def _partitions() -> bool:
    """Whether control groups of version 2 have a cpuset here, so that cores can be partitioned off."""
    groups = control_groups()
    directory = groups.directories.get("cpuset")
    return directory is not None and (directory / "cgroup.controllers").exists()


def _left_behind(run_dir: Path) -> Check:
    name = "left behind"
    rows = gc.collect(run_dir, dry_run=True)
    machines = sorted({str(row["machine"]) for row in rows})
    if not machines:
        return Check(name, "ok", "nothing")
    detail = f"{len(rows)} things of {', '.join(machines)}, which did not end in order"
    return Check(name, "degraded", detail, "they take room, and processes may still run", "Run `popnet gc`.")


def _program(name: str, package: str, consequence: str) -> Check:
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path:
        return Check(name, "ok", path)
    return Check(
        name, "degraded", "not installed", consequence, f"Install {package} (apt install {package})."
    )


_CHECKS: Final[tuple[Callable[[], Check], ...]] = (
    _python,
    _processor,
    _resources,
    _user_namespaces,
    _namespaces,
    _host_name,
    _proc,
    _tun,
    _tap,
    _seals,
    _pidfd,
    _overlay,
    _light_image,
    _control_groups,
    _views,
    _open_files,
    _ipv6,
    _libpcap,
    _cpu_latency,
    _real_time,
)

_PROGRAMS: Final = (
    ("ssh", "openssh-client", "`popnet ssh` does not work; `popnet exec` and `popnet console` do"),
    ("ping", "iputils-ping", "full kernels have no ping; light ones have busybox's"),
    ("ip", "iproute2", "full kernels have no ip"),
    ("tshark", "tshark", "captures cannot be read here; the files can be read elsewhere"),
    ("iperf3", "iperf3", "full kernels cannot measure throughput with it"),
)
"""Programs that a machine does without: name, Debian package, and what is lost."""


if __name__ == "__main__":
    print(json.dumps([asdict(check) for check in run_checks()], indent=2))
