"""No service of a kernel itself is for programs: a new one that nobody reserved fails here."""

import re
from pathlib import Path

from popnet.machine.names import KERNEL_SERVICES

SOURCES = Path(__file__).parents[2] / "popnet"


def served() -> set[str]:
    names = set()
    for package in ("kernel", "tty", "net"):
        for file in (SOURCES / package).glob("*.py"):
            names |= set(re.findall(r"endpoint\.serve\(\s*\"([^\"]+)\"", file.read_text()))
    return names


def test_every_service_of_a_kernel_is_reserved() -> None:
    assert served() >= {"exec", "dial", "capture", "inject", "tty"}, "the search finds them"
    assert served() <= KERNEL_SERVICES


def test_those_in_the_documentation_are() -> None:
    text = (SOURCES.parent / "docs/messages.md").read_text()
    table = text[text.index("| service | at |") :].split("\n\n")[0]
    names = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    assert "exec" in names
    assert names <= KERNEL_SERVICES
