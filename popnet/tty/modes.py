"""The terminal modes that an ssh client asks for, put on a pty: RFC 4254 section 8, and IUTF8 of RFC 8160."""

import termios
from collections.abc import Mapping
from typing import Any, Final

_IUTF8: Final = 0x4000
"""asm-generic/termbits.h; Python's termios does not name it."""

_DISABLED: Final = 255
"""The value of a control character that no key shall have; Linux says NUL."""


def _opcodes(first: int, names: str) -> dict[int, int]:
    """Opcodes from *first* on, to this system's constants; a name it does not have, or `-`, is left out."""
    known = {"IUTF8": _IUTF8, **vars(termios)}
    return {first + step: known[name] for step, name in enumerate(names.split()) if name in known}


_CHARACTERS: Final = _opcodes(
    1,
    "VINTR VQUIT VERASE VKILL VEOF VEOL VEOL2 VSTART VSTOP VSUSP - VREPRINT VWERASE VLNEXT - VSWTC -"
    " VDISCARD",
)
_FLAGS: Final = {  # by their index in a termios list
    0: _opcodes(30, "IGNPAR PARMRK INPCK ISTRIP INLCR IGNCR ICRNL IUCLC IXON IXANY IXOFF IMAXBEL IUTF8"),
    1: _opcodes(70, "OPOST OLCUC ONLCR OCRNL ONOCR ONLRET"),
    3: _opcodes(50, "ISIG ICANON XCASE ECHO ECHOE ECHOK ECHONL NOFLSH TOSTOP IEXTEN ECHOCTL ECHOKE PENDIN"),
}


def apply(attributes: list[Any], modes: Mapping[int, int]) -> list[Any]:
    """A termios list (as of `termios.tcgetattr`) with *modes*, opcode to value, put on.

    Unknown ones are ignored. Speed, parity and character size mean nothing on a pty and are left alone.
    """
    changed = [*attributes[:6], list(attributes[6])]
    for opcode, value in modes.items():
        if opcode in _CHARACTERS:
            changed[6][_CHARACTERS[opcode]] = bytes((0 if value == _DISABLED else value & 0xFF,))
        for index, flags in _FLAGS.items():
            flag = flags.get(opcode, 0)
            changed[index] = changed[index] | flag if value else changed[index] & ~flag
    return changed


def ends_input(attributes: list[Any]) -> bytes:
    """What to type for an end of file: the key for it while the terminal works by lines, else nothing."""
    key: bytes = attributes[6][termios.VEOF]
    return key if attributes[3] & termios.ICANON else b""
