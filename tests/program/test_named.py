"""Services by name, and watches, of programs."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from popnet.core.errors import DeadlineExceeded, NoSuchService, Overloaded, PeerDied, Refused
from popnet.kernel import programs
from popnet.message.notice import Change, Notice
from popnet.program import hosted

from .test_programs import both, drop
from .village import Village, fails, until, village


async def double(kid: int, body: bytes) -> bytes:
    return body + body


@both
async def test_messages_and_calls_by_name(tmp_path: Path, attach: bool) -> None:
    async with village(tmp_path) as here:
        server, client = await here.program(1, attach), await here.program(2, attach)
        got: list[tuple[int, bytes]] = []
        await server.register("store", 3, lambda kid, body: got.append((kid, body)), double)
        for n in range(50):
            await client.send("k1", "store", b"%d" % n)
        await client.send(1, "store", b"high", high=True)
        await until(lambda: len(got) == 51)
        assert [item for item in got if item[1] != b"high"] == [(2, b"%d" % n) for n in range(50)]
        body = os.urandom(300_000)
        assert await client.call_service("k1", "store", body, 10.0) == body + body
        assert await client.call_service("k1", "store", b"x", 10.0, high=True) == b"xx"
        assert await here.ends.b.call_service(1, "store", b"y", 10.0) == b"yy", "a kernel's own endpoint too"


@both
async def test_errors_of_services_by_name(tmp_path: Path, attach: bool) -> None:
    asked = []

    async def hang(kid: int, body: bytes) -> bytes:
        asked.append(body)
        await asyncio.Event().wait()
        return b""

    async with village(tmp_path) as here:
        server, client = await here.program(1, attach), await here.program(2, attach)
        await fails(client.send("k1", "store", b""), NoSuchService)
        await fails(client.call_service("k1", "store", b"", 10.0), NoSuchService)
        await fails(client.send("k1", "exec", b""), Refused)
        await fails(client.call_service("k1", "exec", b"", 10.0), Refused)
        await fails(client.send("k1", "", b""), Refused)
        await fails(server.register("exec", 1, None, double), Refused)
        await server.register("hang", 1, None, hang)
        await fails(client.call_service("k1", "hang", b"", 0.01), DeadlineExceeded)
        call = asyncio.ensure_future(client.call_service("k1", "hang", b"second", 1000.0))
        await until(lambda: b"second" in asked)
        drop(server)
        await fails(call, PeerDied)
        await until(lambda: here.a.counters()["registered"] == 0)
        await fails(client.call_service("k1", "hang", b"", 10.0), NoSuchService)


async def test_a_list_of_services_holds_for_names(tmp_path: Path) -> None:
    async with village(tmp_path, ("store",)) as here:
        server, client = await here.program(1), await here.program(2)
        await server.register("store", 1, None, double)
        assert await client.call_service("k1", "store", b"x", 10.0) == b"xx"
        await fails(server.register("other", 1, None, double), Refused)
        await fails(client.call_service("k1", "other", b"x", 10.0), Refused)
        await fails(client.send("k1", "other", b"x"), Refused)


async def test_an_unregistered_name_is_free_again(tmp_path: Path) -> None:
    async with village(tmp_path) as here:
        first, second = await here.program(1), await here.program(1)
        await first.register("store", 1, None, double)
        await fails(second.serve("store", None), Refused)  # type: ignore[arg-type]
        await first.unregister("store")
        await second.register("store", 2, None, double)
        assert here.a.counters()["registered"] == 1


# Watches: the registry is the primary's, so a stand-in plays it here; the live tests have a real one.


class Registry:
    """What programs of k1 watch."""

    def __init__(self, here: Village) -> None:
        self.callbacks: dict[int, tuple[str, Callable[[Notice], None]]] = {}
        here.ends.a.watch = self._watch  # type: ignore[method-assign]
        here.ends.a.unwatch = self._unwatch  # type: ignore[method-assign]

    def _watch(self, pattern: str, callback: Callable[[Notice], None]) -> int:
        self.callbacks[len(self.callbacks) + 100] = (pattern, callback)
        return len(self.callbacks) + 99

    def _unwatch(self, number: int) -> None:
        del self.callbacks[number]

    def tell(self, notice: Notice) -> None:
        for _, callback in self.callbacks.values():
            callback(notice)


UP = Notice(Change.SERVICE_UP, 2, 5, "store", 1, 7)


@both
async def test_a_program_watches(tmp_path: Path, attach: bool) -> None:
    async with village(tmp_path) as here:
        registry = Registry(here)
        me = await here.program(1, attach)
        got: list[Notice] = []
        number = await me.watch("service/*", got.append)
        assert [pattern for pattern, _ in registry.callbacks.values()] == ["service/*"]
        kernel = Notice(Change.KERNEL_DOWN, 2, 5, "k2", reason="killed")
        hidden = Notice(Change.SERVICE_UP, 2, 5, "exec", 1, 8)
        for notice in (UP, hidden, kernel, UP.down("gone")):
            registry.tell(notice)
        await until(lambda: len(got) == 3)
        assert got == [UP, kernel, UP.down("gone")], "a kernel's own service is not for programs to see"
        await me.unwatch(number)
        assert registry.callbacks == {}


async def test_a_list_of_services_is_all_that_a_watch_sees(tmp_path: Path) -> None:
    async with village(tmp_path, ("echo",)) as here:
        registry = Registry(here)
        me = await here.program(1)
        got: list[Notice] = []
        await me.watch("*", got.append)
        echo_up = Notice(Change.SERVICE_UP, 2, 5, "echo", 1, 9)
        registry.tell(UP)
        registry.tell(echo_up)
        await until(lambda: got)
        assert got == [echo_up]


async def test_watches_end_with_their_program_and_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "WATCHES_MAX", 2)
    async with village(tmp_path) as here:
        registry = Registry(here)
        first, second = await here.program(1), await here.program(1)
        await first.watch("a", lambda notice: None)
        await first.watch("b", lambda notice: None)
        await fails(second.watch("c", lambda notice: None), Overloaded)
        drop(first)
        await until(lambda: registry.callbacks == {})
        await second.watch("c", lambda notice: None)


async def test_who_does_not_read_what_it_watches_is_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosted, "WAITING_MAX", -1)
    async with village(tmp_path) as here:
        registry = Registry(here)
        me = await here.program(1)
        await me.watch("*", lambda notice: None)
        registry.tell(UP)
        await me.wait_closed()
        await until(lambda: here.a.counters()["connected"] == 0)
