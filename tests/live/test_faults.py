"""Trouble: kernels and primaries killed, mad peers, hung kernels; the others do not notice."""

import os
import re
import secrets
import signal
from pathlib import Path

import pexpect

from popnet.cli import residue
from tests.live.lab import PAIR, Lab, nothing_left, wait_until

TRIO = PAIR + "  k3: {{image: light}}\n"


def test_a_kernel_killed_in_a_flood_and_a_console_harms_nobody_else(lab: Lab) -> None:
    lab.up(TRIO)
    server = lab.start("exec", "k2", "--", "iperf3", "-s")
    wait_until(lambda: "5201" in lab.sh("k2", "ss -ltn"), "iperf3 listens")
    command = lab.command("console", "k2")
    console = pexpect.spawn(command[0], command[1:], env=lab.env(), timeout=20, encoding="utf-8")
    console.sendline("echo up-$((1+1)); yes flood")
    console.expect("up-2")
    flood = lab.start("exec", "k1", "--", "iperf3", "-c", "10.1.2.3", "-t", "60")
    beat = lab.start("exec", "k1", "--", "sh", "-c", "while :; do date +%s%N; sleep 0.05; done")
    witness = {k: lab.sh(k, "stat -c %i /proc/1/ns/pid") for k in ("primary", "k1", "k3")}
    try:
        os.kill(lab.kernels()["k2"]["pid"], signal.SIGKILL)
        console.expect(r"k2 died .*waiting for boot")
        row = wait_until(lambda: (r := lab.kernels()["k2"])["state"] == "failed" and r, "k2 has failed")
        assert row["reason"] == "killed by SIGKILL"
        assert {k: lab.sh(k, "stat -c %i /proc/1/ns/pid") for k in witness} == witness
        rows = lab.kernels()
        assert {k: rows[k]["generation"] for k in witness} == dict.fromkeys(witness, 1)
        lab.ping("k1", "k3")
        assert beat.poll() is None
        lab.popnet("boot", "k2")
        console.expect(r"k2 is back, generation 2")
        lab.ping("k1", "k2", "-4")
        reasons = [e["text"] for e in lab.events() if e.get("kernel") == "k2"]
        assert any("failed (killed by SIGKILL)" in text for text in reasons), reasons
    finally:
        console.close(force=True)
        for process in (server, flood, beat):
            process.kill()
            process.communicate()


def test_init_killed_inside_is_a_panic(lab: Lab) -> None:
    lab.up()
    init = next(p for p in residue.family(lab.kernels()["k1"]["pid"]) if p.name == "init")
    os.kill(init.pid, signal.SIGKILL)
    row = wait_until(lambda: (r := lab.kernels()["k1"])["state"] == "failed" and r, "k1 has failed")
    assert "init was killed by SIGKILL" in row["reason"]
    assert "panic" in lab.popnet("dmesg", "k1").stdout
    lab.popnet("boot", "k1")


def test_kernels_stop_by_themselves_when_the_primary_is_killed(lab: Lab) -> None:
    before = residue.take(lab.run_dir)
    lab.up(TRIO)
    lab.sh("k1", "(trap '' HUP TERM; sleep 1000) > /dev/null 2>&1 &")
    primary = lab.kernels()["primary"]["pid"]
    running = residue.take(lab.run_dir, primary)
    assert len(running.processes) >= 9
    # One daemon cannot even notice: the kernel's parent-death signals have to do it.
    os.kill(lab.kernels()["k2"]["pid"], signal.SIGSTOP)
    os.kill(primary, signal.SIGKILL)
    wait_until(lambda: not residue.alive(running.processes), "all processes ended")
    result = lab.popnet("ps", check=False)
    assert result.returncode == 1
    dry = lab.popnet("gc", "--dry-run")
    assert "lab" in dry.stdout
    assert lab.machines() == ["lab"]
    lab.popnet("gc")
    nothing_left(before, running, lab.run_dir)
    lab.up(TRIO)


def test_up_after_a_crash_cleans_up_first(lab: Lab) -> None:
    lab.up()
    first = lab.kernels()["primary"]["pid"]
    running = residue.take(lab.run_dir, first)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not residue.alive(running.processes), "all processes ended")
    lab.up()
    assert lab.kernels()["primary"]["pid"] != first


def test_a_hung_kernel_is_told_and_may_recover(lab: Lab) -> None:
    lab.up()
    pid = lab.kernels()["k1"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: any(e["kind"] == "kernel.hung" for e in lab.events()), "the hang is told")
        lab.ping("k2", "primary")
        assert lab.kernels()["k1"]["hung"] is True
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: any(e["kind"] == "kernel.recovered" for e in lab.events()), "the recovery is told")
    lab.ping("k1", "k2")


def test_a_window_filled_with_random_bytes_closes_that_link_only(lab: Lab) -> None:
    """k1 goes mad towards k2: the test scribbles over its window for k2 while it stands still."""
    lab.up(TRIO)
    lab.ping("k1", "k2", "-4")
    pid = lab.kernels()["k1"]["pid"]
    pattern = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw-s \S+ \S+ \S+\s+/memfd:popnet-window-1-2", re.M)
    areas = wait_until(lambda: pattern.findall(Path(f"/proc/{pid}/maps").read_text()), "k1 has a link to k2")
    os.kill(pid, signal.SIGSTOP)
    try:
        with open(f"/proc/{pid}/mem", "wb", buffering=0) as memory:
            for start, end in areas:
                memory.seek(int(start, 16))
                memory.write(secrets.token_bytes(int(end, 16) - int(start, 16)))
        lab.exec("k2", "ping", "-4", "-c1", "-W1", "k1", check=False)
        wait_until(
            lambda: [e for e in lab.events() if e["kind"] == "link.closed" and e["kernel"] == "k2"],
            "k2 closes its link to k1",
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    rows = lab.kernels()
    states = {name: (row["state"], row["generation"]) for name, row in rows.items()}
    assert states == dict.fromkeys(("primary", "k1", "k2", "k3"), ("online", 1))
    lab.ping("k2", "k3")
    lab.ping("primary", "k2")
    assert lab.exec("k1", "echo", "alive").stdout == "alive\n"


def test_twenty_rounds_of_up_and_down_leave_the_host_as_it_was(lab: Lab) -> None:
    before = residue.take(lab.run_dir)
    for _ in range(20):
        lab.up(TRIO)
        running = residue.take(lab.run_dir, lab.kernels()["primary"]["pid"])
        lab.popnet("down")
        nothing_left(before, running, lab.run_dir)


def test_ten_rounds_of_up_kill_and_gc_leave_the_host_as_it_was(lab: Lab) -> None:
    before = residue.take(lab.run_dir)
    for _ in range(10):
        lab.up(TRIO)
        primary = lab.kernels()["primary"]["pid"]
        running = residue.take(lab.run_dir, primary)
        os.kill(primary, signal.SIGKILL)
        wait_until(lambda p=running.processes: not residue.alive(p), "all processes ended")
        lab.popnet("gc")
        nothing_left(before, running, lab.run_dir)
