"""popnet in containers: the image is built and run, and reached by OpenSSH from outside."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.live import containers
from tests.live.containers import ROOT, Service, podman
from tests.live.lab import wait_until

SECCOMP = ("--security-opt", f"seccomp={ROOT / 'container/seccomp.json'}")
PATHS = ("--security-opt", "systempaths=unconfined")
NO_POWERS = ("--cap-drop", "ALL", "--security-opt", "no-new-privileges")
AS_ROOT = ("--user", "0", "--cap-add", "SYS_ADMIN")
BOOT = "popnet doctor; popnet up demo -q && popnet exec k1 -- uname -n && popnet exec k1 -- ping -c1 -W9 k2"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module", autouse=True)
def image() -> Iterator[None]:
    if reason := containers.why_not():
        pytest.skip(reason)
    before = interfaces()
    with containers.alone():
        containers.build()
        yield
        assert podman("ps", "--all", "--quiet").stdout == ""
        assert containers.put_away() == []
    assert interfaces() == before


@pytest.fixture
def place(tmp_path: Path) -> Path:
    containers.tun(tmp_path)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    return tmp_path


def interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def ssh(
    service: Service, user: str, *command: str, key: str = "key", known: str = "accept-new", **more: object
) -> "subprocess.CompletedProcess[bytes]":
    """OpenSSH's own client, to the published port."""
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        ["ssh", *words(service, user, key, known), *command],
        **{"capture_output": True, "timeout": 60, "check": False, "input": b"", **more},
    )


def words(service: Service, user: str, key: str = "key", known: str = "yes") -> list[str]:
    """Arguments of ssh."""
    options = [f"UserKnownHostsFile={service.directory / 'known_hosts'}", f"StrictHostKeyChecking={known}"]
    options += ["IdentitiesOnly=yes", "IdentityAgent=none", "BatchMode=yes", "ConnectTimeout=10"]
    chosen = [word for option in options for word in ("-o", option)]
    login = ["-i", str(service.directory / key), "-p", str(service.port), f"{user}@127.0.0.1"]
    return ["-F", "none", *chosen, *login]


def reached(service: Service, user: str = "k1") -> None:
    """Wait until *user* can log in; a container that ended tells its log."""

    def look() -> bool:
        assert service.inspect()["State"]["Running"], podman("logs", service.container).stderr
        return ssh(service, user, "true").returncode == 0

    wait_until(look, f"{user} can log in", 180)


def public_key(place: Path) -> str:
    return (place / "key.pub").read_text()


def test_the_image_runs_as_nobody_special_and_has_no_compiler() -> None:
    script = "id -u; command -v cc gcc pip; popnet version; grep ^NAME /etc/os-release"
    result = containers.run((), script)
    assert result.stdout.startswith("1000\npopnet "), result.stdout + result.stderr
    labels = podman("image", "inspect", containers.IMAGE, "--format", "{{json .Labels}}").stdout
    assert '"org.opencontainers.image.title":"popnet"' in labels


def test_the_demo_by_its_compose_file(place: Path) -> None:
    demo = Service(ROOT / "compose.yaml", "demo", place, {"POPNET_AUTHORIZED_KEYS": public_key(place)})
    try:
        demo.start()
        reached(demo)
        assert ssh(demo, "k2", "uname -n; cat", input=b"in").stdout == b"k2\nin"
        console = pexpect.spawn("ssh", words(demo, "k1.tty0"), timeout=30)
        console.expect("generation 1, image full")
        console.close()
        assert demo.exec("popnet", "status").stdout.split()[4:6] == ["demo", "well"]
        assert podman("healthcheck", "run", demo.container).returncode == 0
        # The user name picks the kernel, the command is a capture; then one to a file in a volume.
        pings = "ping -4 -i 0.2 k2 >/dev/null & echo $! >/tmp/ping"
        ssh(demo, "k1", pings)
        assert ssh(demo, "k1", "capture eth0 -c 2 icmp").stdout.startswith(b"\x0a\x0d\x0d\x0a")
        demo.exec("popnet", "capture", "k1", "-c", "2", "-w", "/captures/k1.pcapng", "icmp")
        assert (place / "captures/k1.pcapng").read_bytes().startswith(b"\x0a\x0d\x0d\x0a")
        # A kernel does not see the gateway's key; what a program leaves behind is reaped.
        assert ssh(demo, "k1", "ls -A /var/lib/popnet").stdout == b""
        assert (place / "state/gateway/host_key").stat().st_mode & 0o777 == 0o600
        demo.exec("sh", "-c", "sh -c 'sleep 0.2' & exit 0")
        zombies = "cat /proc/[0-9]*/stat 2>/dev/null | awk '$3 == \"Z\"' | wc -l"
        wait_until(lambda: demo.exec("sh", "-c", zombies).stdout.strip() == "0", "all are reaped")
        # SIGTERM takes it down in good order: killed, its status would be 137.
        podman("stop", "--time", "90", demo.container)
        assert demo.inspect()["State"]["ExitCode"] == 0, podman("logs", demo.container).stderr
        assert "machine demo: down" in podman("logs", demo.container).stderr
        podman("start", demo.container)
        reached(demo)
        assert ssh(demo, "k1", "uname -n", known="yes").stdout == b"k1\n"  # the same host key
    finally:
        demo.remove()


def test_a_kernel_that_failed_is_not_well(place: Path) -> None:
    """The health check's negative control."""
    options = (*NO_POWERS, *SECCOMP, *PATHS, "--device", f"{place / 'tun'}:/dev/net/tun")
    result = containers.run(
        options, "popnet status; echo $?; popnet up pair -q; popnet panic k1; popnet status; echo $?"
    )
    lines = result.stdout.splitlines()
    assert lines[0] == "3", result.stdout + result.stderr
    assert lines[-1] == "1"
    assert "k1 is failed" in lines[-2]


def test_two_machines_side_by_side(place: Path) -> None:
    file = ROOT / "examples/two-machines/compose.yaml"
    keys = {"POPNET_AUTHORIZED_KEYS": public_key(place)}
    red, blue = (Service(file, name, place, keys) for name in ("red", "blue"))
    try:
        for service in (red, blue):
            service.start()
        for service in (red, blue):
            reached(service)
            assert ssh(service, f"{service.name}.k1", "uname -n").stdout == b"k1\n"
        assert ssh(blue, "red.k1", "true").returncode != 0  # no kernel of blue's is called so
    finally:
        red.remove()
        blue.remove()


def test_a_class_with_a_machine_for_each_student(place: Path) -> None:
    (place / "keys").mkdir()
    (place / "keys/authorized_keys").write_text(public_key(place))
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / "s07")], check=True)
    school = Service(ROOT / "examples/class/compose.yaml", "class", place)
    try:
        school.start()
        reached(school, "student20.k1")
        (place / "keys/student07.pub").write_text((place / "s07.pub").read_text())  # while it runs
        assert ssh(school, "student07.k2", "uname -n", key="s07").stdout == b"k2\n"
        denied = ssh(school, "student08.k2", "uname -n", key="s07")
        assert (denied.returncode, b"Permission denied" in denied.stderr) == (255, True)
        assert ssh(school, "student01.k1", "uname -n").stdout == b"k1\n"
        assert school.exec("popnet", "-o", "json", "status").stdout.count('"healthy": true') == 20
        podman("stop", "--time", "90", school.container)
        assert school.inspect()["State"]["ExitCode"] == 0, podman("logs", school.container).stderr
    finally:
        school.remove()


@pytest.mark.parametrize(
    ("options", "lacks"),
    [
        pytest.param((*NO_POWERS, *SECCOMP, *PATHS, "tun"), None, id="as in compose.yaml"),
        pytest.param((*AS_ROOT, "tun"), None, id="root with SYS_ADMIN"),
        pytest.param((*NO_POWERS, *SECCOMP, *PATHS), "--device /dev/net/tun", id="no device"),
        pytest.param(
            (*NO_POWERS, *PATHS, "tun"), "--security-opt seccomp=container/seccomp.json", id="no profile"
        ),
        pytest.param(
            (*NO_POWERS, *SECCOMP, "tun"), "--security-opt systempaths=unconfined", id="masked /proc"
        ),
        pytest.param(("--user", "0", "tun"), "--user 0 --cap-add SYS_ADMIN", id="root alone"),
    ],
)
def test_what_a_container_needs(place: Path, options: tuple[str, ...], lacks: str | None) -> None:
    """Each row of the table in docs/containers.md."""
    device = ("--device", f"{place / 'tun'}:/dev/net/tun")
    words = [word for option in options for word in (device if option == "tun" else (option,))]
    result = containers.run(words, BOOT)
    said = result.stdout + result.stderr
    if lacks is None:
        assert result.returncode == 0, said
        assert "machines can run here" in said
        assert "1 received" in said
    else:
        assert result.returncode != 0, said
        assert f"`{lacks}`" in said
        assert "machines cannot run here" in said
        assert "Traceback" not in said
