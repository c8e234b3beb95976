"""The escape sequence: what is sent, what acts, however the typed bytes are cut into reads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popnet.cli.escape import Action, Escape, describe, parse
from popnet.core.errors import PopnetError

PREFIX = 0x1D


def run(escape: Escape, *chunks: bytes) -> list[bytes | Action]:
    return [part for chunk in chunks for part in escape.feed(chunk)]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (b"ls\r", [b"ls\r"]),
        (b"\x1d.", [Action.DETACH]),
        (b"\x1d?", [Action.HELP]),
        (b"\x1d\x1d", [b"\x1d"]),
        (b"\x1dx", [b"\x1dx"]),
        (b"a\x1d?b", [b"a", Action.HELP, b"b"]),
        (b"a\x1d.never sent", [b"a", Action.DETACH]),
        (b"\x1d\x1d.", [b"\x1d."]),
        (b"", []),
    ],
)
def test_sequences(typed: bytes, expected: list[bytes | Action]) -> None:
    assert run(Escape(PREFIX), typed) == expected


def test_sequence_over_two_reads() -> None:
    assert run(Escape(PREFIX), b"a\x1d", b".") == [b"a", Action.DETACH]


def test_no_prefix_sends_everything() -> None:
    assert run(Escape(None), b"\x1d.\x1d?") == [b"\x1d.\x1d?"]


@given(st.lists(st.sampled_from([b"\x1d", b"x", b"?", b"yz"])), st.data())
def test_cuts_do_not_matter(keys: list[bytes], data: st.DataObject) -> None:
    typed = b"".join(keys)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(typed)))))
    chunks = [typed[a:b] for a, b in zip([0, *cuts], [*cuts, len(typed)], strict=True)]

    def flat(parts: list[bytes | Action]) -> list[int | Action]:
        return [x for part in parts for x in (part if isinstance(part, bytes) else [part])]

    assert flat(run(Escape(PREFIX), *chunks)) == flat(run(Escape(PREFIX), typed))


@pytest.mark.parametrize(
    ("text", "byte"), [("^]", 0x1D), ("^A", 1), ("^a", 1), ("~", 0x7E), ("none", None), ("^?", 0x7F)]
)
def test_parse(text: str, byte: int | None) -> None:
    assert parse(text) == byte


@pytest.mark.parametrize("text", ["", "ctrl-a", "^é", "é", "^^^"])
def test_parse_refuses(text: str) -> None:
    with pytest.raises(PopnetError, match="is no key"):
        parse(text)


def test_describe() -> None:
    assert [describe(byte) for byte in (0x1D, 1, 0x7E)] == ["Ctrl-]", "Ctrl-A", "~"]
