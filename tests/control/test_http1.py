"""HTTP responses, byte by byte."""

import pytest

from popnet.control.http1 import HEAD_SIZE_MAX, Malformed, Response, Truncated, request

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\nA;ext=1\r\n, 10 bytes\r\n0\r\nX-After: 1\r\n\r\n"
)
SIZED = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nCONTENT-LENGTH: 3\r\n\r\nabcrest"
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x00"


def parse(data: bytes, size: int) -> tuple[Response, bytes]:
    """The response and its body, fed in pieces of *size*."""
    response, body = Response(), b""
    for start in range(0, len(data), size):
        if response.complete:
            break
        response.feed(data[start : start + size])
        body += response.take()
    return response, body


def test_requests() -> None:
    assert request("GET", "/v1/x?a=b", {"Connection": "close"}) == (
        b"GET /v1/x?a=b HTTP/1.1\r\nHost: popnet\r\nConnection: close\r\n\r\n"
    )
    assert request("POST", "/", body=b"{}") == (
        b"POST / HTTP/1.1\r\nHost: popnet\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_responses_in_pieces_of_any_size(size: int) -> None:
    response, body = parse(CHUNKED, size)
    assert (response.status, body, response.complete) == (200, b"hello, 10 bytes", True)
    response, body = parse(SIZED, size)
    assert (response.status, body, response.complete) == (404, b"abc", True)
    assert response.headers["content-type"] == "application/json"
    response, body = parse(UPGRADED, size)
    assert (response.status, body, response.complete) == (101, b"", True)


def test_what_follows_a_response_is_kept() -> None:
    assert parse(SIZED, 1000)[0].rest == b"rest"
    assert parse(UPGRADED, 1000)[0].rest == b"\x81\x00"


def test_a_body_that_ends_with_the_connection() -> None:
    response, body = parse(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", 4)
    assert not response.complete
    response.feed_eof()
    assert response.complete
    assert body + response.take() == b"until the end"


@pytest.mark.parametrize("whole", [CHUNKED, SIZED.removesuffix(b"rest"), UPGRADED[:-2]])
def test_truncated_anywhere(whole: bytes) -> None:
    for end in range(len(whole)):
        response, _ = parse(whole[:end], 1000)
        with pytest.raises(Truncated):
            response.feed_eof()
    response, _ = parse(whole, 1000)
    response.feed_eof()


@pytest.mark.parametrize(
    "nonsense",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x" * (HEAD_SIZE_MAX + 1),
    ],
)
def test_nonsense(nonsense: bytes) -> None:
    with pytest.raises(Malformed):
        Response().feed(nonsense)
