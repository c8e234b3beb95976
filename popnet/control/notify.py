"""Tell the service manager how a machine is: sd_notify(3), with its watchdog, without libsystemd.

Theory of operation. The socket is named by $NOTIFY_SOCKET, and connected before the machine has namespaces of
its own. Whoever makes a `Notifier` takes the variables out of the environment, so that no program in a kernel
speaks for the machine. The watchdog is fed by the event loop of the primary, twice in each of its periods, so
it is fed as long as that loop turns. A manager that is gone or slow holds nothing up: a datagram that is not
taken at once is left out.
"""

import asyncio
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

from popnet.core.errors import Refused

_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Speaks to the service manager that *environment* names; says nothing if it names none.

    Attributes:
        watchdog_s: seconds within which the manager wants to hear of us; None: it does not.

    Raises Refused if the variables are no address and number.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address, period_us, pid = (environment.pop(name, "") for name in _VARIABLES)
        self._socket: socket.socket | None = None
        self._status = ""
        self.watchdog_s: float | None = None
        if not address:
            return
        self._socket = _connect(address)
        if period_us and pid in ("", str(os.getpid())):
            if not period_us.isdecimal() or int(period_us) == 0:
                raise Refused(f"$WATCHDOG_USEC is {period_us!r}, not a number of microseconds")
            self.watchdog_s = int(period_us) / 1e6

    def ready(self) -> None:
        """The machine is up."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """A line for `systemctl status`; said once, as long as it stays the same."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def stopping(self) -> None:
        """The machine goes down."""
        self._send("STOPPING=1")

    def reloading(self) -> None:
        """The machine changes; `ready` tells when it has."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    async def feed(self) -> None:
        """Feed the watchdog until cancelled; returns at once if there is none."""
        while self.watchdog_s is not None:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 2)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is not None:
            try:
                self._socket.send(text.encode(errors="replace"))
            except OSError:
                return  # see the theory of operation


def _connect(address: str) -> socket.socket:
    """*address* is a path, or a name in the abstract space, which begins with @."""
    if address[0] not in "/@":
        raise Refused(f"$NOTIFY_SOCKET is {address!r}, neither a path nor @NAME")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sock.connect("\0" + address[1:] if address[0] == "@" else address)
    except OSError as error:
        sock.close()
        raise Refused(f"$NOTIFY_SOCKET: nobody listens on {address} ({error})") from None
    sock.setblocking(False)
    return sock


def status_text(states: list[str]) -> str:
    """One line on a machine whose kernels are in *states*: `4 kernels: 3 online, 1 failed`."""
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    parts = ", ".join(f"{count} {state}" for state, count in counts.items())
    return f"{len(states)} kernel{'' if len(states) == 1 else 's'}: {parts}"
