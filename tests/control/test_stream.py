"""Streams through the control API, our client against aiohttp's server, and every way in which they end."""

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from popnet.control import stream as stream_module
from popnet.control import wire
from popnet.control.stream import ClientStream, connect
from popnet.core import limits
from popnet.core.errors import (
    NoSuchKernel,
    NoSuchMachine,
    NoSuchService,
    PeerDied,
    PopnetError,
    Refused,
    StreamClosed,
    Unavailable,
)
from tests.control.fakes import Served


async def open_stream(served: Served, service: str, params: dict[str, Any] | None = None) -> ClientStream:
    return await connect(served.socket, wire.stream_path("k1", service), params)


async def drain(stream: ClientStream) -> list[tuple[int, bytes]]:
    received = []
    while (item := await stream.receive()) is not None:
        received.append(item)
    return received


async def test_echo_on_every_channel(served: Served) -> None:
    async with await open_stream(served, "echo", {"größe": [1, "&?%"]}) as stream:
        assert served.service.opened == [("k1", "echo", {"größe": [1, "&?%"]})]
        for channel in (0, 1, 2, 255):
            for data in (b"x", bytes(range(256)) * 7):
                await stream.send(data, channel)
                assert await stream.receive() == (channel, data)
        assert stream.result is None
        await stream.finish()
        assert await stream.receive() is None
        assert await stream.receive() is None
        assert stream.result == {"echoed": 4 * (1 + 1792)}
        with pytest.raises(StreamClosed):
            await stream.send(b"late")
    await stream.close()


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, limits.STREAM_RECORD_MAX])
async def test_what_fits_a_record_arrives_whole(served: Served, size: int) -> None:
    async with await open_stream(served, "echo") as stream:
        for length in (size - 1, size):
            await stream.send(b"y" * length)
            assert await stream.receive() == (0, b"y" * length)


async def test_what_does_not_arrives_in_order(served: Served) -> None:
    data = b"".join(number.to_bytes(4, "big") for number in range(1 << 18))
    async with await open_stream(served, "echo") as stream:

        async def send() -> None:
            await stream.send(b"")
            await stream.send(data)
            await stream.finish()

        sending = asyncio.create_task(send())
        assert b"".join(piece for _, piece in await drain(stream)) == data
        await sending
        assert stream.result == {"echoed": 1 << 20}


async def test_a_large_transfer_to_a_slow_reader(served: Served) -> None:
    size, chunk = 24 << 20, 1 << 16
    async with await open_stream(served, "source", {"size": size, "chunk": chunk}) as stream:
        digest, count, most = hashlib.sha256(), 0, 0
        while (received := await stream.receive()) is not None:
            digest.update(received[1])
            count += len(received[1])
            most = max(most, stream._connection._queued)
            for _ in range(5):
                await asyncio.sleep(0)
        assert stream.result == {"sent": size}
    expected = hashlib.sha256()
    for number in range(size // chunk):
        expected.update(bytes((number & 0xFF,)) * chunk)
    assert (count, digest.digest()) == (size, expected.digest())
    assert most <= stream_module._QUEUE_MAX + (512 << 10)


async def test_a_reader_that_stops_stops_the_source(served: Served) -> None:
    sent = 0

    async def source(stream: Any) -> None:
        nonlocal sent
        while True:
            await stream.send(bytes(1 << 16))
            sent += 1 << 16

    served.service.handlers["source"] = source
    async with await open_stream(served, "source") as stream:
        await stream.receive()
        await stalled(lambda: sent)
        first = sent
        assert first < 8 << 20
        for _ in range(first // (1 << 16)):
            await stream.receive()
        await stalled(lambda: sent)
        assert sent > first
    await served.service.wait_ended("source")


async def test_a_service_that_takes_nothing_stops_the_sender(served: Served) -> None:
    sent = 0

    async def send() -> None:
        nonlocal sent
        while True:
            await stream.send(bytes(1 << 16))
            sent += 1 << 16

    stream = await open_stream(served, "stuck")
    sending = asyncio.create_task(send())
    await stalled(lambda: sent)
    assert not sending.done()
    assert 0 < sent < 8 << 20
    await stream.close()
    with pytest.raises(StreamClosed):
        await sending
    await served.service.wait_ended("stuck")


async def stalled(count: Any) -> None:
    """Until *count* has not changed for a while of the event loop's turns."""
    last, quiet = -1, 0
    while quiet < 20:
        await asyncio.sleep(0.005)
        last, quiet = count(), quiet + 1 if count() == last else 0


# Ends


async def test_refusals(served: Served) -> None:
    with pytest.raises(NoSuchService, match="serves no 'nothing'"):
        await open_stream(served, "nothing")
    with pytest.raises(NoSuchKernel):
        await connect(served.socket, wire.stream_path("nobody", "echo", {}))
    with pytest.raises(Refused, match="as asked"):
        await open_stream(served, "echo", {"refuse": "refused"})
    with pytest.raises(PopnetError, match="as asked") as caught:
        await open_stream(served, "exec", {"refuse": "not-found"})
    assert caught.value.code == "not-found"
    with pytest.raises(Refused, match="not a JSON object"):
        await connect(served.socket, "/v1/kernels/k1/stream/echo?params=[1]")
    with pytest.raises(Refused, match="not a JSON object"):
        await connect(served.socket, "/v1/kernels/k1/stream/echo?params={")
    with pytest.raises(PopnetError, match="Not Found"):
        await connect(served.socket, "/v1/kernels/k1/echo")


async def test_parameters_may_be_large(served: Served) -> None:
    env = {f"VARIABLE_{number}": '"' * 500 for number in range(60)}
    async with await open_stream(served, "exec", {"argv": ["env"], "env": env}) as stream:
        received = b"".join(data for _, data in await drain(stream))
    assert json.loads(received)["env"] == env
    for number in (2, 100):
        with pytest.raises(PopnetError, match="at most"):
            await open_stream(served, "exec", {"argv": ["env"] * number, "env": {"x": "y" * 65536 * number}})


async def test_a_kernel_that_dies(served: Served) -> None:
    stream = await open_stream(served, "dies")
    assert await stream.receive() == (0, b"last words")
    for _ in range(2):
        with pytest.raises(PeerDied, match="k1 died"):
            await stream.receive()
    with pytest.raises(PeerDied, match="k1 died"):
        await stream.send(b"x")
    await stream.close()


async def test_a_machine_that_dies(tmp_path: Path) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        key = next(line for line in request.split(b"\r\n") if b"Key: " in line).partition(b": ")[2]
        accept = wire._base64(hashlib.sha1(key + wire._GUID).digest())
        writer.write(f"HTTP/1.1 101 x\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode())
        writer.write(b'\x81\x12{"accepted": true}'[: 2 + size] + b"\x82\x03\x00hi"[: max(0, size - 18)])
        await writer.drain()
        writer.close()

    (tmp_path / "m").mkdir()
    path = tmp_path / "m" / "control.sock"
    server = await asyncio.start_unix_server(half, str(path))
    for size in (-2, 0, 17):  # noqa: B007
        with pytest.raises(PeerDied, match="'m' ended"):
            await connect(path, "/v1/kernels/k1/stream/echo")
    for size in (18, 19, 22, 23):
        stream = await connect(path, "/v1/kernels/k1/stream/echo")
        if size == 23:
            assert await stream.receive() == (0, b"hi")
        with pytest.raises(PeerDied, match="'m' ended"):
            await stream.receive()
        with pytest.raises(PeerDied):
            await stream.send(b"x")
        await stream.close()
    server.close()
    path.unlink(missing_ok=True)  # Python 3.13 did it already
    with pytest.raises(NoSuchMachine):
        await connect(path, "/v1/kernels/k1/stream/echo")


async def test_something_else_listens(tmp_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    answer = b"220 mail.example ESMTP\r\n"
    server = await asyncio.start_unix_server(talk, str(tmp_path / "s"))
    with pytest.raises(Unavailable, match="not the control socket"):
        await connect(tmp_path / "s", "/")
    answer = b"HTTP/1.1 101 x\r\nSec-WebSocket-Accept: wrong\r\n\r\n"
    with pytest.raises(Unavailable, match="wrong key"):
        await connect(tmp_path / "s", "/")
    server.close()


async def test_closing_here_aborts_the_service(served: Served) -> None:
    stream = await open_stream(served, "echo")
    reading = asyncio.create_task(stream.receive())
    await asyncio.sleep(0)
    await stream.close()
    with pytest.raises(StreamClosed, match="closed here"):
        await reading
    await served.service.wait_ended("echo")
    with pytest.raises(StreamClosed):
        await stream.send(b"x")
    with pytest.raises(StreamClosed):
        await stream.finish()


@pytest.mark.parametrize("service", ["echo", "sink", "stuck", "source"])
async def test_a_client_that_vanishes_aborts_the_service(served: Served, service: str) -> None:
    """Idle, while it sends into a full stream, and while it does not read."""
    for pressed in (False, True):
        served.service.ended.clear()
        stream = await open_stream(served, service, {"size": 1 << 30, "chunk": 1 << 16})
        sending = asyncio.create_task(stream.send(bytes(64 << 20))) if pressed else None
        if pressed:
            await stalled(lambda stream=stream: stream._connection._transport.get_write_buffer_size())
        stream._connection._transport.abort()
        await served.service.wait_ended(service)
        if sending is not None:
            await asyncio.gather(sending, return_exceptions=True)


async def test_a_client_that_vanishes_while_the_stream_opens(served: Served) -> None:
    never = asyncio.Event()
    left = asyncio.Event()
    entered = asyncio.Event()

    async def opening(name: str, service: str, params: dict[str, Any]) -> Any:
        entered.set()
        try:
            await never.wait()
        finally:
            left.set()

    served.service.open = opening  # type: ignore[method-assign]
    connecting = asyncio.create_task(open_stream(served, "echo"))
    await entered.wait()
    connecting.cancel()
    await left.wait()
    with pytest.raises(asyncio.CancelledError):
        await connecting


async def test_a_result_reaches_a_client_that_still_sends(served: Served) -> None:
    """As in `yes | popnet exec k1 -- head -1`: closing over unread input would lose the output."""

    async def head(stream: Any) -> dict[str, Any]:
        await stream.receive()
        for _ in range(64):
            await stream.send(bytes(1 << 16))
        return {"status": 0}

    served.service.handlers["head"] = head
    for _ in range(5):
        async with await open_stream(served, "head") as stream:
            sending = asyncio.create_task(stream.send(bytes(64 << 20)))
            await stalled(lambda stream=stream: stream._connection._queued)
            assert sum(len(data) for _, data in await drain(stream)) == 4 << 20
            assert stream.result == {"status": 0}
            with pytest.raises(StreamClosed):
                await sending


async def test_many_at_once(served: Served) -> None:
    async def one(number: int) -> None:
        async with await open_stream(served, "echo") as stream:
            for turn in range(20):
                data = f"{number}:{turn}".encode() * (number + 1)
                await stream.send(data)
                assert await stream.receive() == (0, data)

    await asyncio.gather(*(one(number) for number in range(40)))


async def test_wrong_messages_are_refused(served: Served) -> None:
    for wrong in (wire.frame(wire.BINARY), wire.frame(wire.TEXT, b"{"), wire.frame(wire.TEXT, b"[]")):
        stream = await open_stream(served, "echo")
        await stream._connection.send(wrong)
        with pytest.raises(Refused):
            await stream.receive()
        await stream.close()
    async with await open_stream(served, "echo") as stream:
        await stream._connection.send(wire.text({"of a later": "version"}))
        await stream._connection.send(wire.frame(wire.PING, b"x"))
        await stream.send(b"works")
        assert await stream.receive() == (0, b"works")


async def test_cancelling_a_receive_loses_nothing(served: Served) -> None:
    async with await open_stream(served, "echo") as stream:
        for number in range(50):
            reading = asyncio.create_task(stream.receive())
            await asyncio.sleep(0)
            await stream.send(bytes((number,)))
            for _ in range(number):
                await asyncio.sleep(0)
            reading.cancel()
            try:
                received = await reading
            except asyncio.CancelledError:
                received = await stream.receive()
            assert received == (0, bytes((number,)))
