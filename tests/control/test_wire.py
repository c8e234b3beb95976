"""Frames, byte by byte; against aiohttp's server in test_stream."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popnet.control import wire
from popnet.control.http1 import Malformed, Response
from popnet.control.wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Decoder, Message


def served(kind: int, payload: bytes, *, final: bool = True) -> bytes:
    """A frame as a server sends it."""
    size = len(payload)
    if size <= 125:
        head = struct.pack(">BB", final << 7 | kind, size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", final << 7 | kind, 126, size)
    else:
        head = struct.pack(">BBQ", final << 7 | kind, 127, size)
    return head + payload


def test_the_handshake_of_the_standard() -> None:
    key = b"the sample nonce"  # RFC 6455, 1.3
    assert b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" in wire.handshake("/x", key)
    response = Response()
    response.feed(
        b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
    wire.check_handshake(response, key)
    with pytest.raises(Malformed, match="wrong key"):
        wire.check_handshake(response, bytes(16))


@pytest.mark.parametrize(
    ("size", "head"),
    [(0, "8280"), (125, "82fd"), (126, "82fe007e"), (65535, "82feffff"), (65536, "82ff0000000000010000")],
)
def test_frames_out(size: int, head: str) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    sent = wire.frame(BINARY, payload[:size])
    assert sent == bytes.fromhex(head) + bytes(4) + payload[:size]


def test_frames_out_of_parts() -> None:
    assert wire.frame(BINARY, b"\x02", memoryview(b"abc")) == bytes.fromhex("828400000000") + b"\x02abc"
    assert wire.text({"close": True}) == bytes.fromhex("818f00000000") + b'{"close": true}'
    assert wire.close() == bytes.fromhex("88820000000003e8")


def test_paths() -> None:
    assert wire.stream_path("k1", "exec", {"argv": ["a b"]}) == (
        "/v1/kernels/k1/stream/exec?params=%7B%22argv%22%3A%5B%22a%20b%22%5D%7D"
    )
    assert wire.tty_path("k/1", 2, write=False) == "/v1/kernels/k%2F1/tty/2?write=0&force=0&history=1"


@given(
    st.lists(st.tuples(st.sampled_from([TEXT, BINARY]), st.binary(max_size=300)), max_size=8),
    st.integers(1, 400),
)
def test_messages_in_pieces_of_any_size(messages: list[tuple[int, bytes]], size: int) -> None:
    data = b"".join(served(kind, payload) for kind, payload in messages)
    decoder = Decoder()
    received = [
        message for start in range(0, len(data), size) for message in decoder.feed(data[start : start + size])
    ]
    assert received == messages
    assert not decoder.reply


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 1 << 20])
def test_sizes(size: int) -> None:
    payload = bytes(size)
    data = served(BINARY, payload) + served(TEXT, b"after")
    assert Decoder().feed(data) == [(BINARY, payload), (TEXT, b"after")]
    decoder = Decoder()
    assert decoder.feed(data[:-1]) == [(BINARY, payload)]
    assert decoder.feed(data[-1:]) == [(TEXT, b"after")]


def test_fragments_with_a_ping_between() -> None:
    decoder = Decoder()
    assert decoder.feed(served(BINARY, b"one ", final=False)) == []
    assert decoder.feed(served(PING, b"there?")) == []
    assert bytes(decoder.reply) == wire.frame(PONG, b"there?")
    assert decoder.feed(served(CONTINUATION, b"two ", final=False)) == []
    assert decoder.feed(served(CONTINUATION, b"three")) == [(BINARY, b"one two three")]
    assert decoder.feed(served(TEXT, b"next")) == [(TEXT, b"next")]


def test_nothing_counts_after_a_close() -> None:
    decoder = Decoder()
    data = served(TEXT, b"last") + served(CLOSE, b"\x03\xe8") + served(TEXT, b"ghost")
    assert decoder.feed(data) == [(TEXT, b"last"), (CLOSE, b"\x03\xe8")]
    assert decoder.feed(served(TEXT, b"ghost")) == []


def test_an_unasked_pong_is_ignored() -> None:
    assert Decoder().feed(served(PONG, b"x") + served(TEXT, b"y")) == [Message(TEXT, b"y")]


@pytest.mark.parametrize(
    "nonsense",
    [
        lambda: served(BINARY | 0x40, b"compressed"),
        lambda: wire.frame(BINARY, b"masked"),
        lambda: served(3, b"unknown"),
        lambda: served(11, b"unknown"),
        lambda: served(PING, b"x", final=False),
        lambda: served(PING, bytes(126)),
        lambda: served(CONTINUATION, b"of nothing"),
        lambda: served(BINARY, b"one", final=False) + served(BINARY, b"another"),
        lambda: struct.pack(">BBQ", 0x82, 127, 1 << 63),
        lambda: struct.pack(">BBQ", 0x82, 127, wire.MESSAGE_MAX + 1),
        lambda: served(BINARY, bytes(wire.MESSAGE_MAX), final=False) + served(CONTINUATION, b"x"),
    ],
)
def test_nonsense(nonsense: Callable[[], bytes]) -> None:
    with pytest.raises(Malformed):
        Decoder().feed(nonsense())
