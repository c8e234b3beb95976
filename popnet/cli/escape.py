"""The escape sequence of an attached terminal: a pure machine, typed bytes in, bytes to send and actions out.

After the prefix (Ctrl-] unless chosen otherwise): `.` detaches, `?` asks for help, the prefix itself sends
one prefix, and anything else sends both keys, so that no program in the kernel loses a key. A prefix that
ends a chunk is remembered: the two keys of a sequence may come in different reads.
"""

from enum import Enum
from typing import Final

from popnet.core.errors import PopnetError

DEFAULT: Final = "^]"


class Action(Enum):
    DETACH = "detach"
    HELP = "help"


class Escape:
    """Finds escape sequences in typed bytes.

    Args:
        prefix: the byte that starts a sequence; None: there are no sequences, every byte is sent.
    """

    def __init__(self, prefix: int | None) -> None:
        self._prefix = prefix
        self._pending = False

    def feed(self, data: bytes) -> list[bytes | Action]:
        """What to do about *data*, in order. Nothing follows a DETACH: keys typed after it are not sent."""
        if self._prefix is None:
            return [data] if data else []
        parts: list[bytes | Action] = []
        plain = bytearray()
        for byte in data:
            if not self._pending:
                if byte == self._prefix:
                    self._pending = True
                else:
                    plain.append(byte)
                continue
            self._pending = False
            action = {ord("."): Action.DETACH, ord("?"): Action.HELP}.get(byte)
            if action is None:
                plain += bytes((byte,)) if byte == self._prefix else bytes((self._prefix, byte))
                continue
            if plain:
                parts.append(bytes(plain))
                plain.clear()
            parts.append(action)
            if action is Action.DETACH:
                return parts
        if plain:
            parts.append(bytes(plain))
        return parts


def parse(text: str) -> int | None:
    """The prefix byte that *text* names: `^]`, `^A`, `~`, or `none`.

    Raises:
        PopnetError: *text* names no single byte.
    """
    if text == "none":
        return None
    if len(text) == 2 and text[0] == "^" and 0x3F <= ord(text[1].upper()) <= 0x5F:
        return ord(text[1].upper()) ^ 0x40
    if len(text) == 1 and text.isascii():
        return ord(text)
    raise PopnetError(
        f"--escape: {text!r} is no key", "give one character, a control key like ^] or ^A, or none"
    )


def describe(prefix: int) -> str:
    """How people call the key: `Ctrl-]`, or the character."""
    return f"Ctrl-{chr(prefix ^ 0x40)}" if prefix < 0x20 or prefix == 0x7F else chr(prefix)
