"""Whose keys let in at a gateway: files, directories and environment variables, read at each login.

A source is the path of a file in the format of `authorized_keys`, which opens every machine; a directory, in
which `authorized_keys` opens every machine and `NAME.pub` the machine NAME alone; or `$NAME`, an environment
variable with the text of such a file. Read at each login, so keys come and go without a restart. A line that
is no key lets nobody in, and stops no other line; `problems` tells of it, by place and number.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from popnet.core.errors import Refused
from popnet.machine.gatewayspec import variable_of
from popnet.tty.keys import is_authorized_line as is_key

FOR_ALL: Final = "authorized_keys"
_SIZE_MAX: Final = 1 << 20
"""Bytes of a file of keys: some ten thousand of them."""


class AuthorizedKeys:
    """The keys of *sources*, with variables from *environment*, and relative paths from *directory*.

    Attributes:
        sources: those, with absolute paths.

    Raises:
        Refused: a source does not exist, or cannot be read; names it.
    """

    def __init__(self, sources: Sequence[str], environment: Mapping[str, str], directory: Path) -> None:
        self._environment = environment
        self.sources = [
            source if variable_of(source) else str(directory / Path(source).expanduser())
            for source in sources
        ]
        for source in self.sources:
            self._check(source)

    def of(self, machine: str | None) -> str:
        """The text of the keys that open *machine*; None: those that open any."""
        return "\n".join(text for _, text in self._texts(machine))

    def problems(self) -> list[str]:
        """Each line that is no key, with its place."""
        return [
            f"{place}:{number}: no public key as in authorized_keys; it lets nobody in"
            for place, text in self._texts(None, everything=True)
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip() and not line.lstrip().startswith("#") and not is_key(line)
        ]

    def empty(self) -> bool:
        """Whether there is no key at all."""
        return not any(map(is_key, "\n".join(text for _, text in self._texts(None, True)).splitlines()))

    def _texts(self, machine: str | None, everything: bool = False) -> list[tuple[str, str]]:
        found = []
        for source in self.sources:
            if name := variable_of(source):
                found.append((source, self._environment.get(name, "")))
                continue
            path = Path(source)
            files = [path]
            if path.is_dir():
                own = sorted(path.glob("*.pub")) if everything else [path / f"{machine}.pub"] * bool(machine)
                files = [path / FOR_ALL, *own]
            found += [(str(file), _read(file)) for file in files if file.is_file()]
        return found

    def _check(self, source: str) -> None:
        name = variable_of(source)
        if name is not None:
            if name not in self._environment:
                raise Refused(f"{source}: there is no environment variable {name}", "set it to public keys")
        elif not Path(source).exists():
            hint = "make it: one public key a line, such as ~/.ssh/id_ed25519.pub holds"
            raise Refused(f"{source}: no such file or directory", hint)
        elif not os.access(source, os.R_OK):
            raise Refused(f"{source}: permission denied", "who starts the gateway must be able to read it")


def valid_lines(text: str) -> str:
    """The lines of *text* that are keys."""
    return "".join(line + "\n" for line in text.splitlines() if is_key(line))


def _read(file: Path) -> str:
    """The text of *file*; none if it cannot be read any more."""
    try:
        with file.open("rb") as opened:
            return opened.read(_SIZE_MAX).decode(errors="replace")
    except OSError:
        return ""
