"""The command `capture` over ssh, and what Wireshark's sshdump says in its place: `tcpdump`. Pure.

    capture [eth0 | any | k1-k2] [-s BYTES] [-c N] [FILTER]...
    tcpdump [-i eth0] [-s BYTES] [-c N] [-U] [-n] [-p] -w - [FILTER]...

Both send pcapng to stdout.
"""

import shlex
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from popnet.control.capturetargets import ANY, parse_targets
from popnet.core.errors import PopnetError, Refused
from popnet.core.limits import FRAME_SIZE_MAX

NIC: Final = "eth0"
PROGRAMS: Final = ("capture", "tcpdump")

_IGNORED: Final = frozenset("Unpl")
"""Letters of tcpdump's options that change nothing here: we do not buffer, nor look names up."""

_WITH_VALUE: Final = frozenset("iswcB")


@dataclass(frozen=True, slots=True)
class CaptureCommand:
    """What is wanted: *where* as `parse_targets` reads it."""

    where: str
    filter: str = ""
    snap_length: int = 0
    count: int | None = None


def parse_command(command: str, kernel: str, kernels: Collection[str]) -> CaptureCommand | None:
    """The capture that *command*, said to *kernel*, asks for; None if it is another command.

    Raises Refused.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return None  # a shell's business
    if words[:1] and words[0] in ("sudo", "doas") and words[1:2] and words[1] in PROGRAMS:
        words = words[1:]
    if not words or words[0] not in PROGRAMS:
        return None
    options, rest = _options(words[0], words[1:])
    interface = options.get("i", "")
    if not interface and words[0] == "capture" and rest and _is_interface(rest[0], kernels):
        interface = rest.pop(0)
    if words[0] == "tcpdump" and options.get("w") != "-":
        return None  # lines of tcpdump's are tcpdump's: let the kernel run it
    return CaptureCommand(
        where=_where(interface or NIC, kernel, kernels),
        filter=" ".join(rest),
        snap_length=_number(options, "s", FRAME_SIZE_MAX, 262_144),
        count=_number(options, "c", 1 << 62) or None,
    )


def _options(program: str, words: list[str]) -> tuple[dict[str, str], list[str]]:
    found: dict[str, str] = {}
    rest: list[str] = []
    words = list(words)
    while words:
        word = words.pop(0)
        if word == "--":
            return found, rest + words
        if not word.startswith("-") or word == "-":
            rest.append(word)
            continue
        for place, letter in enumerate(word[1:], 2):
            if letter in _WITH_VALUE:
                value = word[place:] or (words.pop(0) if words else "")
                if not value:
                    raise Refused(f"{program}: -{letter} wants a value")
                found[letter] = value
                break
            if letter not in _IGNORED:
                raise Refused(
                    f"{program}: no option {word!r}",
                    "There are -i, -s, -c and -w -, and a filter in tcpdump's language.",
                )
    return found, rest


def _is_interface(word: str, kernels: Collection[str]) -> bool:
    if word == NIC:
        return True
    try:
        return bool(parse_targets(word, kernels))
    except PopnetError:
        return False


def _where(interface: str, kernel: str, kernels: Collection[str]) -> str:
    if interface == NIC:
        return kernel
    if _is_interface(interface, kernels):
        return interface
    raise Refused(
        f"kernel {kernel} has no interface {interface!r}",
        f"it has {NIC}; there are also {ANY} and links such as {kernel}-primary",
    )


def _number(options: dict[str, str], letter: str, most: int, whole: int = 0) -> int:
    """The value of an option; 0 if it is missing, or says *whole* (tcpdump's word for all bytes) or more."""
    text = options.get(letter, "0")
    if not text.isdecimal():
        raise Refused(f"-{letter} wants a number, got {text!r}")
    number = int(text)
    return 0 if whole and number >= whole else min(number, most)
