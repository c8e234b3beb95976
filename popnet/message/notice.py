"""Notices: a kernel or a service came up or went down, as the registry tells it and as it crosses a link."""

from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

from popnet.core.errors import LinkViolation


class Change(Enum):
    """What happened."""

    KERNEL_UP = "kernel-up"
    KERNEL_DOWN = "kernel-down"
    KERNEL_CHANGED = "kernel-changed"
    SERVICE_UP = "service-up"
    SERVICE_DOWN = "service-down"

    @property
    def up(self) -> bool:
        return self in (Change.KERNEL_UP, Change.SERVICE_UP)

    @property
    def opposite(self) -> "Change":
        return _OPPOSITE[self]


_OPPOSITE = {
    Change.KERNEL_UP: Change.KERNEL_DOWN,
    Change.KERNEL_DOWN: Change.KERNEL_UP,
    Change.SERVICE_UP: Change.SERVICE_DOWN,
    Change.SERVICE_DOWN: Change.SERVICE_UP,
}


@dataclass(frozen=True, slots=True)
class Notice:
    """One change.

    Attributes:
        kid, generation: the kernel, or the one that serves.
        name: of the service; of a kernel, its own.
        version, port: of a service; 0 of a kernel. A service that is registered anew has a new port.
        reason: of what went down; of a kernel that changed, what of its partition did.
    """

    change: Change
    kid: int
    generation: int
    name: str
    version: int = 0
    port: int = 0
    reason: str = ""

    @property
    def subject(self) -> str:
        """What patterns are matched with: `kernel/NAME` or `service/NAME`."""
        kernel = self.change not in (Change.SERVICE_UP, Change.SERVICE_DOWN)
        return f"{'kernel' if kernel else 'service'}/{self.name}"

    @property
    def identity(self) -> tuple[int, int, str, int, int]:
        """What comes up once and goes down once."""
        return (self.kid, self.generation, self.subject, self.version, self.port)

    def matches(self, pattern: str) -> bool:
        return fnmatchcase(self.subject, pattern)

    def down(self, reason: str) -> "Notice":
        """The end of what this one tells the beginning of."""
        opposite = self.change.opposite
        return Notice(opposite, self.kid, self.generation, self.name, self.version, self.port, reason)

    def to_json(self) -> list[Any]:
        """[change, kid, generation, name, version, port, reason]."""
        return [
            self.change.value,
            self.kid,
            self.generation,
            self.name,
            self.version,
            self.port,
            self.reason,
        ]

    @classmethod
    def of_json(cls, value: object) -> "Notice":
        """Raises LinkViolation."""
        match value:
            case [str(change), int(kid), int(generation), str(name), int(version), int(port), str(reason)]:
                try:
                    return cls(Change(change), kid, generation, name, version, port, reason)
                except ValueError:
                    raise LinkViolation(f"a notice of an unknown change {change[:40]!r}") from None
        raise LinkViolation("a notice that is none")
