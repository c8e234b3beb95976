"""Two streams as one: what comes by either goes out by the other, until both halves are over.

Credit is the streams' own: a slow reader at one end holds up the writer at the other, through both, and at
most two windows are under way. Channels, the size of records up to STREAM_RECORD_MAX, results and errors pass
as they are.
"""

import asyncio

from popnet.core.errors import PeerDied, PopnetError, StreamClosed
from popnet.message.streamshell import LinkStream


async def splice(offered: LinkStream, opened: LinkStream) -> None:
    """Accept *offered* and join it with *opened*; *opened* is over afterwards, *offered* is the caller's."""
    try:
        await offered.accept()
        async with asyncio.TaskGroup() as group:
            group.create_task(_forward(offered, opened))
            group.create_task(_forward(opened, offered))
    finally:
        opened.abort()


async def _forward(source: LinkStream, target: LinkStream) -> None:
    """One direction, to its end. When *target* takes nothing more, the other direction tells why."""
    try:
        while (item := await source.receive()) is not None:
            try:
                await target.send(item[1], item[0])
            except (StreamClosed, PeerDied):
                return
        await target.close(source.result)
    except PopnetError as error:
        target.fail(error)
