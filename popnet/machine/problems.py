"""What is wrong with a file, as values: where, what, and the nearest right word."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

Path = tuple[str, ...]
"""The keys that lead to a value: ("kernels", "k1", "memory"); the empty path is the whole file."""

SYNONYMS: Final = {
    "ram": "memory",
    "mem": "memory",
    "cores": "cpus",
    "vcpus": "cpus",
    "present_mask": "cpus",
    "consoles": "ttys",
    "terminals": "ttys",
    "vty": "ttys",
    "cmdline": "append",
    "environment": "env",
    "id": "kid",
    "sshd": "ssh",
    "nodes": "kernels",
    "latency": "delay",
    "bandwidth": "rate",
    "reordering": "reorder",
    "duplication": "duplicate",
    "corruption": "corrupt",
    "filter": "match",
    "dist": "distribution",
    "network": "subnet",
    "address": "ip",
    "pci_dev_flags": "devices",
}
"""Words of neighbouring tools, and ours for the same thing; for suggestions only."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One error of a file.

    Attributes:
        path: the value it is about.
        text: what is wrong: what was found and what is allowed.
        at_key: it is about the key rather than the value, so point there.
    """

    path: Path
    text: str
    at_key: bool = False


def shown(value: object) -> str:
    """*value* as an error names it, in the words of the file rather than of Python."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case _:
            return repr(value)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of *known* that *word* most probably meant, or None."""
    candidates = list(known)
    plain = word.lower().replace("_", "-")
    by_plain = {candidate.lower().replace("_", "-"): candidate for candidate in candidates}
    if plain in by_plain:
        return by_plain[plain]
    if SYNONYMS.get(word.lower()) in candidates:
        return SYNONYMS[word.lower()]
    matches = difflib.get_close_matches(plain, by_plain, n=1, cutoff=0.6)
    return by_plain[matches[0]] if matches else None


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'memory'?` if something is near, else the list of what is allowed."""
    candidates = list(known)
    guess = nearest(word, candidates)
    if guess is not None:
        return f"; did you mean {guess!r}?"
    return f"; allowed: {', '.join(candidates)}" if candidates else ""
