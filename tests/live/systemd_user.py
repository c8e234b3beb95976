"""A systemd of our own, to run units with: a user manager in namespaces, and in a control group, of its own.

Run by root as `unshare --mount --pid --fork --kill-child --mount-proc python -m tests.live.systemd_user
DIRECTORY GROUP`. It prints `ready` and then takes a line of words for systemctl at a time from stdin; each is
answered by a line of JSON, [status, stdout, stderr]. At the end of stdin everything ends.

A manager moves all processes of the group that it finds itself in, so it gets a group, named GROUP, in each
tree, and a cgroup namespace of its own; whoever ran us removes the groups. DIRECTORY/units has the units,
DIRECTORY/runtime is its $XDG_RUNTIME_DIR.
"""

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

CLONE_NEWCGROUP: Final = 0x02000000
MANAGER: Final = "/lib/systemd/systemd"


def own_groups(name: str) -> list[tuple[str, Path]]:
    """Enter a new group in every tree; (options to mount it by, where it is mounted)."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, tail = line.partition(" - ")
        kind, _source, options = tail.split()[:3]
        if kind not in ("cgroup", "cgroup2"):
            continue
        mounted = Path(fields.split()[4])
        group = mounted / name
        group.mkdir(exist_ok=True)
        if (group / "cpuset.cpus").exists() and not (group / "cpuset.cpus").read_text().strip():
            for what in ("cpus", "mems"):
                (group / f"cpuset.{what}").write_text((mounted / f"cpuset.effective_{what}").read_text())
        (group / "cgroup.procs").write_text("0")
        words = [word for word in options.split(",") if word not in ("rw", "ro", "nsdelegate", "xattr")]
        found.append((f"{kind} {','.join(words)}", mounted))
    return found


def main(directory: Path, group: str) -> None:
    """See above."""
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    groups = own_groups(group)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWCGROUP) != 0:
        raise OSError(ctypes.get_errno(), "cannot have a cgroup namespace")
    for how, mounted in groups:
        kind, _, options = how.partition(" ")
        subprocess.run(["umount", str(mounted)], check=True)
        subprocess.run(
            ["mount", "-t", kind, *(["-o", options] if options else []), "cgroup", str(mounted)], check=True
        )
    Path("/run/systemd").mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run/systemd"], check=True)
    Path("/run/systemd/system").mkdir()  # as if booted by it
    env: dict[str, Any] = {
        **os.environ,
        "XDG_RUNTIME_DIR": str(directory / "runtime"),
        "SYSTEMD_UNIT_PATH": f"{directory / 'units'}:/usr/lib/systemd/user",
        "HOME": str(directory),
    }
    (directory / "runtime").mkdir(mode=0o700, exist_ok=True)
    with open(directory / "systemd.log", "wb") as log:
        manager = subprocess.Popen(
            [MANAGER, "--user", "--log-target=console"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    while not (directory / "runtime/systemd/private").exists():
        if manager.poll() is not None:
            sys.exit((directory / "systemd.log").read_text())
        time.sleep(0.02)
    print("ready", flush=True)
    for line in sys.stdin:
        done = subprocess.run(
            ["systemctl", "--user", *line.split()], env=env, capture_output=True, text=True, check=False
        )
        print(json.dumps([done.returncode, done.stdout, done.stderr]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
