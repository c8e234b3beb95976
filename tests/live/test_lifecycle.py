"""Lives and deaths at bad moments: nothing hangs, nothing piles up, and the next boot works."""

import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import Any

from popnet.cli import residue
from popnet.control.client import Client
from popnet.core.errors import PopnetError
from tests.live.lab import PAIR, Lab, nothing_left, wait_until


def _client(lab: Lab) -> Client:
    return Client("lab", run_dir=lab.run_dir, timeout_s=20.0)


def _descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_thirty_deaths_and_boots_leave_nothing_in_the_others(lab: Lab) -> None:
    lab.up()
    client = _client(lab)
    pids = [lab.kernels()[name]["pid"] for name in ("primary", "k2")]
    marks: list[tuple[list[int], list[int]]] = []
    for round_ in range(30):
        lab.ping("k2", "k1") if round_ % 5 == 0 else None
        client.post("/v1/kernels/k1/kill")
        client.post("/v1/kernels/k1/boot")
        marks.append(([_descriptors(pid) for pid in pids], [_resident(pid) for pid in pids]))
    # Descriptors of a dead link go with the garbage collector, so they swing, and do not grow.
    for descriptors, resident in marks[10:]:
        assert max(descriptors) < 120
        for before, after in zip(marks[9][1], resident, strict=True):
            assert after - before < 4 << 20
    machine = lab.run_dir / "lab"
    assert (machine / "owner.json").stat().st_size < 4096
    assert list((machine / "mnt").iterdir()) == []


def _post(lab: Lab, verb: str, answers: list[Any]) -> threading.Thread:
    def post() -> None:
        try:
            answers.append((verb, _client(lab).post(f"/v1/kernels/k1/{verb}")["state"]))
        except PopnetError as error:
            answers.append((verb, error.code))

    thread = threading.Thread(target=post)
    thread.start()
    return thread


def test_boot_and_kill_at_the_same_moment(lab: Lab) -> None:
    lab.up()
    client = _client(lab)
    client.post("/v1/kernels/k1/kill")
    for _ in range(12):
        answers: list[Any] = []
        threads = [_post(lab, verb, answers) for verb in ("boot", "kill", "boot", "kill")]
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), answers
        state = client.get("/v1/kernels/k1")["state"]
        assert state in ("online", "offline"), (state, answers)
        if state == "online":
            client.post("/v1/kernels/k1/kill")
    client.post("/v1/kernels/k1/boot")
    lab.ping("k2", "k1")


def test_daemons_killed_while_they_boot(lab: Lab) -> None:
    lab.up()
    client = _client(lab)
    for _ in range(10):
        client.post("/v1/kernels/k1/kill")
        answers: list[Any] = []
        booting = _post(lab, "boot", answers)
        pid = wait_until(lambda: client.get("/v1/kernels/k1")["pid"], "the daemon is forked")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        booting.join(30)
        assert answers, "the boot ends"
        wait_until(lambda: client.get("/v1/kernels/k1")["state"] == "failed", "it has failed")
        client.post("/v1/kernels/k1/boot")


def test_down_while_kernels_boot_and_die(lab: Lab) -> None:
    for _ in range(3):
        before = residue.take(lab.run_dir)
        lab.up()
        running = residue.take(lab.run_dir, lab.kernels()["primary"]["pid"])
        client = _client(lab)
        client.post("/v1/kernels/k1/kill")
        answers: list[Any] = []
        booting = _post(lab, "boot", answers)
        os.kill(lab.kernels()["k2"]["pid"], signal.SIGKILL)
        lab.popnet("down")
        booting.join(30)
        assert answers
        assert lab.machines() == []
        nothing_left(before, running, lab.run_dir)


def test_the_loaders_death_ends_the_machine(lab: Lab) -> None:
    before = residue.take(lab.run_dir)
    lab.up(PAIR)
    primary = lab.kernels()["primary"]["pid"]
    running = residue.take(lab.run_dir, primary)
    loader = next(p for p in residue.family(primary) if p.name == "popnet:loader")
    os.kill(loader.pid, signal.SIGKILL)
    wait_until(lambda: not residue.alive(running.processes), "all processes ended")
    assert lab.machines() == []
    nothing_left(before, running, lab.run_dir)
