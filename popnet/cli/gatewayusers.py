"""What a user name means at a gateway, and whose keys open it: one machine, or every one that runs.

k1, k1.tty0                        at the gateway of one machine: a kernel, a terminal of it
student07.k1, student07.k1.tty0    at the gateway of all machines: the machine first
k1                                 there too, as long as only one machine runs
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from popnet.control.client import Client
from popnet.control.rundir import machines, socket_path
from popnet.core.errors import NoSuchMachine, PopnetError
from popnet.tty.authorized import AuthorizedKeys, valid_lines


class Users(Protocol):
    """Attributes:
    host_key: the gateway's private key.
    """

    host_key: str

    def keys(self, user: str) -> str:
        """The keys that let *user* in; the text of an `authorized_keys`."""

    def client(self, user: str) -> tuple[Client, str]:
        """The machine that *user* means, and what of the name is left. Raises NoSuchMachine."""


class OneMachine:
    """The users of the machine that *client* talks to. Raises PopnetError if its keys cannot be read."""

    def __init__(self, client: Client, authorized: AuthorizedKeys) -> None:
        self._client = client
        self._authorized = authorized
        directory = client.socket.parent
        self.host_key = _read(directory / "gateway_key")
        self._own = _read(directory / "authorized_keys")

    def keys(self, user: str) -> str:
        return valid_lines(f"{self._own}\n{self._authorized.of(self._client.machine)}")

    def client(self, user: str) -> tuple[Client, str]:
        return self._client, user


class EveryMachine:
    """The users of every machine in *run_dir*. A machine's own key, and those of the user who runs it, open
    it alone."""

    def __init__(self, run_dir: Path, authorized: AuthorizedKeys, host_key: str) -> None:
        self._run_dir = run_dir
        self._authorized = authorized
        self.host_key = host_key

    def keys(self, user: str) -> str:
        try:
            machine, _ = split(user, machines(self._run_dir))
        except NoSuchMachine:  # whoever may use them all is told so after the login
            return valid_lines(self._authorized.of(None))
        path = socket_path(machine, self._run_dir).with_name("authorized_keys")
        own = path.read_text() if path.is_file() else ""
        return valid_lines(f"{own}\n{self._authorized.of(machine)}")

    def client(self, user: str) -> tuple[Client, str]:
        machine, rest = split(user, machines(self._run_dir))
        return Client(machine, run_dir=self._run_dir), rest


def split(user: str, running: Sequence[str]) -> tuple[str, str]:
    """The machine that *user* means, of those *running*, and the rest of the name. Raises NoSuchMachine."""
    name, _, rest = user.partition(".")
    if name in running:
        return name, rest
    if len(running) == 1:
        return running[0], user
    if not running:
        raise NoSuchMachine("no machine is running")
    hint = f"the user name says which, as {running[0]}.k1; running: {', '.join(running)}"
    raise NoSuchMachine(f"no machine {name!r} is running", hint)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise PopnetError(f"{path}: {error.strerror}") from error
