"""What every ssh server of popnet allows: keys and nothing else, bytes as they are, no silent clients."""

from typing import Any, Final

KEYS_ONLY: Final[dict[str, Any]] = {
    "public_key_auth": True,
    "password_auth": False,
    "kbdint_auth": False,
    "host_based_auth": False,
    "gss_host": None,
    "encoding": None,
    "line_editor": False,
    "login_timeout": 30,
    "keepalive_interval": 15,
}
"""Options of asyncssh's servers. Seconds: a login may take 30; after 15 of silence a client is asked
whether it is there, and after three such it is given up."""
