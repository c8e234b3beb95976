"""Programs inside kernels that talk to each other by `popnet.connect()`: real processes, in real kernels."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.conftest import _lab
from tests.live.lab import Lab

ROOT = str(Path(__file__).parents[2])

PYTHON = str(getattr(sys, "_base_executable", sys.executable))
"""The interpreter below any virtual environment: programs in kernels need popnet and the standard library."""

LIBRARY = Path("/var/tmp") / f"popnet-test-{os.getpid()}"
"""A copy of popnet where kernels see it: they have a /tmp of their own, and a checkout may be in /tmp."""


@pytest.fixture(scope="module", autouse=True)
def library() -> Iterator[None]:
    LIBRARY.mkdir(mode=0o755)
    try:
        shutil.copytree(
            Path(ROOT) / "popnet", LIBRARY / "popnet", ignore=shutil.ignore_patterns("__pycache__")
        )
        yield
    finally:
        shutil.rmtree(LIBRARY)


MACHINE = """\
apiVersion: popnet/v1
name: {name}
kernels:
  k1: {{image: full}}
  k2: {{image: full, services: [echo, listed]}}
  k3: {{image: light}}
"""

SERVER = """
import asyncio, os, popnet

async def echo(stream):
    while (item := await stream.receive()) is not None:
        await stream.send(item[1], item[0])
    await stream.close({"by": os.getpid()})

async def main():
    async with popnet.connect(attach=ATTACH) as me:
        await me.serve("echo", echo)
        await me.answer(0x8000, double)
        print(os.getpid(), flush=True)
        await me.wait_closed()

async def double(kid, body):
    return body + body

asyncio.run(main())
"""

CLIENT = """
import asyncio, popnet

async def main():
    async with popnet.connect(attach=ATTACH) as me:
        stream = await me.open("k1", "echo")
        await stream.send(b"hello from " + me.kernel.encode(), 3)
        print(await stream.receive())
        await stream.close()
        print(await stream.receive(), sorted(stream.result))

asyncio.run(main())
"""

WAITER = """
import asyncio, popnet

async def main():
    async with popnet.connect(attach=ATTACH) as me:
        stream = await me.open("k1", "echo")
        await stream.send(b"x")
        print(await stream.receive(), flush=True)
        try:
            await stream.receive()
        except popnet.PopnetError as error:
            print(type(error).__name__, error)

asyncio.run(main())
"""

FORBIDDEN = """
import popnet

with popnet.connect(attach=ATTACH) as me:
    for kernel, service in (("k1", "exec"), ("primary", "tty"), ("k1", "unlisted")):
        try:
            me.open(kernel, service, {"argv": ["id"]})
            print("opened", service)
        except popnet.PopnetError as error:
            print(type(error).__name__, error, "|", error.hint)
"""

SCRIPT = """
import popnet

with popnet.connect(attach=ATTACH) as me:
    print(me.kernel, me.call("k1", 0x8000, b"ab", timeout_s=20))
    stream = me.open("k1", "echo")
    stream.send(b"blocking")
    print(stream.receive(timeout_s=20))
    try:
        stream.receive(timeout_s=0.01)
    except popnet.PopnetError as error:
        print(type(error).__name__)
"""

WATCHER = """
import asyncio, popnet

async def main():
    async with popnet.connect(attach=ATTACH) as me:
        notices = asyncio.Queue()
        await me.watch("service/echo", notices.put_nowait)
        await me.watch("service/exec", notices.put_nowait)
        print("watching", flush=True)
        while True:
            notice = await notices.get()
            print(notice.change.value, notice.name, notice.kid, flush=True)
            if not notice.change.up:
                return

asyncio.run(main())
"""

both = pytest.mark.parametrize("attach", [False, True], ids=("socket", "attach"))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    for lab in _lab(tmp_path_factory.mktemp("three")):
        yield lab.up(MACHINE)


def words(kernel: str, program: str, attach: bool) -> tuple[str, ...]:
    """The command that runs *program* in *kernel*."""
    text = program.replace("ATTACH", str(attach))
    return ("exec", "-e", f"PYTHONPATH={LIBRARY}", kernel, "--", PYTHON, "-B", "-c", text)


def run(lab: Lab, kernel: str, program: str, attach: bool) -> list[str]:
    return lab.popnet(*words(kernel, program, attach)).stdout.splitlines()


class Server:
    """A program that serves in a kernel; ended with `with`."""

    def __init__(self, lab: Lab, kernel: str, attach: bool) -> None:
        self._lab = lab
        self._kernel = kernel
        self._process = lab.start(*words(kernel, SERVER, attach))
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(self._process.communicate()[1].decode())
        self.pid = int(line)

    def kill(self) -> None:
        self._lab.exec(self._kernel, "kill", "-9", str(self.pid), check=False)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        self._process.communicate(timeout=30)


@pytest.mark.parametrize("kernel", ["primary", "k1", "k3"])
def test_every_kernel_has_the_socket(three: Lab, kernel: str) -> None:
    assert three.sh(kernel, "ls -l /run/popnet.sock").split()[:4:2] == ["srw-rw-rw-", "root"]


@both
def test_a_program_in_one_kernel_calls_one_in_another(three: Lab, attach: bool) -> None:
    with Server(three, "k1", attach) as server:
        assert server.pid > 1
        assert run(three, "k2", CLIENT, attach) == ["(3, b'hello from k2')", "None ['by']"]
        assert run(three, "k1", CLIENT, attach) == ["(3, b'hello from k1')", "None ['by']"]
        assert run(three, "primary", CLIENT, attach)[0] == "(3, b'hello from primary')"


@both
def test_a_script_without_asyncio(three: Lab, attach: bool) -> None:
    with Server(three, "k1", attach):
        lines = run(three, "primary", SCRIPT, attach)
        assert lines == ["primary b'abab'", "(0, b'blocking')", "DeadlineExceeded"]


@both
def test_a_server_that_is_killed_is_told_to_its_callers(three: Lab, attach: bool) -> None:
    with Server(three, "k1", attach) as server:
        waiter = three.start(*words("k2", WAITER, attach))
        assert waiter.stdout is not None
        assert waiter.stdout.readline() == b"(0, b'x')\n"
        server.kill()
        out, errors = waiter.communicate(timeout=30)
        assert re.fullmatch(rb"PeerDied program \d+ of kernel k1 ended\n", out), (out, errors)
    lost = three.popnet(*words("k2", CLIENT, attach), check=False)
    assert "NoSuchService" in lost.stderr, "its service went with it"


@both
def test_a_program_watches_services_come_and_go(three: Lab, attach: bool) -> None:
    watcher = three.start(*words("k2", WATCHER, attach))
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == b"watching\n"
    with Server(three, "k1", attach):
        assert watcher.stdout.readline() == b"service-up echo 1\n"
    out, errors = watcher.communicate(timeout=30)
    assert out == b"service-down echo 1\n", errors


@both
def test_what_a_program_may_not(three: Lab, attach: bool) -> None:
    lines = run(three, "k2", FORBIDDEN, attach)
    refused = "Refused kernel k2 does not let its programs use the service"
    assert lines == [
        f"{refused} 'exec' | it belongs to the kernels themselves",
        f"{refused} 'tty' | it belongs to the kernels themselves",
        f"{refused} 'unlisted' | add it to `services` of k2 in the machine file",
    ]


@both
def test_a_kernel_that_dies_takes_its_programs_along(lab: Lab, attach: bool) -> None:
    lab.up()
    server = Server(lab, "k1", attach)
    waiter = lab.start(*words("k2", WAITER, attach))
    assert waiter.stdout is not None
    assert waiter.stdout.readline() == b"(0, b'x')\n"
    lab.popnet("kill", "k1")
    out, errors = waiter.communicate(timeout=30)
    assert out.startswith(b"PeerDied"), (out, errors)
    server._process.communicate(timeout=30)
    lab.popnet("boot", "k1")
    with Server(lab, "k1", attach):
        assert run(lab, "k2", CLIENT, attach)[0] == "(3, b'hello from k2')"


@both
def test_without_root(lab: Lab, attach: bool) -> None:
    if os.geteuid() == 0:
        lab.prefix = (sys.executable, "-m", "tests.live.as_user")
        lab.environ = {"HOME": str(lab.tmp), "PYTHONPATH": ROOT}
    lab.up()
    with Server(lab, "k1", attach):
        assert run(lab, "k2", CLIENT, attach) == ["(3, b'hello from k2')", "None ['by']"]


def test_where_there_is_no_kernel() -> None:
    program = "import popnet\nwith popnet.connect(): pass"
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "no popnet kernel answers at /run/popnet.sock" in result.stderr
