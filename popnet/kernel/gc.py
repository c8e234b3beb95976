"""Clean up after machines whose primary was killed: exactly what their ownership record proves to be theirs,
nothing else."""

import json
import os
import select
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from popnet.kernel import linux, owner


def collect(run_dir: Path, dry_run: bool = False) -> list[dict[str, Any]]:
    """Remove what dead machines below *run_dir* left behind; returns one row a thing: machine, kind, what,
    done (bool), reason.

    A directory is a machine's only if it has an ownership record. Machines with a living primary are left
    alone.
    """
    rows: list[dict[str, Any]] = []
    if run_dir.is_dir():
        for directory in sorted(run_dir.iterdir()):
            if (directory / "lock").is_file() and not owner.is_alive(directory):
                rows += collect_machine(directory, dry_run)
    return rows


def collect_machine(directory: Path, dry_run: bool = False) -> list[dict[str, Any]]:
    """Remove what the dead machine of *directory* left behind, and the directory; rows as `collect` returns
    them."""
    record = _read_record(directory)
    actions: list[tuple[str, str, Callable[[], None]]] = []
    if record.get("boot_id") == owner.boot_id():
        actions += [
            ("process", str(process["pid"]), partial(_kill, process))
            for process in record.get("processes", [])
            if _is_same_process(process)
        ]
        # Deepest first: a control group goes only after its children.
        actions += [
            ("cgroup", path, partial(_remove_cgroup, Path(path)))
            for path in sorted(record.get("cgroups", []), key=len, reverse=True)
            if "popnet-" in path and Path(path).is_dir()
        ]
    actions.append(("directory", str(directory), partial(shutil.rmtree, directory)))
    return [{"machine": directory.name, **_act(*action, dry_run)} for action in actions]


def _read_record(directory: Path) -> dict[str, Any]:
    try:
        record = json.loads((directory / "owner.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}  # killed before its first record: nothing was made outside the directory yet
    return record if isinstance(record, dict) else {}


def _act(kind: str, what: str, action: Callable[[], None], dry_run: bool) -> dict[str, Any]:
    row = {"kind": kind, "what": what, "done": False, "reason": "dry run" if dry_run else ""}
    if not dry_run:
        try:
            action()
            row["done"] = True
        except OSError as error:
            row["reason"] = str(error)
    return row


def _is_same_process(process: dict[str, Any]) -> bool:
    start_time = process.get("start_time")
    return start_time is not None and linux.process_start_time(process["pid"]) == start_time


def _kill(process: dict[str, Any]) -> None:
    """Kill by pidfd, looked at again once it is held: no other process can be hit."""
    fd = os.pidfd_open(process["pid"])
    try:
        if _is_same_process(process):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            _wait_ended(fd)
    finally:
        os.close(fd)


def _wait_ended(pidfd: int) -> None:
    select.select([pidfd], [], [], 5.0)


def _remove_cgroup(directory: Path) -> None:
    """End what is left in a machine's control group, then remove it."""
    deadline = time.monotonic() + 5.0
    while True:
        for pid in (directory / "cgroup.procs").read_text().split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            directory.rmdir()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
