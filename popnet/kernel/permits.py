"""What the programs of a kernel may: which services they may use and offer, which groups they may join, which
kinds they may use, which kernels there are.

The rule is the kernel's, the same for all its programs, and asked before anything leaves it. What it refuses
is counted as `forbidden`.
"""

from collections.abc import Callable

from popnet.core.errors import NoSuchKernel, Refused
from popnet.machine.names import KERNEL_SERVICES, SERVICE_NAME_MAX
from popnet.message.kinds import KIND_MAX, USER_FIRST
from popnet.message.notice import Change, Notice
from popnet.program.greeting import Greeting


class Permits:
    """The rule of one kernel.

    Args:
        services: the only services that programs may use and offer; None: all but the kernels' own.
        groups: the only groups that they may join; None: all, or none if *services* are listed.
        count: told the name of what is to be counted.
    """

    def __init__(
        self,
        whoami: Greeting,
        services: tuple[str, ...] | None,
        groups: tuple[str, ...] | None,
        count: Callable[[str], None],
    ) -> None:
        self._whoami = whoami
        self._allowed = None if services is None else frozenset(services)
        if groups is None and services is not None:
            groups = ()
        self._groups = None if groups is None else frozenset(groups)
        self._count = count

    def check_service(self, service: str) -> None:
        own = f"kernel {self._whoami.kernel} does not let its programs use the service {service!r}"
        if service in KERNEL_SERVICES:
            self._count("forbidden")
            raise Refused(own, "it belongs to the kernels themselves")
        if self._allowed is not None and service not in self._allowed:
            self._count("forbidden")
            raise Refused(own, f"add it to `services` of {self._whoami.kernel} in the machine file")
        if not 0 < len(service) <= SERVICE_NAME_MAX:
            raise Refused(f"a service has a name of 1 to {SERVICE_NAME_MAX} letters")

    def check_group(self, group: str) -> None:
        if self._groups is not None and group not in self._groups:
            self._count("forbidden")
            own = f"kernel {self._whoami.kernel} does not let its programs join the group {group!r}"
            raise Refused(own, f"add it to `groups` of {self._whoami.kernel} in the machine file")

    def may_see(self, notice: Notice) -> bool:
        """Whether a program may learn of this change: of every kernel, and of the services that it may
        use."""
        if notice.change not in (Change.SERVICE_UP, Change.SERVICE_DOWN):
            return True
        mine = self._allowed is None or notice.name in self._allowed
        return mine and notice.name not in KERNEL_SERVICES

    def check_kind(self, kind: int) -> None:
        """Kinds have no names, so a kernel with a list of services lets its programs use none."""
        if self._allowed is not None:
            self._count("forbidden")
            own = f"kernel {self._whoami.kernel} lets its programs use listed services only, no kinds"
            raise Refused(own, f"take `services` of {self._whoami.kernel} out of the machine file")
        if not USER_FIRST <= kind <= KIND_MAX:
            self._count("forbidden")
            raise Refused(f"kind {kind} is not for programs", f"kinds from {USER_FIRST} to {KIND_MAX} are")

    def check_kid(self, kid: int) -> None:
        if kid not in self._whoami.kernels.values():
            raise NoSuchKernel(f"machine {self._whoami.machine} has no kernel with the number {kid}")
