"""Verdicts of checks as JUnit XML, which CI systems read. Pure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

if TYPE_CHECKING:
    from popnet.cli.check import Verdict


def junit_text(machine: str, verdicts: "Sequence[Verdict]") -> str:
    """One suite, named as the *machine*; a case for each check in each kernel."""
    failed = sum(not verdict.ok for verdict in verdicts)
    whole_s = sum(verdict.took_s for verdict in verdicts)
    counts = f'tests="{len(verdicts)}" failures="{failed}" errors="0" skipped="0" time="{whole_s:.3f}"'
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f"<testsuites {counts}>",
        f"  <testsuite name={_attribute(machine)} {counts}>",
    ]
    for verdict in verdicts:
        case = f"    <testcase classname={_attribute(f'{machine}.{verdict.check}')}"
        case += f' name={_attribute(verdict.where)} time="{verdict.took_s:.3f}"'
        if verdict.ok:
            lines.append(f"{case}/>")
        else:
            lines += [f"{case}>", f"      <failure message={_attribute(verdict.reason)}/>", "    </testcase>"]
    return "\n".join([*lines, "  </testsuite>", "</testsuites>"]) + "\n"


def _attribute(text: str) -> str:
    """*text* as a quoted attribute; what XML cannot hold at all becomes U+FFFD."""
    allowed = (c if c in "\t\n\r" or (ord(c) >= 0x20 and c not in "\ufffe\uffff") else "\ufffd" for c in text)
    return quoteattr("".join(allowed))
