"""What is said about a gateway: where it listens, and whose keys let in. Pure.

Whoever logs in is root in the kernels, so an address that others can reach is only taken when it was asked
for beside the address: in a container, say, where a published port needs one.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

LISTEN_ALLOWED: Final = "127.0.0.1:PORT, [::1]:PORT, or the path of a unix socket"
KEYS_ALLOWED: Final = "the path of a file or directory with public keys, or $NAME for an environment variable"

_VARIABLE = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class GatewaySpec:
    """The gateway that a machine starts itself.

    Attributes:
        listen: an address that `tcp_address` takes, or the absolute path of a unix socket.
        authorized_keys: files, directories, and variables (`$NAME`) with the keys that let in.
        public: whether others than this host may reach the address.
    """

    listen: str
    authorized_keys: tuple[str, ...] = ()
    public: bool = False


def tcp_address(text: str, public: bool, ask: str) -> tuple[str, int]:
    """Address and port of such as `127.0.0.1:2222`; only this host's own, unless *public*.

    Args:
        ask: how a user asks for an address that others can reach, such as "public: true".

    Raises ValueError saying what is allowed.
    """
    host, _, port = text.rpartition(":")
    wrong = f"got {text!r}; allowed: {LISTEN_ALLOWED}"
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        raise ValueError(wrong) from None
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError(wrong)
    if not address.is_loopback and not public:
        raise ValueError(f"{wrong}; others can reach {address}: if they shall, say {ask}")
    return str(address), int(port)


def variable_of(source: str) -> str | None:
    """The name of the environment variable that *source* stands for; None if it is a path."""
    return source[1:] if _VARIABLE.fullmatch(source) else None


def check_source(text: str) -> str:
    """*text*, if it can be a source of keys. Raises ValueError saying what is allowed."""
    if not text or "\0" in text or (text.startswith("$") and variable_of(text) is None):
        raise ValueError(f"got {text!r}; allowed: {KEYS_ALLOWED}")
    return text
