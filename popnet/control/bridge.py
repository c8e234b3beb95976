"""Between a stream of a kernel and the WebSocket of a client: bytes both ways until one of them ends.

Theory of operation. Two tasks pump, one a direction; each has at most one message in its hands, so a slow end
stops the other one (the stream by its credit, the WebSocket by the transport's buffers) and nothing piles up.
The bridge ends with the first of:

- the stream closed, and all that it sent is under way: the client gets its result;
- the stream failed (refused, the kernel died): the client gets the error;
- the client is gone, or closed the WebSocket: the stream is aborted, since nobody will take its result;
- the machine goes down: the client is told so, unless it is too slow to listen.

A client with nothing more to send says `{"close": true}`, and the bridge goes on towards the client alone.
If the service has closed and the client still sends, that is dropped; its result is on the way. The last
word is followed by the WebSocket's closing handshake, in which the client's unread bytes are read: closing
a socket over them would make the kernel drop what the client has not received yet.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from aiohttp import WSMsgType, web

from popnet.control.client import encode_error
from popnet.control.service import Stream
from popnet.core.errors import PeerDied, PopnetError, Refused, StreamClosed

T = TypeVar("T")

_FAREWELL_S: Final = 1.0
"""Seconds that a client has to take its last word once the machine goes down."""


async def bridge(
    opening: Callable[[], Awaitable[Stream]],
    ws: web.WebSocketResponse,
    gone: asyncio.Event,
    closing: asyncio.Event,
) -> None:
    """Opens a stream, joins it to *ws* until one ends, the client is *gone*, or the server *closing*."""
    streams: list[Stream] = []

    async def session() -> dict[str, Any] | None:
        stream = await opening()
        streams.append(stream)
        await ws.send_json({"accepted": True})
        return await first(_outgoing(stream, ws), _incoming(stream, ws))

    going_down = encode_error(PeerDied("the machine is going down"))
    try:
        last = await first(session(), _after(gone, None), _after(closing, going_down))
    except PopnetError as error:
        last = encode_error(error)
    except ConnectionError:  # the client went while it was written to
        return
    finally:
        for stream in streams:
            stream.abort()
    if last is not None:
        await first(_farewell(ws, last), _after(gone, None), _after(closing, None, _FAREWELL_S))


async def first(*works: Coroutine[Any, Any, T]) -> T:
    """Runs all of *works* until one ends, cancels the others, and returns (or raises) what that one did.

    If several have ended, the foremost counts.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = next(task for task in tasks if task.done())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return ended.result()


async def _after(event: asyncio.Event, value: T, delay_s: float = 0.0) -> T:
    await event.wait()
    await asyncio.sleep(delay_s)
    return value


async def _outgoing(stream: Stream, ws: web.WebSocketResponse) -> dict[str, Any]:
    while (received := await stream.receive()) is not None:
        channel, data = received
        await ws.send_bytes(bytes((channel,)) + data)
    return {"result": stream.result}


async def _incoming(stream: Stream, ws: web.WebSocketResponse) -> None:
    """Ends with the client's end of the WebSocket."""
    ended = False
    async for message in ws:
        try:
            match message.type:
                case WSMsgType.BINARY if ended:
                    pass
                case WSMsgType.BINARY if message.data:
                    await stream.send(message.data[1:], message.data[0])
                case WSMsgType.TEXT:
                    await _control(stream, message.data)
                case WSMsgType.ERROR:
                    return
                case _:
                    raise Refused("a message without a channel")
        except (StreamClosed, PeerDied):
            ended = True  # the other direction meets the same end, and tells the client


async def _control(stream: Stream, text: str) -> None:
    try:
        fields = json.loads(text)
    except ValueError:
        raise Refused(f"not a control message: {text[:80]!r}") from None
    match fields:
        case {"close": _}:
            await stream.close()
        case {}:
            pass  # of a later version of the client: nothing that this one knows how to do
        case _:
            raise Refused(f"not a control message: {text[:80]!r}")


async def _farewell(ws: web.WebSocketResponse, last: dict[str, Any]) -> None:
    try:
        await ws.send_json(last)
    except ConnectionError:
        return  # there is nobody to bid it
    await ws.close()
