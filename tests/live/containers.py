"""Containers for the live tests: a base image made here, the image built on it, and services of the
compose files started as `podman compose` would, without a bridge on this host.

No registry is asked. Images are kept in a storage of their own, and with them the layers of a build, so that
the next run of the tests takes seconds; remove STORAGE to begin anew. What is published comes through
slirp4netns, a process: this host gets no interface, address or rule.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
STORAGE: Final = Path(tempfile.gettempdir(), f"popnet-test-containers-{os.getuid()}")
BASE: Final = "localhost/popnet-test-base:1"
IMAGE: Final = "localhost/popnet-test:1"
_LIMITS: Final = ("--ulimit", "nofile=10000:10000", "--ulimit", "nproc=4096:4096")
_SERVICE_KEYS: Final = frozenset(
    ("image", "build", "command", "ports", "environment", "volumes", "devices", "cap_drop", "security_opt")
) | {"ulimits", "stop_grace_period", "restart"}


def podman(
    *words: str, check: bool = True, timeout_s: float = 180, **more: Any
) -> "subprocess.CompletedProcess[str]":
    """Run podman on the tests' own storage."""
    result = subprocess.run(
        command(*words),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
        check=False,
        **more,
    )
    if check:
        assert result.returncode == 0, f"{words}: {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result


def command(*words: str) -> list[str]:
    runtime = "crun" if shutil.which("crun") else "runc"
    places = ["--root", str(STORAGE / "root"), "--runroot", str(STORAGE / "run")]
    return ["podman", *places, "--cgroup-manager", "cgroupfs", "--runtime", runtime, *words]


def why_not() -> str | None:
    """Why containers cannot be tried here."""
    if os.geteuid() != 0:
        return "containers are tried by root only"
    missing = [name for name in ("podman", "debootstrap", "slirp4netns") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """The storage for one run of the tests at a time; what one that was killed left there goes first."""
    STORAGE.mkdir(mode=0o700, exist_ok=True)
    with open(STORAGE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        podman("rm", "--all", "--force", "--time", "0", check=False)
        for mount in reversed(mounts()):
            subprocess.run(["umount", mount], capture_output=True, check=False)
        yield


def build() -> None:
    """popnet's image, as docs/containers.md says, on a base that was bootstrapped here."""
    if podman("image", "exists", BASE, check=False).returncode != 0:
        _bootstrap()
    words = ["--format", "docker", "--network", "host", "--jobs", "2", "--layers", *_LIMITS]
    # Behind a proxy with an authority of its own, pip needs that; apt speaks http.
    if certificates := os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE"):
        words += ["--volume", f"{Path(certificates).resolve()}:/run/authorities.pem:ro"]
        words += ["--build-arg", "PIP_CERT=/run/authorities.pem"]
    words += ["--build-arg", f"BASE={BASE}", "--tag", IMAGE, str(ROOT)]
    podman("build", *words, timeout_s=600)


def mounts() -> list[str]:
    """Mount points in the storage."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [point for point in points if point.startswith(str(STORAGE))]


def put_away() -> list[str]:
    """Unmount the storage, which podman leaves mounted on itself; mounts that are left then."""
    subprocess.run(["umount", str(STORAGE / "root/overlay")], capture_output=True, check=False)
    return mounts()


def _bootstrap() -> None:
    """Debian's (or Ubuntu's) smallest system, from the mirror that apt uses here."""
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
    )["VERSION_CODENAME"]
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    mirror = next(line.split()[1] for line in listed.splitlines() if line.split()[0] == release)
    with tempfile.TemporaryDirectory(prefix="popnet-base-", dir=STORAGE) as directory:
        root, archive = Path(directory, "root"), Path(directory, "base.tar")
        bootstrap = ["debootstrap", "--variant=minbase", release, str(root), mirror]
        result = subprocess.run(bootstrap, capture_output=True, text=True, timeout=600, check=False)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr
        leave_out = ["--exclude=./var/cache/apt/archives/*.deb", "--exclude=./var/lib/apt/lists/*"]
        subprocess.run(["tar", "-C", str(root), *leave_out, "-cf", str(archive), "."], check=True)
        podman("import", str(archive), BASE, timeout_s=300)


def tun(directory: Path) -> Path:
    """A device node like /dev/net/tun that everybody may open, as it is on an ordinary host."""
    path = directory / "tun"
    os.mknod(path, 0o20666, os.makedev(10, 200))
    path.chmod(0o666)
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@dataclass
class Service:
    """A service of a compose file, as a container.

    Attributes:
        directory: where its volumes are, each a directory; `./keys` and the device too.
        port: on 127.0.0.1, what is published.
    """

    file: Path
    name: str
    directory: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)

    @property
    def container(self) -> str:
        return f"popnet-test-{self.name}-{self.port}"

    def start(self) -> None:
        podman("run", "--detach", "--name", self.container, *self.arguments())

    def arguments(self) -> list[str]:
        """Of `podman run`. A key that this does not know is an error, so that none goes untried."""
        service = yaml.safe_load(self.file.read_text())["services"][self.name]
        assert service.keys() <= _SERVICE_KEYS, service.keys() - _SERVICE_KEYS
        words = ["--network", "slirp4netns:port_handler=slirp4netns", *_LIMITS]
        words += ["--env", "POPNET_GRACE=60"]  # a busy host may be slow to take machines down
        for port in service["ports"]:
            address, _, inside = port.split(":")
            words += ["--publish", f"{address}:{self.port}:{inside}"]
        for name, value in service.get("environment", {}).items():
            assert value == f"${{{name}:-}}"
            words += ["--env", f"{name}={self.environ.get(name, '')}"]
        for volume in service["volumes"]:
            words += ["--volume", self._volume(*volume.split(":"))]
        for device in service["devices"]:
            assert device == "/dev/net/tun"
            words += ["--device", f"{self.directory / 'tun'}:{device}"]
        words += [f"--cap-drop={name}" for name in service["cap_drop"]]
        for option in service["security_opt"]:
            key, _, value = option.partition("=")
            if key == "seccomp":
                value = str((self.file.parent / value).resolve())
            words += ["--security-opt", f"{key}={value}" if value else key]
        return [*words, IMAGE, *(word.replace("$$", "$") for word in service.get("command", []))]

    def _volume(self, source: str, target: str, mode: str = "rw") -> str:
        """Files come from beside the compose file; directories and named volumes are the test's."""
        given = self.file.parent / source
        if source.startswith("./") and given.is_file():
            return f"{given}:{target}:{mode}"
        own = self.directory / source.removeprefix("./")
        if not own.exists():
            own.mkdir()
            os.chown(own, 1000, 1000)
        return f"{own}:{target}:{mode}"

    def exec(self, *words: str, **more: Any) -> "subprocess.CompletedProcess[str]":
        return podman("exec", self.container, *words, **more)

    def inspect(self) -> dict[str, Any]:
        return dict(json.loads(podman("inspect", self.container).stdout)[0])

    def remove(self) -> None:
        podman("rm", "--force", "--time", "0", self.container, check=False)


def run(words: Sequence[str], script: str) -> "subprocess.CompletedProcess[str]":
    """`sh -c script` in a new container with these options, gone afterwards."""
    options = ["--rm", "--no-healthcheck", "--network", "none", *_LIMITS, *words]
    return podman("run", *options, "--entrypoint", "sh", IMAGE, "-c", script, check=False)
