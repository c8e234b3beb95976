"""What secondary kernels report to the primary: check-in, online, violations, log lines; and their terminals.

The primary does not trust kernels. A report that is none is a LinkViolation, which ends the link; texts are
cut, and each counts for the kernel whose link it came by, whatever it says.
"""

from collections.abc import Callable
from typing import Any, Final

from popnet.core import limits
from popnet.core.errors import LinkViolation, NoSuchTerminal
from popnet.kernel import logs
from popnet.kernel.entry import Entry
from popnet.kernel.roster import Roster
from popnet.kernel.timeline import checked_rows
from popnet.machine.units import approximate_size
from popnet.message import codec
from popnet.message.endpoint import Endpoint
from popnet.message.kinds import Kind
from popnet.message.stream import Stream

_LEVEL_MAX: Final = 16
"""Letters kept of the level of a line of a log."""


class Reports:
    """Takes the reports of the kernels of *roster*.

    Args:
        event: takes (kind, kernel, text).
        online: takes a kernel that says it is online, and the rows of its boot timeline.
    """

    def __init__(
        self,
        roster: Roster,
        event: Callable[[str, Entry, str], None],
        online: Callable[[Entry, list[dict[str, Any]]], None],
    ) -> None:
        self._roster = roster
        self._event = event
        self._online = online

    def start(self, endpoint: Endpoint) -> None:
        """Take those that come to *endpoint*, from now on."""
        endpoint.on(Kind.CHECK_IN, self._check_in)
        endpoint.on(Kind.EVENT, self._kernel_event)
        endpoint.on(Kind.LOG, self._kernel_log)
        endpoint.serve("tty", self._serve_tty)

    def _check_in(self, kid: int, body: bytes) -> None:
        match codec.json_object(body):
            case {"kid": int(who), "generation": int(), "pid": int()} if who == kid:
                self._event("kernel.check-in", self._roster.by_kid[kid], f"kernel {kid}: checked in")
            case unknown:
                raise LinkViolation(f"kernel {kid} checked in as {str(unknown)[:80]}")

    def _kernel_event(self, kid: int, body: bytes) -> None:
        kernel = self._roster.by_kid[kid]
        match codec.json_object(body):
            case {"online": True, "timeline": list(timeline)}:
                self._online(kernel, checked_rows(timeline))
            case {"out_of_memory": True}:
                self._event("kernel.out-of-memory", kernel, f"kernel {kid}: {_memory_text(kernel)}")
            case {"violation": str(reason), "peer": int(peer)}:
                text = f"kernel {kid}: link to kernel {peer} closed: {reason[: limits.REPORT_TEXT_MAX]}"
                self._event("link.closed", kernel, text)
            case unknown:
                raise LinkViolation(f"kernel {kid} told an event that is none: {str(unknown)[:80]}")

    def _kernel_log(self, kid: int, body: bytes) -> None:
        match codec.json_object(body):
            case {"time_s": int() | float() as time_s, "level": str(level), "text": str(text)}:
                kernel = self._roster.by_kid[kid]
                cut = {"level": level[:_LEVEL_MAX], "text": text[: limits.REPORT_TEXT_MAX]}
                kernel.log.append({"generation": kernel.life.generation, "time_s": time_s, **cut})
                logs.dmesg(kernel.spec.name, kernel.life.generation, cut["level"], cut["text"])
            case unknown:
                raise LinkViolation(f"kernel {kid} logged what is no line: {str(unknown)[:80]}")

    async def _serve_tty(self, stream: Stream) -> None:
        kernel, n = self._roster.by_kid[stream.peer], stream.params.get("n")
        if not isinstance(n, int) or not 0 <= n < len(kernel.terminals):
            raise NoSuchTerminal(f"kernel {kernel.spec.name} has no terminal {n!r}")
        await kernel.terminals[n].run(stream, stream.params.get("generation"))


def _memory_text(kernel: Entry) -> str:
    limit = kernel.spec.memory_bytes
    return f"out of memory: it has used all of its {approximate_size(limit)}" if limit else "out of memory"
