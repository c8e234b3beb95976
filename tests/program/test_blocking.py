"""The blocking flavour, of scripts in threads of their own; the kernels run in this one's loop."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

import popnet
from popnet.core.errors import DeadlineExceeded, NoSuchService, PeerDied, Unavailable
from popnet.message.kinds import USER_FIRST
from popnet.program import blocking
from popnet.program.blocking import BlockingConnection
from tests.message.ends import echo

from .test_programs import answer_twice, both
from .village import fails, until, village

T = TypeVar("T")
KIND = USER_FIRST


async def script(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)


@both
async def test_streams_and_calls(tmp_path: Path, attach: bool) -> None:
    async with village(tmp_path) as here:
        server = await here.program(1, attach)
        await server.serve("echo", echo)
        await server.answer(KIND, answer_twice)

        def work() -> str:
            with popnet.connect(here.paths[2], attach=attach) as me:
                assert (me.kid, me.kernel, me.machine) == (2, "k2", "village")
                assert me.kernels() == {"k1": 1, "k2": 2}
                assert me.call("k1", KIND, b"ab", 20.0) == b"\x02abab"
                stream = me.open("k1", "echo", {"n": 1}, timeout_s=20.0)
                stream.send(b"x" * 300_000)
                got = b""
                while len(got) < 300_000:
                    item = stream.receive(20.0)
                    assert item is not None
                    got += item[1]
                with pytest.raises(DeadlineExceeded):
                    stream.receive(0.01)
                stream.send(b"again", 3, timeout_s=20.0)
                assert stream.receive(20.0) == (3, b"again"), "what timed out lost nothing"
                stream.close()
                assert stream.receive(20.0) is None
                assert stream.result == {"count": 300_005}
                with pytest.raises(NoSuchService):
                    me.open("k1", "nothing")
            return "done"

        assert await script(work) == "done"
        await until(lambda: here.b.counters()["connected"] == 0)


async def test_messages_by_recv(tmp_path: Path) -> None:
    async with village(tmp_path) as here:
        sender = await here.program(1)
        ready = asyncio.Event()
        loop = asyncio.get_running_loop()

        def work() -> list[tuple[int, int, bytes]]:
            with popnet.connect_blocking(here.paths[2]) as me:
                me.listen(KIND)
                with pytest.raises(DeadlineExceeded):
                    me.recv(0.01)
                loop.call_soon_threadsafe(ready.set)
                got = [me.recv(20.0) for _ in range(3)]
                assert me.post("k1", KIND, b"unheard")
                return got

        running = asyncio.ensure_future(script(work))
        await ready.wait()
        for n in range(3):
            sender.post("k2", KIND, b"%d" % n)
        assert await running == [(1, KIND, b"%d" % n) for n in range(3)]


async def test_a_script_answers_while_it_runs(tmp_path: Path) -> None:
    async with village(tmp_path) as here:
        ready, over = asyncio.Event(), []
        loop = asyncio.get_running_loop()

        def work() -> None:
            with BlockingConnection(here.paths[2]) as me:
                me.answer(KIND, lambda kid, body: body[::-1])
                loop.call_soon_threadsafe(ready.set)
                me.run()
                over.append("closed")
                with pytest.raises(PeerDied):
                    me.call("k1", KIND, b"", 20.0)
                with pytest.raises(PeerDied):
                    me.recv(20.0)

        running = asyncio.ensure_future(script(work))
        await ready.wait()
        client = await here.program(1)
        assert await client.call("k2", KIND, b"abc", 20.0) == b"cba"
        await here.b.stop()
        await running
        assert over == ["closed"]


async def test_a_queue_that_is_full_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "QUEUE_MAX", 2)
    async with village(tmp_path) as here:
        sender = await here.program(1)
        ready = asyncio.Event()
        loop = asyncio.get_running_loop()

        def work() -> tuple[int, list[bytes]]:
            with BlockingConnection(here.paths[2]) as me:
                me.listen(KIND)
                me.listen(KIND + 1)
                loop.call_soon_threadsafe(ready.set)
                while me.dropped < 3:
                    me.run(0.005)
                return me.dropped, [me.recv(20.0)[2] for _ in range(2)]

        running = asyncio.ensure_future(script(work))
        await ready.wait()
        for n in range(5):
            sender.post("k2", KIND, b"%d" % n)
        assert await running == (3, [b"0", b"1"])


async def test_no_kernel(tmp_path: Path) -> None:
    def work() -> None:
        with popnet.connect(str(tmp_path / "none")):
            pass

    await fails(script(work), Unavailable)


def test_closing_twice_is_no_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with village(tmp_path) as here:

            def work() -> None:
                me = BlockingConnection(here.paths[1])
                me.close()
                me.close()

            await script(work)

    asyncio.run(main())


def test_a_program_loads_only_what_it_needs() -> None:
    """Programs start often; what the rest of popnet needs is not theirs to wait for."""
    heavy = ["aiohttp", "pydantic", "asyncssh", "yaml", "rich", "click", "uvloop", "popnet.kernel"]
    load = "import sys, popnet; popnet.connect; popnet.connect_blocking"
    code = f"{load}; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.stderr) == ("[]\n", "")
