"""Programs of two kernels, over their sockets and over rings of their own: what they say to each other, what
they may not, and every way they end."""

import asyncio
import gc
import os
import socket
import struct
from pathlib import Path

import pytest

from popnet.core import limits
from popnet.core.errors import (
    DeadlineExceeded,
    NoSuchKernel,
    NoSuchService,
    Overloaded,
    PeerDied,
    Refused,
    StreamClosed,
    Unavailable,
)
from popnet.kernel import poster, registered
from popnet.kernel.places import PLACES
from popnet.kernel.programs import PROGRAMS_MAX, PROGRAMS_OF_USER_MAX
from popnet.message.kinds import USER_FIRST, Ring
from popnet.message.stream import Stream
from popnet.program import hosted, routed
from popnet.program.connection import Connection
from popnet.program.dialing import open_connection
from popnet.transport.handover import receive_packet, send_packet
from tests.message.ends import deaf, echo, read_all

from .village import ATTACH, KIDS, fails, until, village

KIND = USER_FIRST

both = pytest.mark.parametrize("attach", ATTACH, ids=("socket", "attach"))


async def answer_twice(kid: int, body: bytes) -> bytes:
    return bytes([kid]) + body + body


# Conversations


@both
async def test_a_program_learns_where_it_is(tmp_path: Path, attach: bool) -> None:
    async with village(tmp_path) as here:
        me = await here.program(2, attach)
        assert (me.kid, me.kernel, me.machine, me.generation) == (2, "k2", "village", 5)
        assert me.kernels() == KIDS
        assert here.b.counters()["connected"] == 1


@both
@pytest.mark.parametrize("kernel", ["k1", 1])
async def test_a_stream_from_program_to_program(tmp_path: Path, attach: bool, kernel: str | int) -> None:
    seen = []

    async def service(stream: Stream) -> None:
        seen.append((stream.service, stream.params, stream.peer))
        await echo(stream)

    async with village(tmp_path) as here:
        server, client = await here.program(1, attach), await here.program(2, attach)
        await server.serve("echo", service)
        stream = await client.open(kernel, "echo", {"x": [1]})
        assert (stream.service, stream.params, stream.peer) == ("echo", {"x": [1]}, 1)
        await stream.send(b"hello", 7)
        assert await stream.receive() == (7, b"hello")
        big = os.urandom(3_000_000)
        sending = asyncio.ensure_future(stream.send(big))
        got = b""
        while len(got) < len(big):
            item = await stream.receive()
            assert item is not None
            got += item[1]
        await sending
        assert got == big
        await stream.close()
        assert await stream.receive() is None
        assert stream.result == {"count": len(big) + 5}
        assert seen == [("echo", {"x": [1]}, 2)]
        await until(lambda: here.a.counters()["streams"] == here.b.counters()["streams"] == 0)


@both
async def test_the_longest_record_stays_whole(tmp_path: Path, attach: bool) -> None:
    async with village(tmp_path) as here:
        server, client = await here.program(1, attach), await here.program(2, attach)
        await server.serve("echo", echo)
        stream = await client.open("k1", "echo")
        record = os.urandom(limits.STREAM_RECORD_MAX)
        await stream.send(record, 255)
        assert await stream.receive() == (255, record)


@both
async def test_programs_of_one_kernel_talk_too(tmp_path: Path, attach: bool) -> None:
    async with village(tmp_path) as here:
        server, client = await here.program(1, attach), await here.program(1)
        await server.serve("echo", echo)
        stream = await client.open("k1", "echo")
        await stream.send(b"near")
        assert await stream.receive() == (0, b"near")


@both
async def test_a_kernels_own_endpoint_and_a_program(tmp_path: Path, attach: bool) -> None:
    """A program's service is a service of its kernel like others."""
    async with village(tmp_path) as here:
        server = await here.program(1, attach)
        await server.serve("echo", echo)
        stream = await here.ends.b.open(1, "echo")
        await stream.send(b"x")
        assert await stream.receive() == (0, b"x")
        here.ends.b.serve("native", echo)
        back = await server.open("k2", "native")
        await back.send(b"y")
        assert await back.receive() == (0, b"y")


@both
async def test_calls_and_messages(tmp_path: Path, attach: bool) -> None:
    async with village(tmp_path) as here:
        server, client = await here.program(1, attach), await here.program(2, attach)
        got: list[tuple[int, bytes]] = []
        await server.answer(KIND, answer_twice)
        await server.on(KIND, lambda kid, body: got.append((kid, body)))
        assert await client.call("k1", KIND, b"ab", 10.0) == b"\x02abab"
        assert await client.call("k1", KIND, b"cd", 10.0, high=True) == b"\x02cdcd"
        large = os.urandom(1_000_000)
        assert await client.call("k1", KIND, large, 10.0) == b"\x02" + large + large
        for n in range(300):
            assert client.post("k1", KIND, struct.pack("<I", n))
        await until(lambda: len(got) == 300)
        assert got == [(2, struct.pack("<I", n)) for n in range(300)]
        assert client.post("k1", KIND, b"high", high=True)
        await until(lambda: len(got) == 301)


async def test_a_message_may_be_as_large_as_is_said(tmp_path: Path) -> None:
    async with village(tmp_path) as here:
        server, client = await here.program(1), await here.program(2, True)
        got: list[int] = []
        await server.on(KIND, lambda kid, body: got.append(len(body)))
        most = limits.MESSAGE_SIZE_MAX - routed.HEADER_SIZE_MAX
        assert client.post("k1", KIND, bytes(most))
        await until(lambda: got)
        assert got == [most]
        with pytest.raises(ValueError, match="at most"):
            client.post("k1", KIND, bytes(most + 1))


@both
async def test_what_is_posted_before_the_end_arrives(tmp_path: Path, attach: bool) -> None:
    async with village(tmp_path) as here:
        server, client = await here.program(1, attach), await here.program(2, attach)
        got: list[bytes] = []
        await server.on(KIND, lambda kid, body: got.append(body))
        for n in range(500):
            assert client.post("k1", KIND, b"%d" % n)
        await client.close()
        await until(lambda: len(got) == 500)


# Errors


@both
async def test_errors_come_as_they_were_raised(tmp_path: Path, attach: bool) -> None:
    async def no(stream: Stream) -> None:
        raise Refused("not today", "tomorrow", {"n": 1})

    async def late(stream: Stream) -> None:
        await stream.send(b"first")
        raise Refused("enough")

    async def refuse(kid: int, body: bytes) -> bytes:
        raise Refused("no call")

    async def hang(kid: int, body: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with village(tmp_path) as here:
        server, client = await here.program(1, attach), await here.program(2, attach)
        await server.serve("no", no)
        await server.serve("late", late)
        await server.answer(KIND, refuse)
        await server.answer(KIND + 1, hang)
        error = await fails(client.open("k1", "no"), Refused)
        assert (str(error), error.hint, error.result) == ("not today", "tomorrow", {"n": 1})
        stream = await client.open("k1", "late")
        assert await stream.receive() == (0, b"first")
        assert str(await fails(stream.receive(), Refused)) == "enough"
        assert str(await fails(client.call("k1", KIND, b"", 10.0), Refused)) == "no call"
        assert "k1" in str(await fails(client.call("k1", KIND + 1, b"", 0.01), DeadlineExceeded))
        await fails(client.call("k1", KIND + 2, b"", 10.0), NoSuchService)
        await fails(client.open("k1", "nothing"), NoSuchService)
        await fails(client.open("k7", "echo"), NoSuchKernel)
        await fails(client.open(99, "echo"), NoSuchKernel)
        await fails(client.open(-1, "echo"), NoSuchKernel)


async def test_no_kernel_here(tmp_path: Path) -> None:
    error = await fails(open_connection(str(tmp_path / "none")), Unavailable)
    assert "popnet exec" in error.hint


@both
async def test_half_closed_streams_go_on(tmp_path: Path, attach: bool) -> None:
    async def last_word(stream: Stream) -> None:
        said = await read_all(stream)
        await stream.send(b"".join(data for _, data in said))
        await stream.close({"done": True})

    async with village(tmp_path) as here:
        server, client = await here.program(1, attach), await here.program(2, attach)
        await server.serve("word", last_word)
        stream = await client.open("k1", "word")
        await stream.send(b"a")
        await stream.send(b"b")
        await stream.close()
        assert await stream.receive() == (0, b"ab")
        assert await stream.receive() is None
        assert stream.result == {"done": True}


@both
async def test_a_stream_let_go_of_ends_at_the_service(tmp_path: Path, attach: bool) -> None:
    ended = asyncio.Event()

    async def wait(stream: Stream) -> None:
        await stream.accept()
        try:
            await stream.receive()
        except StreamClosed:
            ended.set()

    async with village(tmp_path) as here:
        server, client = await here.program(1, attach), await here.program(2, attach)
        await server.serve("wait", wait)
        stream = await client.open("k1", "wait")
        stream.abort()
        await ended.wait()
        await until(lambda: here.a.counters()["streams"] == 0)


# The end of a program


def drop(connection: Connection) -> None:
    """What the death of a program's process does: its descriptors close, nothing is said."""
    connection._sock.shutdown(socket.SHUT_RDWR)


@both
async def test_the_death_of_a_server_ends_streams_and_calls_at_once(tmp_path: Path, attach: bool) -> None:
    asked = asyncio.Event()

    async def hang(kid: int, body: bytes) -> bytes:
        asked.set()
        await asyncio.Event().wait()
        return b""

    async with village(tmp_path) as here:
        server, client = await here.program(1, attach), await here.program(2, attach)
        await server.serve("deaf", deaf)
        await server.answer(KIND, hang)
        stream = await client.open("k1", "deaf")
        call = asyncio.ensure_future(client.call("k1", KIND, b"", 1000.0))
        await asked.wait()
        drop(server)
        assert "of kernel k1 ended" in str(await fails(stream.receive(), PeerDied))
        await fails(call, PeerDied)
        await until(lambda: here.a.counters()["connected"] == 0)
        assert here.a.counters()["registered"] == 0
        await fails(client.open("k1", "deaf"), NoSuchService)
        await fails(client.call("k1", KIND, b"", 10.0), NoSuchService)
        again = await here.program(1, attach)
        await again.serve("deaf", echo)
        await client.open("k1", "deaf")


@both
async def test_the_death_of_a_client_ends_what_it_opened(tmp_path: Path, attach: bool) -> None:
    errors = []

    async def service(stream: Stream) -> None:
        await read_all(stream)  # the client has closed its half: only its death can tell
        try:
            while True:
                await stream.send(b"x" * 60_000)
        except (PeerDied, StreamClosed) as error:
            errors.append(error)

    async with village(tmp_path) as here:
        server, client = await here.program(1, attach), await here.program(2, attach)
        await server.serve("flow", service)
        stream = await client.open("k1", "flow")
        await stream.close()
        await stream.receive()
        drop(client)
        await until(lambda: errors)
        await until(lambda: here.b.counters()["streams"] == here.a.counters()["streams"] == 0)


@both
async def test_the_end_of_the_kernel_ends_a_programs_streams(tmp_path: Path, attach: bool) -> None:
    async with village(tmp_path) as here:
        server, client = await here.program(1, attach), await here.program(2, attach)
        await server.serve("deaf", deaf)
        stream = await client.open("k1", "deaf")
        await here.b.stop()
        await fails(stream.receive(), PeerDied)
        await client.wait_closed()
        await fails(client.open("k1", "deaf"), PeerDied)
        assert not client.post("k1", KIND, b"")


@both
async def test_a_kernel_that_dies_is_told(tmp_path: Path, attach: bool) -> None:
    async with village(tmp_path) as here:
        server, client = await here.program(1, attach), await here.program(2, attach)
        await server.serve("deaf", deaf)
        stream = await client.open("k1", "deaf")
        here.ends.b.remove_link(1, "kernel k1 was killed")
        assert str(await fails(stream.receive(), PeerDied)) == "kernel k1 was killed"


# What they may not


@both
@pytest.mark.parametrize("service", ["exec", "dial", "capture", "inject", "tty", "trace"])
async def test_the_kernels_own_services_are_not_for_programs(
    tmp_path: Path, attach: bool, service: str
) -> None:
    async with village(tmp_path) as here:
        here.ends.a.serve(service, echo)
        client = await here.program(2, attach)
        assert "does not let its programs" in str(await fails(client.open("k1", service), Refused))
        assert "does not let its programs" in str(await fails(client.serve(service, echo), Refused))
        assert here.b.counters()["forbidden"] == 2
        # The guard is what stops it: the service is there for the kernel.
        stream = await here.ends.b.open(1, service)
        await stream.send(b"x")
        assert await stream.receive() == (0, b"x")


@both
async def test_a_list_of_services_is_all_that_programs_see(tmp_path: Path, attach: bool) -> None:
    async with village(tmp_path, ("echo",)) as here:
        server, client = await here.program(1, attach), await here.program(2, attach)
        await server.serve("echo", echo)
        stream = await client.open("k1", "echo")
        await stream.send(b"x")
        assert await stream.receive() == (0, b"x")
        here.ends.a.serve("store", echo)
        error = await fails(client.open("k1", "store"), Refused)
        assert str(error) == "kernel k2 does not let its programs use the service 'store'"
        assert error.hint == "add it to `services` of k2 in the machine file"
        await fails(server.serve("other", echo), Refused)
        await fails(server.on(KIND, lambda kid, body: None), Refused)
        await fails(server.answer(KIND, answer_twice), Refused)
        await fails(client.call("k1", KIND, b"", 10.0), Refused)
        before = here.b.counters()["forbidden"]
        assert client.post("k1", KIND, b"")
        await until(lambda: here.b.counters()["forbidden"] == before + 1)


async def test_an_empty_list_lets_nothing(tmp_path: Path) -> None:
    async with village(tmp_path, ()) as here:
        client = await here.program(2)
        await fails(client.serve("echo", echo), Refused)


async def test_kinds_of_the_kernels_are_not_for_programs(tmp_path: Path) -> None:
    async with village(tmp_path) as here:
        client = await here.program(2)
        got: list[bytes] = []
        here.ends.a.on(40_000 - 32_768 + 256, lambda kid, body: got.append(body))
        for kind in (0, 1, 33, USER_FIRST - 1, 1 << 16, (1 << 32) - 1):
            await fails(client.call("k1", kind, b"", 10.0), Refused)
            await fails(client.on(kind, lambda kid, body: None), Refused)
            client.post("k1", kind, b"")
        await client.flush()
        assert here.b.counters()["forbidden"] == 18
        assert got == []


async def test_a_name_belongs_to_one_program_at_a_time(tmp_path: Path) -> None:
    async with village(tmp_path) as here:
        first, second = await here.program(1), await here.program(1, True)
        await first.serve("echo", echo)
        await first.on(KIND, lambda kid, body: None)
        assert "belongs to program" in str(await fails(second.serve("echo", deaf), Refused))
        await fails(second.on(KIND, lambda kid, body: None), Refused)
        await first.unserve("echo")
        await second.serve("echo", echo)
        await first.unserve("echo")  # not its own any more: nothing happens
        client = await here.program(2)
        stream = await client.open("k1", "echo")
        await stream.send(b"second")
        assert await stream.receive() == (0, b"second")


# Bounds


async def test_too_many_programs_are_turned_away(tmp_path: Path) -> None:
    async with village(tmp_path) as here:
        for _ in range(PROGRAMS_MAX if os.geteuid() == 0 else PROGRAMS_OF_USER_MAX):
            await here.program(1)
        assert "programs connected already" in str(await fails(here.program(1), Overloaded))
        assert here.a.counters()["turned_away"] == 1


async def test_streams_of_all_programs_are_bounded(tmp_path: Path) -> None:
    async with village(tmp_path) as here:
        server, client = await here.program(1), await here.program(2)
        await server.serve("deaf", deaf)
        held = [await client.open("k1", "deaf") for _ in range(PLACES)]
        assert "streams already" in str(await fails(client.open("k1", "deaf"), Overloaded))
        held.pop().abort()
        await until(lambda: here.b.counters()["streams"] == here.a.counters()["streams"] == PLACES - 1)
        await client.open("k1", "deaf")


async def test_registrations_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registered, "REGISTERED_MAX", 3)
    async with village(tmp_path) as here:
        server = await here.program(1)
        for n in range(3):
            await server.serve(f"s{n}", echo)
        await fails(server.serve("s3", echo), Refused)


@both
async def test_a_program_that_does_not_read_costs_its_messages_only(
    tmp_path: Path, attach: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with village(tmp_path) as here:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(here.paths[1])
        slow = await here.program(1, attach)
        await slow.on(KIND, lambda kid, body: None)
        link = slow._link
        assert link is not None
        slow._endpoint._turn = lambda: None  # type: ignore[method-assign]  # it reads no more
        client = await here.program(2)
        for _ in range(100):
            assert client.post("k1", KIND, bytes(50_000))
        await until(lambda: here.a.counters().get("dropped", 0) > 10)
        assert here.a.counters()["connected"] == 2
        # Everybody else goes on.
        other = await here.program(1)
        await other.serve("echo", echo)
        stream = await client.open("k1", "echo")
        await stream.send(b"x")
        assert await stream.receive() == (0, b"x")
        sock.close()


# Nonsense


async def raw(path: str) -> socket.socket:
    """A connection whose greeting is read, and answered by nobody yet."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(path)
    await asyncio.to_thread(receive_packet, sock)
    return sock


@pytest.mark.parametrize(
    "packets",
    [
        [b"not json"],
        [b"{}"],
        [b'{"popnet": 2, "attach": false}'],
        [b'{"popnet": 1, "attach": true}'],
        [b'{"popnet": 1, "attach": false}', b"x"],
        [b'{"popnet": 1, "attach": false}', bytes([9]) + bytes(20)],
        [b'{"popnet": 1, "attach": false}', bytes([1]) + bytes(6)],
        [b'{"popnet": 1, "attach": false}', bytes([1]) + bytes(100_000) + bytes(50_000)],
        [b'{"popnet": 1, "attach": false}', struct.pack("<BIII", 1, 256, 0, 1) + b"x"],
        [b'{"popnet": 1, "attach": false}', struct.pack("<BIII", 0, 257, 0, 1)],
    ],
)
async def test_nonsense_drops_the_program_and_nobody_else(tmp_path: Path, packets: list[bytes]) -> None:
    async with village(tmp_path) as here:
        here.ends.b.serve("echo", echo)
        good = await here.program(1)
        bad = await raw(here.paths[1])
        for packet in packets:
            bad.send(packet)
        await until(lambda: here.a.counters().get("violations"))
        await until(lambda: here.a.counters()["connected"] == 1)
        assert [level for level, text in here.log if "dropped" in text] == ["err"]
        stream = await good.open("k2", "echo")
        await stream.send(b"x")
        assert await stream.receive() == (0, b"x")
        bad.close()


async def test_descriptors_that_are_no_link_are_refused(tmp_path: Path) -> None:
    gc.collect()  # what earlier tests left is no business of this one
    async with village(tmp_path) as here:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for fds in ((0,), (0, 1), (0, 1, 2)):
            bad = await raw(here.paths[1])
            send_packet(bad, {"popnet": 1, "attach": True}, fds)
            await until(lambda: here.a.counters()["connected"] == 0)
            bad.close()
        assert here.a.counters()["violations"] == 3
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


async def test_an_attached_program_may_not_speak_on_its_socket(tmp_path: Path) -> None:
    async with village(tmp_path) as here:
        bad = await here.program(1, attach=True)
        bad._sock.send(b"hello")
        await bad.wait_closed()
        await until(lambda: here.a.counters()["connected"] == 0)
        assert here.a.counters()["violations"] == 1


async def test_who_says_nothing_is_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted, "GREETING_TIMEOUT_S", 0.01)
    async with village(tmp_path) as here:
        silent = await raw(here.paths[1])
        await until(lambda: here.a.counters().get("silent"))
        assert here.a.counters()["connected"] == 0
        silent.close()


async def test_who_comes_and_goes_is_no_violation(tmp_path: Path) -> None:
    async with village(tmp_path) as here:
        for _ in range(20):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.connect(here.paths[1])
            sock.close()
        await until(lambda: here.a.counters().get("accepted") == 20)
        await until(lambda: here.a.counters()["connected"] == 0)
        assert here.a.counters().get("violations") is None


async def test_a_ring_full_of_nonsense(tmp_path: Path) -> None:
    async with village(tmp_path) as here:
        bad = await here.program(1, attach=True)
        assert bad._link is not None
        bad._link.send(Ring.NORMAL, b"short", 256)
        await until(lambda: here.a.counters().get("violations"))
        await bad.wait_closed()


# Links made on first use


async def test_messages_wait_for_the_first_link(tmp_path: Path) -> None:
    async with village(tmp_path) as here:
        client = await here.program(1)
        got: list[bytes] = []
        here.ends.b.on(KIND, lambda kid, body: got.append(body))
        here.ends.a.remove_link(2, "for the test")
        here.ends.b.remove_link(1, "for the test")
        may = asyncio.Event()

        async def connect(kid: int) -> None:
            await may.wait()
            here.ends.join()

        here.connect = connect  # type: ignore[method-assign]
        for n in range(poster.UNSENT_MAX + 5):
            assert client.post("k2", KIND, b"%d" % n)
        await client.flush()
        may.set()
        await until(lambda: len(got) == poster.UNSENT_MAX)
        assert got == [b"%d" % n for n in range(poster.UNSENT_MAX)]
        assert here.a.counters()["dropped"] == 5


async def test_messages_to_a_kernel_that_does_not_run_are_dropped(tmp_path: Path) -> None:
    async with village(tmp_path) as here:
        client = await here.program(1)
        here.ends.a.remove_link(2, "for the test")

        async def connect(kid: int) -> None:
            raise PeerDied("it does not run")

        here.connect = connect  # type: ignore[method-assign]
        assert client.post("k2", KIND, b"")
        await until(lambda: here.a.counters().get("dropped") == 1)
