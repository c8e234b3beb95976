"""Booting machines, and what a kernel is once it has booted."""

import json
import os
import re
from pathlib import Path

import pytest

from popnet.cli import residue
from popnet.control.client import Client
from tests.live.lab import PAIR, Lab, namespaces, nothing_left, wait_until


def test_every_kernel_is_online_with_its_number_and_address(pair: Lab) -> None:
    rows = pair.kernels()
    assert [(row["name"], row["kid"], row["state"], row["generation"]) for row in rows.values()] == [
        ("primary", 0, "online", 1),
        ("k1", 1, "online", 1),
        ("k2", 2, "online", 1),
    ]
    assert [row["ipv4"] for row in rows.values()] == ["10.1.2.1", "10.1.2.2", "10.1.2.3"]


def test_kernels_share_no_namespace_with_the_host_or_each_other(pair: Lab) -> None:
    listing = "for n in user net mnt pid uts ipc cgroup; do readlink /proc/self/ns/$n; done"
    seen = [set(pair.sh(kernel, listing).split()) for kernel in ("primary", "k1", "k2")]
    own = {
        str(Path(f"/proc/self/ns/{name}").readlink()) for name in ("user", "net", "mnt", "pid", "uts", "ipc")
    }
    for one in seen:
        assert len(one) == 7
        assert not one & own
    assert len(set.union(*seen)) == 21


def test_each_daemon_has_a_session_of_its_own_and_programs_are_not_in_it(pair: Lab) -> None:
    rows = pair.kernels()
    daemons = {name: row["pid"] for name, row in rows.items()}
    assert {name: os.getsid(pid) for name, pid in daemons.items()} == daemons
    programs = [process.pid for process in residue.family(daemons["k1"]) if process.pid != daemons["k1"]]
    assert programs
    assert daemons["k1"] not in map(os.getsid, programs), "init leads another"


def test_name_command_line_and_hosts(pair: Lab) -> None:
    assert pair.sh("k1", "uname -n; hostname; cat /etc/hostname").split() == ["k1"] * 3
    command_line = pair.sh("k1", "cat /proc/cmdline")
    assert re.search(r"present_mask=\S+ vty=2 hostname=k1 ip=10\.1\.2\.2", command_line)
    hosts = pair.sh("k2", "cat /etc/hosts")
    for line in ("10.1.2.1 primary", "10.1.2.2 k1", "10.1.2.3 k2", "fd70:6f70:6e65:1::2 k1"):
        assert line in hosts


def test_init_is_pid_1_and_reaps_orphans(pair: Lab) -> None:
    assert pair.sh("k1", "cat /proc/1/comm").strip() == "init"
    pair.sh("k1", "for i in 1 2 3 4 5; do (sleep 0.05 &); done")
    mine = "cat /proc/[0-9]*/stat 2>/dev/null | grep -c '(sleep)'"
    wait_until(lambda: pair.sh("k1", mine, check=False) == "0\n", "the orphans ended, and init reaped them")


def test_a_kernel_sees_its_own_processes_only(pair: Lab) -> None:
    processes = pair.sh("k1", "cat /proc/[0-9]*/comm")
    assert "popnet" not in processes
    assert len(processes.split()) < 10


def test_the_root_is_copy_on_write(pair: Lab) -> None:
    name = f"popnet-test-{os.getpid()}"
    pair.sh("k1", f"echo inside > /etc/{name}; echo inside > /usr/{name}; echo changed > /etc/hostname")
    assert not Path(f"/etc/{name}").exists()
    assert not Path(f"/usr/{name}").exists()
    assert pair.exec("k2", "test", "-e", f"/etc/{name}", check=False).returncode == 1
    assert pair.sh("k1", f"cat /etc/{name}") == "inside\n"
    assert Path("/usr/bin/env").exists()
    pair.exec("k1", "rm", "-f", "/usr/bin/env", check=False)  # an ordinary user may not: it is not theirs
    assert Path("/usr/bin/env").exists()
    pair.sh("k1", f"rm /etc/{name}; echo k1 > /etc/hostname")


def test_root_inside_has_no_power_outside(pair: Lab) -> None:
    attempts = (
        "mount -o remount,rw /proc/sys",
        "umount /proc/sys",
        "umount /sys",
        "mount -o remount,rw /sys",
        "mount -t proc none /mnt",
        "echo 1 > /proc/sys/kernel/panic",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo b > /proc/sysrq-trigger",
        "mknod /tmp/disk b 254 0",
    )
    for attempt in attempts:
        assert pair.exec("k1", "sh", "-c", attempt, check=False).returncode != 0, attempt


def test_root_inside_rules_its_own_network(pair: Lab) -> None:
    pair.sh("k1", "ip link add test0 type veth peer name test1 && ip link del test0")
    pair.sh("k1", "echo 1 > /proc/sys/net/ipv4/ip_forward")


def test_cpus_are_the_partitions(pair: Lab) -> None:
    for name, row in pair.kernels().items():
        shown = pair.sh(name, "grep Cpus_allowed_list /proc/self/status").split()[1]
        assert shown == row["cpus"], name


LIMITED = """\
apiVersion: popnet/v1
name: {name}
kernels:
  k1: {{image: full, memory: 96M}}
  k2: {{image: light}}
"""


def test_memory_is_limited_and_only_the_guilty_kernel_suffers(lab: Lab) -> None:
    lab.up(LIMITED)
    limited = "memory" in _controllers(lab)
    hog = lab.sh("k1", "head -c 300M /dev/zero | tail -c 300M | wc -c", check=False)
    assert (hog.strip() != str(300 << 20)) is limited
    if limited:
        wait_until(lambda: lab.kernels()["k1"]["reason"] == "out of memory", "k1 has failed")
        lab.popnet("boot", "k1")
    else:
        assert "memory" in lab.popnet("dmesg", "k1").stdout
    assert lab.kernels()["k2"]["generation"] == 1
    assert lab.kernels()["k2"]["state"] == "online"
    assert lab.exec("k1", "echo", "there again").stdout == "there again\n"


def _controllers(lab: Lab) -> str:
    """The control group controllers that the machine can use here, as JSON."""
    return json.dumps(Client("lab", run_dir=lab.run_dir).get("/v1/machine")["cgroup_controllers"])


def test_a_light_kernel_has_busybox_one_tty_and_no_sshd(lab: Lab) -> None:
    lab.up(LIMITED)
    row = lab.kernels()["k2"]
    assert (row["image"], row["ttys"], row["ssh"]) == ("light", 1, False)
    assert "BusyBox" in lab.sh("k2", "busybox | head -n 1")
    assert lab.sh("k2", "uname -n; cat /etc/hostname").split() == ["k2", "k2"]
    assert lab.sh("k2", "ls /").split() == sorted(
        ["bin", "dev", "etc", "mnt", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var"]
    )
    refused = lab.popnet("ssh", "k2", "--", "true", check=False)
    assert refused.returncode != 0


def test_up_tells_each_step_and_ps_dmesg_events_timeline_agree(lab: Lab) -> None:
    result = lab.popnet("up", lab.file(PAIR.format(name="lab")))
    assert "k1" in result.stdout + result.stderr
    assert "online" in result.stdout + result.stderr
    steps = [row["step"] for row in json.loads(lab.popnet("-o", "json", "timeline", "k1").stdout)["items"]]
    assert steps[0] == "fork"
    assert {"namespaces", "init", "windows", "check-in", "nic", "cgroup", "root", "ttys", "services"} <= set(
        steps
    )
    assert "eth0: 02:70:6f:70:6e:01, 10.1.2.2, mtu 1500" in lab.popnet("dmesg", "k1").stdout
    texts = [event["text"] for event in lab.events()]
    assert any(re.fullmatch(r"kernel 1: online \(generation 1, \d+ ms\)", text) for text in texts)
    assert "machine lab: up" in texts


def test_kill_and_boot_give_the_next_generation_and_leave_the_others_alone(lab: Lab) -> None:
    lab.up()
    boot_ids = {k: lab.sh(k, "stat -c %i /proc/1/ns/pid") for k in ("primary", "k1")}
    lab.popnet("kill", "k2")
    row = lab.kernels()["k2"]
    assert (row["state"], row["generation"], row["reason"]) == ("offline", 1, "killed")
    refused = lab.popnet("exec", "k2", "--", "true", check=False)
    assert refused.returncode == 125
    assert "k2 is offline" in refused.stderr
    assert "boot k2" in refused.stderr
    lab.popnet("boot", "k2")
    row = lab.kernels()["k2"]
    assert (row["state"], row["generation"]) == ("online", 2)
    lab.ping("k1", "k2")
    lab.ping("k2", "k1")
    assert {k: lab.sh(k, "stat -c %i /proc/1/ns/pid") for k in ("primary", "k1")} == boot_ids


@pytest.mark.parametrize(
    ("verb", "state", "advice"),
    [("boot", "online", "popnet kill k1"), ("kill", "offline", "popnet boot k1")],
)
def test_illegal_moves_are_refused_with_advice(lab: Lab, verb: str, state: str, advice: str) -> None:
    lab.up()
    if state == "offline":
        lab.popnet("kill", "k1")
    result = lab.popnet(verb, "k1", check=False)
    assert result.returncode == 1
    assert state in result.stderr
    assert advice in result.stderr
    assert "Traceback" not in result.stderr


def test_two_machines_side_by_side_do_not_hear_each_other(lab: Lab) -> None:
    lab.up(name="one")
    lab.up(name="two")
    result = lab.popnet("ps", check=False)
    assert result.returncode == 1
    assert "one" in result.stderr
    assert "two" in result.stderr
    lab.popnet("-m", "one", "kill", "k2")
    assert lab.kernels("two")["k2"]["state"] == "online"

    def ping(machine: str, patience_s: int) -> int:
        words = ("-m", machine, "exec", "k1", "--", "ping", "-c1", f"-W{patience_s}", "10.1.2.3")
        return lab.popnet(*words, check=False).returncode

    assert ping("one", 1) == 1
    wait_until(lambda: ping("two", 10) == 0, "k2 of the other machine answers")


def test_a_second_machine_of_one_name_is_refused_and_the_first_lives_on(lab: Lab) -> None:
    lab.up()
    result = lab.popnet("up", lab.file(PAIR.format(name="lab"), "again.yaml"), check=False)
    assert result.returncode == 1
    assert "'lab' is running already" in result.stderr
    assert "--name" in result.stderr
    assert lab.kernels()["k1"]["state"] == "online"
    lab.popnet("up", lab.file(PAIR.format(name="lab"), "again.yaml"), "--name", "other")
    assert lab.machines() == ["lab", "other"]


BAD_INIT = """\
apiVersion: popnet/v1
name: {name}
kernels:
  k1: {{image: full, init: {init}}}
  k2: {{image: full}}
"""


@pytest.mark.parametrize(
    ("init", "reason"),
    [
        ("/bin/true", "init exited with status 0"),
        ("/bin/false", "init exited with status 1"),
        ("/no/such/init", "/no/such/init: No such file or directory"),
        ("/etc/passwd", "/etc/passwd: Permission denied"),
    ],
)
def test_an_init_that_cannot_stay_fails_the_boot_with_the_reason(lab: Lab, init: str, reason: str) -> None:
    result = lab.popnet("up", lab.file(BAD_INIT.format(name="lab", init=init)), check=False)
    assert result.returncode == 1
    assert "k1" in result.stderr
    assert reason in result.stderr
    assert "Traceback" not in result.stderr
    assert lab.machines() == [], "a machine that does not boot leaves nothing"


def test_an_init_of_ones_own_is_pid_1(lab: Lab) -> None:
    script = lab.tmp / "init.sh"
    script.write_text(
        "#!/bin/sh\ntrap 'exit 0' TERM\necho $colour > /run/colour\nwhile :; do sleep 0.1; done\n"
    )
    script.chmod(0o755)
    base = BAD_INIT.format(name="lab", init="/opt/init").replace("init:", "append: colour=blue, init:")
    # The kernel's /tmp is its own: a path that it sees has to be elsewhere.
    home = Path.home() / f".popnet-test-{os.getpid()}"
    home.mkdir()
    try:
        (home / "init").write_text(script.read_text())
        (home / "init").chmod(0o755)
        lab.popnet("up", lab.file(base.replace("/opt/init", str(home / "init"))))
        assert lab.sh("k1", "tr '\\0' ' ' < /proc/1/cmdline").split()[-1] == str(home / "init")
        assert lab.sh("k1", "cat /run/colour") == "blue\n"
    finally:
        (home / "init").unlink()
        home.rmdir()


def test_a_file_with_errors_starts_nothing_and_names_all_of_them(lab: Lab) -> None:
    text = """\
apiVersion: popnet/v1
name: Lab!
kernels:
  k1: {image: ful, memroy: 512M}
  k2: {cpus: 0-9999, ttys: 99}
"""
    path = lab.file(text)
    for verb in ("validate", "up"):
        result = lab.popnet(verb, path, check=False)
        assert result.returncode == 1
        for part in (
            f"{path}:2:",
            "Lab!",
            "'ful'",
            "did you mean 'full'",
            "memroy",
            "did you mean 'memory'",
            f"{path}:5:",
            "9999",
            "99",
        ):
            assert part in result.stderr, part
        assert "Traceback" not in result.stderr
    assert lab.machines() == []


def test_without_busybox_the_light_image_says_what_to_install(lab: Lab) -> None:
    text = "apiVersion: popnet/v1\nname: lab\nkernels:\n  k1: {image: broken}\n"
    image = lab.tmp / "images/broken"
    image.mkdir(parents=True)
    (image / "image.yaml").write_text(
        "apiVersion: popnet/v1\nkind: native\nroot: ramdisk\nprograms: [no-such-program]\n"
    )
    result = lab.popnet("up", lab.file(text), check=False)
    assert result.returncode == 1
    assert "no-such-program" in result.stderr
    assert lab.machines() == []


def test_down_ends_every_process_and_namespace(lab: Lab) -> None:
    before = residue.take(lab.run_dir)
    lab.up()
    running = residue.take(lab.run_dir, lab.kernels()["primary"]["pid"])
    spaces = namespaces(running.processes)
    lab.sh("k1", "sleep 1000 & (trap '' TERM HUP; sleep 1000) &")
    lab.popnet("down")
    nothing_left(before, running, lab.run_dir)
    # The last of them go when Linux has reaped what was in them, a moment after the processes ended.
    mine = namespaces([residue.Process(os.getpid(), 0, "")])
    left = wait_until(lambda: None if (spaces - mine) & _all_namespaces() else spaces, "they are gone")
    assert len(left - mine) >= 3 * 6, "each kernel had its own"


def _all_namespaces() -> set[str]:
    """Those of every process that we may look at, in this test's own session or not."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return namespaces(residue.Process(pid, 0, "") for pid in pids)
