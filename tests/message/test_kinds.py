"""Numbers of kinds are for life, and the documentation has them all."""

import ast
import itertools
import re
from pathlib import Path

from popnet.core import limits
from popnet.message import kinds
from popnet.message.kinds import KERNEL_FIRST, STREAM_KINDS, USER_FIRST, Flag, Kind, Ring, ring_of

ROOT = Path(__file__).parents[2]

FOR_LIFE = {
    "OPEN": 1,
    "ACCEPT": 2,
    "REFUSE": 3,
    "DATA": 4,
    "CREDIT": 5,
    "CLOSE": 6,
    "ABORT": 7,
    "UNKNOWN": 16,
    "STALE": 17,
    "CANCEL": 18,
    "CHECK_IN": 32,
    "CONTROL": 33,
    "NOTIFY": 34,
    "EVENT": 35,
    "LOG": 36,
    "COUNTERS": 37,
    "SEND": 38,
    "CALL": 39,
    "RESOLVE": 40,
    "REGISTRY": 41,
    "NOTICE": 42,
    "GROUP": 43,
}
"""Add to it; never change it. Numbers of kinds that went stay here."""


def test_no_number_changes_or_is_used_again() -> None:
    assert {kind.name: kind.value for kind in Kind}.items() <= FOR_LIFE.items(), "new kinds go into FOR_LIFE"
    assert len(set(FOR_LIFE.values())) == len(FOR_LIFE)


def test_ranges() -> None:
    assert {kind for kind in Kind if kind <= Kind.ABORT} == STREAM_KINDS
    assert all(kind < USER_FIRST for kind in Kind)
    assert {kind for kind in Kind if kind < KERNEL_FIRST} == STREAM_KINDS | {
        Kind.UNKNOWN,
        Kind.STALE,
        Kind.CANCEL,
    }


def test_only_credit_passes_the_data_of_its_stream() -> None:
    assert [kind for kind in STREAM_KINDS if ring_of(kind) is Ring.HIGH] == [Kind.CREDIT]


def test_flags_fit_their_16_bits_and_do_not_overlap() -> None:
    values = [flag.value for flag in Flag]
    assert all(value.bit_count() == 1 for value in values)
    assert sum(values) < 1 << 16
    assert len(set(values)) == len(values)


def documented(enum: str) -> list[tuple[str, int, str]]:
    """(name, number, first text) of every member of *enum* in the source of the kinds."""
    tree = ast.parse(Path(kinds.__file__).read_text())
    [body] = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == enum]
    found = []
    for node, text in itertools.pairwise(body):
        if isinstance(node, ast.Assign) and isinstance(text, ast.Expr):
            name, number, words = node.targets[0], node.value, text.value
            assert isinstance(name, ast.Name)
            assert isinstance(number, ast.Constant) and isinstance(number.value, int)
            assert isinstance(words, ast.Constant) and isinstance(words.value, str)
            found.append((name.id, number.value, " ".join(words.value.split())))
    return found


def test_every_kind_and_flag_has_a_docstring() -> None:
    assert [name for name, _, _ in documented("Kind")] == [kind.name for kind in Kind]
    assert [name for name, _, _ in documented("Flag")] == [flag.name for flag in Flag]


def table_rows() -> list[str]:
    lines = (ROOT / "docs" / "messages.md").read_text().splitlines()
    return [line for line in lines if line.startswith("| ")]


def test_the_documentation_has_the_same_kinds_and_flags() -> None:
    expected = [
        f"| {number} | `{name}` | {text} |"
        for enum in ("Kind", "Flag")
        for name, number, text in documented(enum)
    ]
    rows = [row for row in table_rows() if row.split("|")[1].strip().isdigit()]
    assert rows == expected, "docs/messages.md should have:\n" + "\n".join(expected)


def test_the_documentation_has_the_limits() -> None:
    found = {}
    for row in table_rows():
        name, value = (cell.strip(" `") for cell in row.split("|")[1:3])
        if name.isupper() and value.isdigit():
            found[name] = int(value)
    assert found == {name: getattr(limits, name) for name in found}
    assert {"STREAM_WINDOW", "MESSAGE_SIZE_MAX"} <= found.keys()


def test_the_documentation_has_every_service_of_a_kernel() -> None:
    sources = (path.read_text() for path in (ROOT / "popnet" / "kernel").glob("*.py"))
    served = {name for source in sources for name in re.findall(r'\.serve\("([a-z-]+)"', source)}
    rows = [row for row in table_rows() if row.startswith("| `") and row.count("|") == 6]
    assert {row.split("`")[1] for row in rows} == served
