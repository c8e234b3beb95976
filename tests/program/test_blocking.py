"""The blocking flavour, of scripts in threads of their own; the kernels run in this one's loop."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

import popnet
from popnet.core.errors import (
    DeadlineExceeded,
    IllegalState,
    NoSuchKernel,
    NoSuchService,
    Overloaded,
    PeerDied,
    PopnetError,
    Refused,
    Unavailable,
)
from popnet.message.kinds import USER_FIRST
from popnet.program import blocking, blockinggroup
from popnet.program.blocking import BlockingConnection
from popnet.program.connection import Connection
from tests.message.ends import echo

from .test_programs import answer_twice, both
from .town import town
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


async def ended(client: Connection) -> None:
    """A stream that its service never wanted, or does not want any more."""
    stream = await client.open("k2", "echo")
    await stream.receive()


@both
async def test_a_script_serves_streams(tmp_path: Path, attach: bool) -> None:
    """Also: one is refused, one is failed with an error, one is let go of, and too many are turned away."""
    async with village(tmp_path) as here:
        client = await here.program(1)
        ready, done, errors = asyncio.Event(), asyncio.Event(), []
        loop = asyncio.get_running_loop()

        def work() -> None:
            with popnet.connect(here.paths[2], attach=attach) as me:
                me.serve("echo")
                with pytest.raises(Refused):
                    me.serve("exec")
                with pytest.raises(DeadlineExceeded):
                    me.accept(0.01)
                loop.call_soon_threadsafe(ready.set)
                with me.accept(20.0) as stream:
                    assert (stream.service, stream.params, stream.peer) == ("echo", {"n": 1}, 1)
                    while (item := stream.receive(20.0)) is not None:
                        stream.send(item[1], item[0])
                    stream.close({"by": "script"})
                try:
                    with me.accept(20.0):
                        raise Refused("not you", "Go.", {"status": 7})
                except Refused as error:
                    errors.append(error)
                me.accept(20.0).fail(NoSuchKernel("where?"))
                me.accept(20.0)  # and let go of
                me.accept(20.0).abort()
                me.unserve("echo")
                loop.call_soon_threadsafe(done.set)
                me.run()

        running = asyncio.ensure_future(script(work))
        await ready.wait()
        stream = await client.open("k2", "echo", {"n": 1})
        await stream.send(b"hello", 3)
        assert await stream.receive() == (3, b"hello")
        await stream.close()
        assert await stream.receive() is None
        assert stream.result == {"by": "script"}
        refused = await fails(client.open("k2", "echo"), Refused)
        assert (str(refused), refused.hint, refused.result) == ("not you", "Go.", {"status": 7})
        await fails(client.open("k2", "echo"), NoSuchKernel)
        for _ in range(2):
            await fails(ended(client), PopnetError)
        assert errors
        await fails(client.open("k2", "echo"), NoSuchService)
        await done.wait()
        await here.b.stop()
        await running


@both
async def test_a_script_serves_and_uses_a_service_by_name(tmp_path: Path, attach: bool) -> None:
    async with village(tmp_path) as here:
        client = await here.program(1)
        got: list[tuple[int, bytes]] = []
        mine: list[bytes] = []
        await client.register("far", 1, lambda kid, body: mine.append(body), answer_twice)
        ready, done = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def work() -> None:
            with popnet.connect(here.paths[2], attach=attach) as me:
                assert (me.generation, me.attached, me.counters()["links"]) == (5, attach, 1)
                me.register(
                    "near", 2, lambda kid, body: got.append((kid, body)), lambda kid, body: body[::-1]
                )
                me.send("k1", "far", b"to you")
                assert me.call_service("k1", "far", b"ab", 20.0) == b"\x02abab"
                with pytest.raises(NoSuchService):
                    me.call_service("k1", "nothing", b"", 20.0)
                me.on(KIND, lambda kid, body: got.append((kid, body)))
                me.flush()
                loop.call_soon_threadsafe(ready.set)
                assert me.run(20.0, until=lambda: len(got) == 2)
                assert not me.run(0.01, until=lambda: len(got) == 3)
                me.unregister("near")
                loop.call_soon_threadsafe(done.set)
                assert not me.run(until=lambda: len(got) == 3)

        running = asyncio.ensure_future(script(work))
        await ready.wait()
        assert await client.call_service("k2", "near", b"abc", 20.0) == b"cba"
        await client.send("k2", "near", b"1")
        client.post("k2", KIND, b"2")
        await done.wait()
        assert sorted(got) == [(1, b"1"), (1, b"2")]
        assert mine == [b"to you"]
        await fails(client.call_service("k2", "near", b"abc", 20.0), NoSuchService)
        await here.b.stop()
        await running


async def test_too_many_streams_for_a_script_are_turned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "ACCEPT_MAX", 1)
    async with village(tmp_path) as here:
        client = await here.program(1)
        ready, turned_away = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def work() -> None:
            with BlockingConnection(here.paths[2]) as me:
                me.serve("echo")
                loop.call_soon_threadsafe(ready.set)
                while not turned_away.is_set():
                    me.run(0.005)
                me.accept(20.0).close()

        running = asyncio.ensure_future(script(work))
        await ready.wait()
        both = [asyncio.ensure_future(client.open("k2", "echo")) for _ in range(2)]
        [first], _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(first.exception(), Overloaded)
        turned_away.set()
        await running
        await asyncio.wait(both)


@both
async def test_notices_and_groups_of_a_script(tmp_path: Path, attach: bool) -> None:
    async with town(tmp_path) as here:
        far = await here.program(1)
        group = far.group("g")
        got: list[bytes] = []
        await group.join(lambda member, body: got.append(body))

        def work() -> None:
            with popnet.connect(here.path(2), attach=attach) as me:
                number = me.watch("service/echo")
                with pytest.raises(DeadlineExceeded):
                    me.notice(0.01)
                script = me.group("g")
                assert me.group("g") is script
                with pytest.raises(IllegalState):
                    script.recv(1.0)
                script.join()
                assert (script.name, script.me in script.members, len(script.members)) == ("g", True, 2)
                assert script.view > 0
                script.send(b"join me")
                assert script.recv(20.0) == (script.me, b"join me")
                assert script.recv(20.0) == (group.me, b"welcome")
                assert me.notice(20.0).name == "echo"
                assert not me.notice(20.0).change.up
                me.unwatch(number)
                script.leave()
                with pytest.raises(IllegalState):
                    script.send(b"")
                script.join()
                script.send(b"again")
                assert script.recv(20.0) == (script.me, b"again")

        running = asyncio.ensure_future(script(work))
        await until(lambda: got)
        await group.send(b"welcome")
        await far.serve("echo", echo)
        await far.unserve("echo")
        await running
        assert got == [b"join me", b"welcome", b"again"]


async def test_a_script_that_only_sends_holds_itself_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And another one that reads slowly gets everything."""
    monkeypatch.setattr(blockinggroup, "QUEUE_MAX", 4)
    async with town(tmp_path) as here:

        def work() -> None:
            with BlockingConnection(here.path(1)) as me:
                group = me.group("g")
                group.join()
                sent = 0
                with pytest.raises(Overloaded):
                    while sent < 400:
                        group.send(b"%d" % sent + bytes(100_000), timeout_s=0.3)
                        sent += 1
                assert 4 < sent < 400
                assert len(group._messages) < sent // 2, "the rest waits with its sender"
                for n in range(sent):
                    assert group.recv(20.0)[1].rstrip(b"\0") == b"%d" % n
                group.send(b"and on")
                assert group.recv(20.0)[1] == b"and on"

        await script(work)


async def test_notices_that_are_lost_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "QUEUE_MAX", 2)
    async with town(tmp_path) as here:

        def work() -> None:
            with BlockingConnection(here.path(1)) as me:
                me.watch("kernel/*")
                me.run(20.0, until=lambda: me._notices_lost)
                with pytest.raises(Overloaded):
                    me.notice(20.0)
                me.watch("kernel/k1")
                assert me.notice(20.0).name == "k1"

        await script(work)


async def test_a_function_of_a_script_may_not_wait(tmp_path: Path) -> None:
    async with village(tmp_path) as here:
        caller = await here.program(1)
        errors: list[Exception] = []

        def work() -> None:
            with BlockingConnection(here.paths[2]) as me:

                def waits(kid: int, body: bytes) -> bytes:
                    try:
                        me.flush()
                    except IllegalState as error:
                        errors.append(error)
                    return b"no"

                me.answer(KIND, waits)
                me.serve("ready")
                me.run(20.0, until=lambda: errors)
                me.flush()
            with pytest.raises(PeerDied):
                me.flush()

        running = asyncio.ensure_future(script(work))
        await until(lambda: here.b.counters()["registered"] == 2)
        assert await caller.call("k2", KIND, b"", 20.0) == b"no"
        await running


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
