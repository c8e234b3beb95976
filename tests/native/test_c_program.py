"""A program in C on a link with an endpoint of ours, through the published headers."""

import asyncio
import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from popnet.core.errors import NoSuchService, Refused
from popnet.core.limits import MESSAGE_SIZE_MAX
from popnet.message.endpoint import Endpoint
from popnet.message.kinds import USER_FIRST
from popnet.transport._native import Link
from popnet.transport.doorbell import create_doorbell
from popnet.transport.handover import create_handover, receive_packet, send_packet
from popnet.transport.headers import include_dir
from popnet.transport.window import attach_window, create_window

ROOT = Path(__file__).parents[2]
INCLUDE = include_dir()
QUIT, ECHO, REVERSE, ASK, ANSWER_ME = range(USER_FIRST, USER_FIRST + 5)
KID, C_KID, GENERATION, C_GENERATION = 1, 2, 3, 5
PATIENCE_S = 60
MIB = 1 << 20
FLAGS = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]

needs_compiler = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")


def compile_c(source: Path, binary: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = ["gcc", *FLAGS, *flags, f"-I{INCLUDE}", str(source), "-o", str(binary)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    binary = tmp_path_factory.mktemp("c") / "c_program"
    built = compile_c(Path(__file__).with_name("c_program.c"), binary)
    assert built.returncode == 0, built.stderr
    return binary


@dataclass(slots=True)
class Session:
    """Our endpoint, the process in C, and the messages that came from it."""

    endpoint: Endpoint
    process: subprocess.Popen[bytes]
    came: "asyncio.Queue[tuple[int, bytes]]" = field(default_factory=asyncio.Queue)

    async def next(self) -> tuple[int, bytes]:
        return await asyncio.wait_for(self.came.get(), PATIENCE_S)

    def post(self, kind: int, body: bytes, high: bool = False) -> None:
        assert self.endpoint.post(C_KID, kind, body, high)

    async def quit(self) -> int:
        self.post(QUIT, b"")
        return await asyncio.to_thread(self.process.wait, PATIENCE_S)


@contextlib.contextmanager
def running(program: Path) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    here, there = create_handover()
    with here, there:
        process = subprocess.Popen([program, str(there.fileno())], pass_fds=[there.fileno()])
        try:
            there.close()
            here.settimeout(PATIENCE_S)
            yield process, here
        finally:
            process.kill()
            process.wait()


@contextlib.asynccontextmanager
async def session(program: Path, believed: int = C_GENERATION) -> AsyncIterator[Session]:
    """A link of kernel KID to the program, which we believe to be of generation *believed*."""

    async def connect(kid: int) -> None:
        raise NoSuchService(f"nobody would connect us to {kid}")

    bell = create_doorbell()
    window, fd = create_window(KID, GENERATION, C_KID)
    with running(program) as (process, sock):
        send_packet(sock, {}, [fd, bell])
        packet = await asyncio.to_thread(receive_packet, sock)
        assert packet is not None
        theirs, their_bell = packet[1]
        peer = attach_window(theirs)
        assert (peer.kid, peer.generation, peer.peer_kid) == (C_KID, C_GENERATION, KID)
        endpoint = Endpoint(KID, GENERATION, bell, connect)
        found = Session(endpoint, process)
        endpoint.start()
        try:
            for kind in (ECHO, ASK):
                endpoint.on(kind, lambda kid, body, kind=kind: found.came.put_nowait((kind, body)))  # type: ignore[misc]
            endpoint.add_link(C_KID, believed, Link(window, peer, their_bell, -1))
            yield found
        finally:
            await endpoint.stop()
            for descriptor in (fd, bell, theirs, their_bell):
                os.close(descriptor)


@needs_compiler
@pytest.mark.parametrize("high", [False, True])
async def test_messages_of_every_size(program: Path, high: bool) -> None:
    """Also at the edges of fragments: 16 KiB on the high ring, 64 KiB on the normal one."""
    dice = random.Random(7)
    async with session(program) as it:
        for size in (0, 1, 47, 48, 16384, 16385, 65535, 65536, 65537, 131072, MIB, MIB + 1):
            body = dice.randbytes(size)
            it.post(ECHO, body, high)
            assert await it.next() == (ECHO, body)
        assert await it.quit() == 0


@needs_compiler
async def test_many_messages_stay_in_order_through_full_rings(program: Path) -> None:
    dice = random.Random(8)
    bodies = [number.to_bytes(4, "little") + dice.randbytes(dice.randrange(9000)) for number in range(1000)]
    async with session(program) as it:
        for body in bodies:
            it.post(ECHO, body)
        assert [await it.next() for _ in bodies] == [(ECHO, body) for body in bodies]
        assert await it.quit() == 0


@needs_compiler
async def test_the_largest_message(program: Path) -> None:
    body = random.Random(9).randbytes(MIB) * (MESSAGE_SIZE_MAX // MIB)
    async with session(program) as it:
        it.post(ECHO, body)
        assert await it.next() == (ECHO, body)
        assert await it.quit() == 0


@needs_compiler
async def test_calls_both_ways(program: Path) -> None:
    async def answer(kid: int, body: bytes) -> bytes:
        if not body:
            raise Refused("ask something")
        return b"you asked " + body

    async with session(program) as it:
        it.endpoint.answer(ANSWER_ME, answer)
        assert await it.endpoint.call(C_KID, REVERSE, b"abc", PATIENCE_S) == b"cba"
        large = random.Random(10).randbytes(MIB)
        assert await it.endpoint.call(C_KID, REVERSE, large, PATIENCE_S) == large[::-1]
        assert await it.endpoint.call(C_KID, REVERSE, b"high", PATIENCE_S, high=True) == b"hgih"
        with pytest.raises(Refused, match="nothing to reverse") as refused:
            await it.endpoint.call(C_KID, REVERSE, b"", PATIENCE_S)
        assert refused.value.hint == "send some"
        it.post(ASK, large)
        assert await it.next() == (ASK, b"you asked " + large)
        assert await it.quit() == 0


@needs_compiler
async def test_another_generation_is_told_so(program: Path) -> None:
    """What we send to a generation that does not run is refused, and our link ends."""
    down: asyncio.Queue[str] = asyncio.Queue()
    async with session(program, believed=C_GENERATION + 1) as it:
        it.endpoint.on_peer_down(lambda kid, reason: down.put_nowait(reason))
        it.post(ECHO, b"for somebody else")
        assert await asyncio.wait_for(down.get(), PATIENCE_S)
        assert not it.endpoint.has_link(C_KID) and it.came.empty()


@needs_compiler
async def test_an_unknown_kind_is_answered(program: Path) -> None:
    async with session(program) as it:
        it.post(USER_FIRST + 99, b"who knows")
        it.post(ECHO, b"still there")
        assert await it.next() == (ECHO, b"still there")
        assert any("unknown" in name and count for name, count in it.endpoint.counters().items())
        assert await it.quit() == 0


@needs_compiler
def test_an_unsealed_window_is_refused(program: Path) -> None:
    fd = os.memfd_create("unsealed")
    _window, sealed = create_window(KID, GENERATION, C_KID)
    os.ftruncate(fd, os.fstat(sealed).st_size)
    bell = create_doorbell()
    with running(program) as (process, sock):
        send_packet(sock, {}, [fd, bell])
        assert process.wait(PATIENCE_S) == 1
    for descriptor in (fd, sealed, bell):
        os.close(descriptor)


@needs_compiler
@pytest.mark.parametrize("first", ["popnet_link.h", "popnet_messages.h"])
def test_each_header_stands_alone(first: str, tmp_path: Path) -> None:
    source = tmp_path / "alone.c"
    source.write_text(f'#include "{first}"\n#include "{first}"\nint main(void) {{ return 0; }}\n')
    built = compile_c(source, tmp_path / "alone")
    assert built.returncode == 0, built.stderr


def generated() -> str:
    tool = ROOT / "tools/messages_header"
    return subprocess.run(
        [sys.executable, tool, "--print"], capture_output=True, text=True, check=True
    ).stdout


def test_the_committed_header_is_the_generated_one() -> None:
    text = generated()
    assert (INCLUDE / "popnet_messages.h").read_text() == text, (
        "kinds or limits changed: run tools/messages_header"
    )
    assert "POPNET_OPEN = 1," in text and f"#define POPNET_USER_FIRST {USER_FIRST}u" in text
