"""`python as_user.py COMMAND...`: run COMMAND as an ordinary user without any power.

For tests that run as root. The command gets a user namespace that knows one uid only: 1000 in there is root
outside, so files stay readable, while popnet finds neither uid 0 nor capabilities, nor any control group.
"""

import os
import sys
from pathlib import Path

from popnet.kernel import linux

uid, gid = os.geteuid(), os.getegid()
linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
Path("/proc/self/setgroups").write_text("deny")
Path("/proc/self/uid_map").write_text(f"1000 {uid} 1")
Path("/proc/self/gid_map").write_text(f"1000 {gid} 1")
if Path("/sys/fs/cgroup").is_dir():
    linux.mount("none", "/sys/fs/cgroup", "tmpfs", linux.MS_RDONLY)
os.execvp(sys.argv[1], sys.argv[1:])
