"""Where to capture: `k1` (a NIC), `k1-k2` (a link, seen from k1), `any`, or several with commas. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from popnet.core.errors import NoSuchKernel, Refused

TYPE_CHECKING = False  # not from typing: that import alone would cost 3 ms
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Final

ANY: Final = "any"
"""Every kernel of the machine, those that are booted later too; tcpdump's word."""


@dataclass(frozen=True, slots=True)
class Target:
    """One interface to capture at.

    Attributes:
        kernel: at whose NIC.
        peer: only frames between that kernel and this one; None: all.
    """

    kernel: str
    peer: str | None = None

    @property
    def interface(self) -> str:
        """What readers show."""
        return f"{self.kernel}/eth0" if self.peer is None else f"{self.kernel}-{self.peer}"


def parse_targets(text: str, kernels: Collection[str]) -> list[Target]:
    """What *text* means in a machine of these kernels, each target once; a kernel's own name comes first.

    Raises NoSuchKernel, and Refused for what is ambiguous or no link.
    """
    found: dict[Target, None] = {}
    for word in text.split(","):
        if word == ANY and ANY not in kernels:
            found |= dict.fromkeys(map(Target, kernels))
        else:
            found[_target(word, kernels)] = None
    return list(found)


def link(kernel: str, peer: str, kernels: Collection[str]) -> Target:
    """The link between two kernels, seen from the first. Raises NoSuchKernel, Refused."""
    for name in (kernel, peer):
        if name not in kernels:
            raise NoSuchKernel(f"no kernel {name!r} in this machine", f"it has {', '.join(kernels)}")
    if kernel == peer:
        raise Refused(f"{kernel}-{peer} is no link: it has one end", "Name two kernels.")
    return Target(kernel, peer)


def _target(word: str, kernels: Collection[str]) -> Target:
    if word in kernels:
        return Target(word)
    parts = word.split("-")
    splits = [("-".join(parts[:cut]), "-".join(parts[cut:])) for cut in range(1, len(parts))]
    ends = [(first, second) for first, second in splits if first in kernels and second in kernels]
    if len(ends) > 1:
        ways = " or ".join(f"{first} and {second}" for first, second in ends)
        raise Refused(f"{word!r} may be the link between {ways}", "Say --link with the two names.")
    if ends:
        return link(*ends[0], kernels)
    raise NoSuchKernel(
        f"no kernel {word!r} in this machine",
        f"it has {', '.join(kernels)}; a link is two of them joined by -, `any` is all",
    )
