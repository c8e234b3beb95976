"""How many file descriptors the processes of a machine may have open: enough, or it is not booted.

A daemon that runs out of them in the middle of a boot can neither go on nor tell much. Each kernel costs the
primary a handover, a pidfd, the peer's doorbells and a client now and then; it costs every other kernel about
as much once there is a link.
"""

import resource
from typing import Final

from popnet.core.errors import Refused

BASE: Final = 64
"""Descriptors that a primary, or a kernel, has open by itself, with room for clients and captures."""

EACH: Final = 8
"""Descriptors more for each kernel of the machine."""


def provide(kernels: int) -> None:
    """Let this process and its children have as many as a machine of so many *kernels* needs: a lower soft
    limit is raised. Raises Refused if the host allows less."""
    needed = BASE + EACH * kernels
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        text = f"a machine of {kernels} kernels needs {needed} file descriptors, and it may have {hard}"
        raise Refused(text, f"allow more: `ulimit -n {needed}`, or nofile in /etc/security/limits.conf")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
