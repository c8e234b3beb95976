"""Root file systems, built in namespaces of their own over a host that the test has furnished."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from popnet.kernel import linux
from popnet.kernel.initclient import InitClient
from popnet.kernel.rootfs import RootPlan
from tests.kernel.inside import in_kernel, output_of, sh, small_root

FILES = {"/etc/hosts": "10.1.2.1 primary\n", "/etc/popnet-test/new": "made up\n"}


def _tmpfs(path: Path) -> None:
    linux.mount("none", path, "tmpfs")


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    """run(script, furnish): the output of *script* in a kernel with the host's tree.

    *furnish* gets a directory of the host that is a mount point of its own, "/srv", before.
    """
    mount_point = tmp_path / "mnt"
    mount_point.mkdir()

    def run(script: str, furnish: Callable[[Path], None] = lambda srv: None, plan: Any = None) -> Any:
        def before() -> None:
            srv = Path("/srv")
            _tmpfs(srv)
            furnish(srv)

        async def test(client: InitClient) -> Any:
            await client.wait_ready()
            return await sh(client, script)

        return in_kernel(test, mount_point, plan or RootPlan("host-overlay", files=FILES), before=before)

    return run


def test_the_hosts_tree_is_there_and_what_is_written_stays_inside(run: Callable[..., Any]) -> None:
    name = f"/etc/popnet-{os.getpid()}"
    said = run(
        f"test -d /usr/bin && echo usr; echo x > {name} && cat {name}; rm /etc/passwd && ls /etc/passwd"
    )
    assert said.split("\n")[:2] == ["usr", "x"]
    assert "No such file" in said
    assert not Path(name).exists()
    assert Path("/etc/passwd").exists()


def test_files_of_the_plan_hide_the_hosts(run: Callable[..., Any]) -> None:
    before = Path("/etc/hosts").read_text()
    assert run("cat /etc/hosts /etc/popnet-test/new") == "10.1.2.1 primary\nmade up\n"
    assert Path("/etc/hosts").read_text() == before


def test_files_of_the_plan_hide_those_mounted_one_by_one_as_in_a_container(run: Callable[..., Any]) -> None:
    def furnish(srv: Path) -> None:
        (srv / "hosts").write_text("127.0.0.1 the-container\n")
        linux.mount(str(srv / "hosts"), "/etc/hosts", "", linux.MS_BIND)

    assert run("cat /etc/hosts; test -f /etc/passwd && echo passwd", furnish) == "10.1.2.1 primary\npasswd\n"


def test_directories_with_mounts_below_are_mirrored_with_them(run: Callable[..., Any]) -> None:
    def furnish(srv: Path) -> None:
        for name in ("plain", "disc", "ünï cödé", "back\\slash"):
            (srv / name).mkdir()
            (srv / name / "file").write_text(f"{name}\n")
        for name in ("disc", "ünï cödé"):
            (srv / name / "sub").mkdir()
            _tmpfs(srv / name / "sub")
            (srv / name / "sub/deep").write_text("deep\n")
        (srv / "loose").write_text("loose\n")
        (srv / "link").symlink_to("plain/file")
        os.mkfifo(srv / "pipe")

    said = run(
        "cd /srv; cat plain/file disc/file disc/sub/deep 'ünï cödé/sub/deep' loose link;"
        "echo changed > disc/sub/deep; echo changed > plain/file; cat disc/sub/deep plain/file; ls -d pipe",
        furnish,
    )
    assert said.split("\n")[:8] == ["plain", "disc", "deep", "deep", "loose", "plain", "changed", "changed"]
    assert "No such file" in said


def test_names_that_an_overlay_cannot_say_are_empty_directories(run: Callable[..., Any]) -> None:
    def furnish(srv: Path) -> None:
        for name in ("a:b", "a,b", "a\\b"):
            (srv / name).mkdir()
            (srv / name / "file").touch()
        (srv / "busy").mkdir()
        _tmpfs(srv / "busy")

    assert run("cd /srv; ls -d a*; ls a*/", furnish).split() == [
        "a,b",
        "a:b",
        "a\\b",
        "a,b/:",
        "a:b/:",
        "a\\b/:",
    ]


def test_names_that_are_no_text_are_mirrored_too(run: Callable[..., Any]) -> None:
    def furnish(srv: Path) -> None:
        for name in (b"caf\xe9", b"caf\xe9-busy"):
            directory = os.fsencode(srv) + b"/" + name
            os.mkdir(directory)  # noqa: PTH102  bytes
            with open(directory + b"/file", "w") as file:
                file.write("latin\n")
        os.mkdir(directory + b"/sub")  # noqa: PTH102
        _tmpfs(Path(os.fsdecode(directory + b"/sub")))

    assert run("cat /srv/caf*/file", furnish) == "latin\nlatin\n"


def test_what_cannot_be_below_an_overlay_is_shown_read_only(run: Callable[..., Any]) -> None:
    """As vfat on /boot/efi; here by an overlay on an overlay, which is as deep as Linux goes."""

    def furnish(srv: Path) -> None:
        (srv / "lower0").mkdir()
        (srv / "lower0/file").write_text("deep\n")
        for level in range(2):
            for name in ("upper", "work", "lower"):
                (srv / f"{name}{level + (name == 'lower')}").mkdir()
            layers = f"lowerdir={srv}/lower{level},upperdir={srv}/upper{level},workdir={srv}/work{level}"
            user = "" if os.geteuid() == 0 and _is_initial() else ",userxattr"
            linux.mount("overlay", srv / f"lower{level + 1}", "overlay", 0, layers + user)

    said = run("cat /srv/lower2/file; echo x > /srv/lower2/file; mount -o remount,rw /srv/lower2", furnish)
    assert said.startswith("deep\n")
    assert "Read-only file system" in said
    assert "permission denied" in said


def _is_initial() -> bool:
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def test_directories_that_the_user_may_not_read_are_empty(run: Callable[..., Any]) -> None:
    def furnish(srv: Path) -> None:
        (srv / "secret").mkdir()
        (srv / "secret/file").touch()
        (srv / "secret").chmod(0)
        secret, real = str(srv / "secret"), os.access
        # Root may read everything: what an ordinary user is told of it.
        os.access = lambda path, mode: path != secret and real(path, mode)
        (srv / "busy").mkdir()
        _tmpfs(srv / "busy")

    assert run("ls -A /srv/secret; stat -c %a /srv/secret", furnish) == "700\n"


def test_proc_and_sys_are_protected(run: Callable[..., Any]) -> None:
    script = """
    for file in /proc/sys/kernel/hostname /proc/sys/vm/swappiness /proc/sysrq-trigger /sys/kernel/profiling
    do (echo 1 > $file) 2> /dev/null && echo $file; done
    for mount in /sys /proc/sys /proc/sysrq-trigger; do
        mount -o remount,rw,bind $mount 2> /dev/null && echo remounted $mount
        umount $mount 2> /dev/null && echo uncovered $mount
    done
    head -c 1 /proc/kcore 2> /dev/null | wc -c; cat /proc/keys 2> /dev/null | wc -c
    echo 1 > /proc/sys/net/ipv4/ip_forward && cat /proc/sys/net/ipv4/ip_forward
    cat /proc/cmdline
    """
    plan = RootPlan("host-overlay", proc_files={"cmdline": "quiet hostname=inside\n"})
    assert run(script, plan=plan).split("\n") == ["0", "0", "1", "quiet hostname=inside", ""]


def test_devices(run: Callable[..., Any]) -> None:
    said = run("echo lost > /dev/null; head -c 3 /dev/zero | wc -c; ls /dev; test -c /dev/ptmx && echo ptmx")
    assert {"3", "null", "zero", "random", "tty", "pts", "shm", "fd", "stdin", "ptmx"} <= set(said.split())
    assert not {"vda", "sda", "mem", "kmsg"} & set(said.split())


def test_a_root_of_ones_own_has_its_files_and_no_more(tmp_path: Path) -> None:
    plan = small_root(tmp_path / "mine", "sh", "ls", "cat", "df", "touch", files={"/etc/a/b": "text\n"})
    plan = replace(plan, size=1 << 20)

    async def test(client: InitClient) -> Any:
        await client.wait_ready()
        return [
            (await sh(client, "ls / /bin; cat /etc/a/b")).split(),
            await sh(client, "echo x > /bin/new; cat /bin/new"),
            await sh(client, "cat /dev/zero > /root/big; ls -l /root/big"),
            await output_of(client, "/bin/ls", plan.source),
        ]

    inside, write, big, outside = in_kernel(test, tmp_path, plan)
    assert inside[-1] == "text"
    assert {"bin", "etc", "proc", "sys", "tmp", "busybox", "sh"} <= set(inside)
    assert not {"home", "boot", "lib"} & set(inside)
    assert write == "x\n"
    assert not (tmp_path / "mine/bin/new").exists(), "what is written stays in the kernel"
    assert not (tmp_path / "mine/etc").exists()
    assert "No space left" in big
    assert "No such file" in outside
