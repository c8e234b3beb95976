"""The errors of popnet: what went wrong, with what, and what to do. Users see `str(error)` and `error.hint`,
never a traceback."""

from __future__ import annotations

TYPE_CHECKING = False  # not from typing: every command loads this module, and that import alone costs 3 ms
if TYPE_CHECKING:
    from typing import Any


class PopnetError(Exception):
    """Base of every error that popnet raises on purpose.

    Attributes:
        hint: what the user can do about it, one sentence; empty if there is nothing to say.
    """

    code: str = "error"
    """The error's name on the control API: stable, lower case, words joined by hyphens."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class InvalidMachineFile(PopnetError):
    """A machine file that cannot be booted; the message lists every error, one a line, as `file:line:column:
    ...`."""

    code = "invalid-machine-file"


class NoSuchMachine(PopnetError):
    code = "no-such-machine"


class NoSuchKernel(PopnetError):
    code = "no-such-kernel"


class NoSuchTerminal(PopnetError):
    code = "no-such-terminal"


class NoSuchService(PopnetError):
    """The peer serves nothing of that name."""

    code = "no-such-service"


class IllegalState(PopnetError):
    """The kernel is not in a state in which this can be done."""

    code = "illegal-state"


class BrokenImage(PopnetError):
    """An image whose root cannot be one: no archive, cut off, without an init, for another processor."""

    code = "broken-image"
    step = "image"  # of a boot


class BootFailed(PopnetError):
    """A kernel did not come online; the message names the step and the reason."""

    code = "boot-failed"


class PeerDied(PopnetError):
    """The kernel at the other end is gone, or another generation of it runs now."""

    code = "peer-died"


class LinkViolation(PopnetError):
    """The peer wrote nonsense into its window; the link is closed."""

    code = "link-violation"


class StreamClosed(PopnetError):
    """The stream was closed, by the peer or by this end."""

    code = "stream-closed"


class Refused(PopnetError):
    """The other end understood the request and refused it (bad parameters, no permission, busy).

    Attributes:
        result: what the refuser says beside the text, JSON-able: `exec` puts its exit status here.
    """

    code = "refused"

    def __init__(self, message: str, hint: str = "", result: dict[str, Any] | None = None) -> None:
        super().__init__(message, hint)
        self.result: dict[str, Any] = result or {}


class NoSuchProgram(Refused):
    """The kernel has no program of that name; shells and docker say 127."""

    code = "not-found"


class NotExecutable(Refused):
    """The file is there, but cannot be executed; shells and docker say 126."""

    code = "not-executable"


class DeadlineExceeded(PopnetError):
    """No answer came in the time the caller gave; the other end may still do what was asked."""

    code = "deadline-exceeded"


class Overloaded(PopnetError):
    """Too much waits already, here or at the other end; nothing was done, and trying again later may work."""

    code = "overloaded"


class Unavailable(PopnetError):
    """The host lacks something that is needed; `popnet doctor` tells how to get it."""

    code = "unavailable"


def by_code(code: str, message: str, hint: str = "") -> PopnetError:
    """The error that *code* names, or a plain PopnetError: how errors cross the control API and the links."""
    return _BY_CODE.get(code, PopnetError)(message, hint)


_BY_CODE: dict[str, type[PopnetError]] = {
    kind.code: kind
    for kind in (
        InvalidMachineFile,
        NoSuchMachine,
        NoSuchKernel,
        NoSuchTerminal,
        NoSuchService,
        NoSuchProgram,
        NotExecutable,
        IllegalState,
        BrokenImage,
        BootFailed,
        PeerDied,
        LinkViolation,
        StreamClosed,
        Refused,
        DeadlineExceeded,
        Overloaded,
        Unavailable,
    )
}
