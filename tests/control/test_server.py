"""The control API over a real unix socket: calls, lists, errors, and what if either side goes away."""

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from popnet.control import routes
from popnet.control.client import Client
from popnet.control.server import serve
from popnet.control.stream import connect, follow
from popnet.core.errors import (
    BootFailed,
    IllegalState,
    NoSuchKernel,
    NoSuchMachine,
    PeerDied,
)
from tests.control.fakes import FakeService, Served


async def call(served: Served, method: str, path: str) -> Any:
    client = Client("m", run_dir=served.run_dir)
    return await asyncio.to_thread(getattr(client, method), path)


@pytest.fixture(autouse=True)
def _(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POPNET_MACHINE", raising=False)


async def lines(path: str, served: Served) -> list[dict[str, Any]]:
    return [line async for line in follow(served.socket, path)]


# Calls


async def test_what_a_machine_tells(served: Served) -> None:
    def ask() -> list[Any]:
        client = Client(run_dir=served.run_dir)
        paths = ("machine", "kernels", "kernels/k1", "kernels/k1/timeline", "counters", "ssh-config")
        return [client.get(f"/v1/{path}") for path in paths]

    machine, kernels, k1, timeline, counters, ssh_config = await asyncio.to_thread(ask)
    assert machine["name"] == "m"
    assert [row["name"] for row in kernels] == ["primary", "k1", "k2"]
    assert k1 == kernels[1]
    assert timeline[0]["step"] == "fork"
    assert counters == {"kernels": {"k1": {"nic": {"tx_frames": 7}}}}
    assert ssh_config.startswith("Host k1\n")


async def test_boot_and_kill(served: Served) -> None:
    row = await call(served, "post", "/v1/kernels/k2/boot")
    assert row["timeline"] == [{"step": "fork", "start_ms": 0.0, "took_ms": 1.5}]
    with pytest.raises(IllegalState, match="k2 is online") as caught:
        await call(served, "post", "/v1/kernels/k2/boot")
    assert caught.value.hint == "kill it first"
    assert (await call(served, "post", "/v1/kernels/k2/kill"))["state"] == "offline"
    served.service.broken.add("k2")
    with pytest.raises(BootFailed, match="step init"):
        await call(served, "post", "/v1/kernels/k2/boot")


async def test_a_boot_goes_on_without_its_client(served: Served) -> None:
    served.service.may_boot.clear()
    reader, writer = await asyncio.open_unix_connection(str(served.socket))
    writer.write(b"POST /v1/kernels/k2/boot HTTP/1.1\r\nHost: m\r\nContent-Length: 0\r\n\r\n")
    await call(served, "get", "/v1/machine")
    writer.close()
    await call(served, "get", "/v1/machine")
    served.service.may_boot.set()
    await served.service.until(lambda: served.service.states["k2"] == "online")
    del reader


async def test_down(served: Served) -> None:
    assert await call(served, "post", "/v1/down") == {}
    assert served.service.went_down.is_set()


async def test_no_such_kernel(served: Served) -> None:
    for path in ("", "/dmesg", "/dmesg?follow=1", "/timeline"):
        with pytest.raises(NoSuchKernel, match="nobody"):
            await call(served, "get", f"/v1/kernels/nobody{path}")
    with pytest.raises(NoSuchKernel, match="no kernel is named 'nobody'") as caught:
        await call(served, "get", "/v1/kernels/nobody")
    assert caught.value.hint == "there are: primary, k1, k2"


# Lists


async def test_a_list_ends(served: Served) -> None:
    for number in range(3):
        await served.service.happen(f"thing {number}")
    assert [event["text"] for event in await lines("/v1/events", served)] == ["thing 0", "thing 1", "thing 2"]
    assert [event["seq"] for event in await lines("/v1/events?since=2", served)] == [3]
    assert [line["text"] for line in await lines("/v1/kernels/k1/dmesg", served)][-1] == "thing 2"
    assert await lines("/v1/events?since=3", served) == []
    assert await call(served, "get", "/v1/events?since=1") == await lines("/v1/events?since=1", served)
    assert await call(served, "get", "/v1/events?since=3") == []


async def test_a_followed_list_comes_line_by_line(served: Served) -> None:
    following = follow(served.socket, "/v1/events?follow=1")
    for number in range(5):
        await served.service.happen(f"thing {number}")
        assert (await anext(following))["text"] == f"thing {number}"
    await following.aclose()  # type: ignore[attr-defined]
    await served.service.wait_followers(0)


async def test_the_synchronous_client_follows_too(served: Served) -> None:
    await served.service.happen("first")
    following = Client("m", run_dir=served.run_dir).follow("/v1/events?follow=1")
    assert (await asyncio.to_thread(next, following))["text"] == "first"
    await served.service.happen("second")
    assert (await asyncio.to_thread(next, following))["text"] == "second"
    await served.server.close()
    assert await asyncio.to_thread(next, following, None) is None


async def test_a_list_that_fails_ends_with_its_error(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def events(self: FakeService, since: int, follow: bool) -> AsyncIterator[dict[str, Any]]:
        yield {"seq": 1}
        raise PeerDied("k1 died", "boot it")

    monkeypatch.setattr(FakeService, "events", events)
    following = follow(served.socket, "/v1/events")
    assert await anext(following) == {"seq": 1}
    with pytest.raises(PeerDied, match="k1 died") as caught:
        await anext(following)
    assert caught.value.hint == "boot it"
    blocking = Client("m", run_dir=served.run_dir).follow("/v1/events")
    assert await asyncio.to_thread(next, blocking) == {"seq": 1}
    with pytest.raises(PeerDied, match="k1 died"):
        await asyncio.to_thread(next, blocking)


async def test_an_idle_follower_that_goes_is_noticed(served: Served) -> None:
    for _ in range(3):
        _reader, writer = await asyncio.open_unix_connection(str(served.socket))
        writer.write(b"GET /v1/events?follow=1 HTTP/1.1\r\nHost: m\r\n\r\n")
        await served.service.wait_followers(1)
        writer.transport.abort()
        await served.service.wait_followers(0)


async def test_a_follower_that_reads_nothing_holds_up_only_itself(served: Served) -> None:
    _reader, writer = await asyncio.open_unix_connection(str(served.socket), limit=1 << 10)
    writer.write(b"GET /v1/events?follow=1 HTTP/1.1\r\nHost: m\r\n\r\n")
    await served.service.wait_followers(1)
    for _ in range(200):
        await served.service.happen("x" * 10_000)
    assert len(await lines("/v1/events", served)) == 200
    assert served.service.followers == 1
    writer.transport.abort()
    await served.service.wait_followers(0)


# Its end


async def test_closing_ends_lists_and_streams(served: Served) -> None:
    following = [follow(served.socket, "/v1/events?follow=1") for _ in range(3)]
    pending = [asyncio.ensure_future(anext(item, None)) for item in following]
    await served.service.wait_followers(3)
    stream = await connect(served.socket, "/v1/kernels/k1/stream/echo")
    terminal = await connect(served.socket, "/v1/kernels/k1/tty/0")
    await served.server.close()
    assert await asyncio.gather(*pending) == [None, None, None]
    with pytest.raises(PeerDied, match="going down"):
        await stream.receive()
    while (received := await _terminal_end(terminal)) is not None:
        assert received[0] == 0
    assert not served.socket.exists()


async def _terminal_end(terminal: Any) -> tuple[int, bytes] | None:
    try:
        received: tuple[int, bytes] | None = await terminal.receive()
    except PeerDied:
        return None
    return received


async def test_closing_does_not_wait_for_those_who_do_not_read(served: Served) -> None:
    stream = await connect(served.socket, "/v1/kernels/k1/stream/source", {"size": 1 << 30, "chunk": 1 << 16})
    _reader, writer = await asyncio.open_unix_connection(str(served.socket), limit=1 << 10)
    writer.write(b"GET /v1/events?follow=1 HTTP/1.1\r\nHost: m\r\n\r\n")
    await served.service.wait_followers(1)
    for _ in range(100):
        await served.service.happen("x" * 10_000)
    await asyncio.wait_for(served.server.close(), 20)
    assert served.service.followers == 0
    writer.transport.abort()
    await stream.close()


async def test_requests_under_way_are_answered_before_the_end(served: Served) -> None:
    served.service.may_boot.clear()
    booting = asyncio.create_task(call(served, "post", "/v1/kernels/k2/boot"))
    await served.service.booting.wait()
    closing = asyncio.create_task(served.server.close())
    await asyncio.sleep(0)
    served.service.may_boot.set()
    assert (await booting)["state"] == "online"
    await closing


async def test_a_machine_that_ends_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{"seq":1}\r\n1\r\n\n\r\n')
        await writer.drain()
        writer.transport.abort()

    (tmp_path / "m").mkdir()
    path = tmp_path / "m" / "control.sock"
    dying = await asyncio.start_unix_server(half, str(path))
    client = await asyncio.to_thread(Client, "m", run_dir=tmp_path)
    with pytest.raises(PeerDied, match="'m' ended before it had answered"):
        await asyncio.to_thread(client.get, "/v1/machine")
    following = client.follow("/v1/events?follow=1")
    assert await asyncio.to_thread(next, following) == {"seq": 1}
    with pytest.raises(PeerDied):
        await asyncio.to_thread(next, following)
    coming = follow(path, "/v1/events?follow=1")
    assert await anext(coming) == {"seq": 1}
    with pytest.raises(PeerDied):
        await anext(coming)
    dying.close()
    path.unlink(missing_ok=True)  # Python 3.13 did it already
    with pytest.raises(NoSuchMachine, match="'m' is not running"):
        await asyncio.to_thread(client.get, "/v1/machine")
    with pytest.raises(NoSuchMachine, match="'m' is not running"):
        await anext(follow(path, "/v1/events"))


# The socket


async def test_the_socket_is_ours_alone(served: Served) -> None:
    assert stat.S_IMODE(served.socket.stat().st_mode) == 0o600


async def test_one_machine_a_socket(served: Served) -> None:
    with pytest.raises(IllegalState, match="running already"):
        await serve(FakeService(), served.socket)
    assert (await call(served, "get", "/v1/machine"))["name"] == "m"


async def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    path = tmp_path / "m" / "control.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    again = await serve(FakeService(), path)
    assert (await asyncio.to_thread(Client("m", run_dir=tmp_path).get, "/v1/machine"))["name"] == "m"
    await again.close()


async def test_a_run_directory_may_be_deep(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 120) / "m" / "control.sock"
    path.parent.mkdir(parents=True)
    deep = await serve(FakeService(), path)
    client = Client(run_dir=path.parents[1])
    assert (await asyncio.to_thread(client.get, "/v1/machine"))["name"] == "m"
    stream = await connect(path, "/v1/kernels/k1/stream/echo")
    await stream.send(b"deep")
    assert await stream.receive() == (0, b"deep")
    await stream.close()
    await deep.close()
    assert not path.exists()


# The document


async def test_the_document_has_every_route_that_is_served(served: Served) -> None:
    document = await call(served, "get", "/v1/openapi.json")
    app = served.server._runner.app
    real = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    documented = {(method, path) for path, item in document["paths"].items() for method in item}
    assert documented == real
    assert len(real) == len(routes.ROUTES)
    assert document == routes.document("0.1.0")
    assert json.loads(json.dumps(document)) == document
