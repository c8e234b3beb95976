"""Have the calling thread's turn come soon, while others keep the CPUs busy: for who passes keystrokes on.

Linux's scheduler (EEVDF) gives every thread the same share, and the one whose turn would end first its turn
first. So a thread that asks for shorter turns, as it never needs a long one, waits less for them, and takes
no more of the CPU than before. Any user may ask (sched_setattr; Linux 6.12 and later know it, others ignore
it).

Beside that, the host may share its CPUs between sessions first and threads second (autogroup). So a daemon
has a session of its own, or all kernels of a machine would have as much together as one program in one of
them; and if it may, that session goes before others, as the host's own work on frames (its softirqs) always
does.
"""

import os
import struct
from pathlib import Path
from typing import Final

TURN_NS: Final = 100_000
"""The shortest that the scheduler takes, far longer than the work of a keystroke."""

_NUMBER: Final = {"x86_64": 314, "aarch64": 274, "riscv64": 274}
_ATTRIBUTES: Final = struct.Struct("=IIQiIQQQ")
"""struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period."""

_RESET_ON_FORK: Final = 1
"""What we start, programs and the pump's thread, takes its turns as others do."""


SESSION_NICE: Final = -5
"""Of a daemon's session: its share is three times an ordinary one. With -10, nine times, keys fare no better,
and who reads a capture starves beside the pumps that fill it."""


def lead_session() -> bool:
    """Have this process's session go before others. False: it is not its leader, or the host does not let
    us."""
    if os.getsid(0) != os.getpid():
        return False
    try:
        Path("/proc/self/autogroup").write_text(str(SESSION_NICE))
    except OSError:
        return False
    return True


def take_short_turns() -> bool:
    """False: this host does not let us, or its administrator chose how this process is scheduled."""
    number = _NUMBER.get(os.uname().machine)
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    import ctypes  # here, for commands without a keyboard start faster without it

    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, _RESET_ON_FORK, nice, 0, TURN_NS, 0, 0)
    return bool(ctypes.CDLL(None).syscall(number, 0, attributes, 0) == 0)
