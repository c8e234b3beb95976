"""What may be a name in a machine: of machines, kernels, hosts, programs, services, groups, environment
variables.

Each check returns its text, or raises ValueError saying what is allowed.
"""

import re
from typing import Final

from popnet.core.limits import NAME_LENGTH_MAX

PRIMARY: Final = "primary"
"""The name of kernel 0, always."""

KERNEL_SERVICES: Final = frozenset(
    {
        "exec",
        "dial",
        "capture",
        "inject",
        "tty",
        "trace",
        "modes",
        "watch",
        "impair",
        "partition",
        "jitter",
        "io.files",
    }
)
"""Services of the kernels themselves: programs inside kernels neither use nor offer them. Whoever could open
another kernel's `exec` would be root in it."""

SERVICE_NAME_MAX: Final = 64
"""Letters of the name of a service or a group; the message layer takes no longer ones."""

_MACHINE = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_KERNEL = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?")
_HOSTNAME_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
_HOSTNAME_LENGTH_MAX: Final = 64
"""__NEW_UTS_LEN of Linux."""


def machine_name(text: str) -> str:
    if not _MACHINE.fullmatch(text) or len(text) > NAME_LENGTH_MAX:
        raise ValueError(
            f"got {text!r}; allowed: up to {NAME_LENGTH_MAX} of a-z, 0-9 and -, neither first nor last a -"
        )
    return text


def kernel_name(text: str) -> str:
    """Begins with a letter, so that a number always means a kid."""
    if not _KERNEL.fullmatch(text) or len(text) > NAME_LENGTH_MAX:
        raise ValueError(
            f"got {text!r}; allowed: up to {NAME_LENGTH_MAX} of a-z, 0-9 and -, a letter first and no - last"
        )
    return text


def hostname(text: str) -> str:
    """RFC 1123, dots allowed."""
    if len(text) > _HOSTNAME_LENGTH_MAX or not all(map(_HOSTNAME_LABEL.fullmatch, text.split("."))):
        raise ValueError(
            f"got {text!r}; allowed: up to {_HOSTNAME_LENGTH_MAX} letters, digits, - and ., as host names are"
        )
    return text


def program(text: str) -> str:
    if not text.startswith("/") or text.endswith("/") or not text.isprintable():
        raise ValueError(
            f"got {text!r}; allowed: the absolute path of a program in the image, such as /sbin/init"
        )
    return text


def service(text: str) -> str:
    """A service of programs."""
    if text in KERNEL_SERVICES:
        raise ValueError(f"got {text!r}, which belongs to the kernels themselves; programs may not use it")
    if not 0 < len(text) <= SERVICE_NAME_MAX or not text.isprintable():
        raise ValueError(f"got {text!r}; allowed: a name of 1 to {SERVICE_NAME_MAX} letters")
    return text


def group(text: str) -> str:
    """A group of programs."""
    if not 0 < len(text) <= SERVICE_NAME_MAX or not text.isprintable():
        raise ValueError(f"got {text!r}; allowed: a name of 1 to {SERVICE_NAME_MAX} letters")
    return text


def variable(text: str) -> str:
    if not text.isidentifier() or not text.isascii():
        raise ValueError(f"got {text!r}; allowed: letters, digits and _, with no digit first")
    return text
