"""The Python API over a fake machine; over real ones in tests/live/test_api.py."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import popnet
from popnet.api import Machine
from popnet.core.errors import (
    BootFailed,
    IllegalState,
    NoSuchKernel,
    NoSuchMachine,
    NoSuchProgram,
    PeerDied,
    Refused,
    StreamClosed,
)
from popnet.net import pcapng
from tests.control.fakes import Served, serving

FRAME = bytes.fromhex("02706f706e02 02706f706e01 88b5") + b"payload"


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as machine:
        yield machine


@pytest.fixture
def machine(served: Served) -> Machine:
    return Machine.attach("m", run_dir=served.run_dir)


# The package


def test_importing_the_package_loads_nothing_else() -> None:
    root = Path(popnet.__file__).parents[1]
    script = f"import sys; sys.path.insert(0, {str(root)!r}); import popnet; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", script], check=True, capture_output=True, text=True)
    assert [name for name in done.stdout.split() if name.startswith("popnet")] == ["popnet"]
    assert not {"typing", "asyncio", "re"} & set(done.stdout.split())


def test_the_names_of_the_package() -> None:
    assert popnet.Machine is Machine
    assert popnet.PopnetError.__module__ == "popnet.core.errors"
    for name in popnet.__all__:
        assert name in dir(popnet)
        assert getattr(popnet, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Node'"):
        _ = popnet.Node  # type: ignore[attr-defined]


def test_the_version_is_that_of_the_distribution() -> None:
    import tomllib

    text = (Path(popnet.__file__).parents[1] / "pyproject.toml").read_text()
    assert tomllib.loads(text)["project"]["version"] == popnet.__version__


# Machines


async def test_what_a_machine_tells(machine: Machine, served: Served) -> None:
    assert machine.name == "m"
    assert (await machine.info())["subnet"] == "10.1.2.0/24"
    assert [row["name"] for row in await machine.kernels()] == ["primary", "k1", "k2"]
    assert (await machine["k1"].info())["kid"] == 1
    assert (await machine.counters())["kernels"]["k1"]["nic"] == {"tx_frames": 7}
    assert (await machine.ssh_config()).startswith("Host k1")
    assert repr(machine["k1"]) == "<popnet.Kernel k1 of <popnet.Machine m>>"
    with pytest.raises(NoSuchKernel):
        await machine["nobody"].info()


async def test_boot_and_kill(machine: Machine) -> None:
    assert (await machine["k2"].boot())["timeline"][0]["step"] == "fork"
    with pytest.raises(IllegalState):
        await machine["k2"].boot()
    assert (await machine["k2"].kill())["state"] == "offline"
    assert (await machine["k2"].timeline())[0]["took_ms"] == 1.5


async def test_load_reboot_panic_hang_and_unload(machine: Machine) -> None:
    row = await machine["k9"].load(image="light", append="mem=64M hue=a&b c")
    assert (row["state"], row["image"], row["append"]) == ("loaded", "light", "mem=64M hue=a&b c")
    with pytest.raises(IllegalState):
        await machine["k9"].load()
    assert (await machine["k9"].boot())["state"] == "online"
    assert (await machine["k9"].reboot())["state"] == "online"
    assert (await machine["k9"].hang())["state"] == "online"
    assert (await machine["k9"].panic())["state"] == "failed"
    assert (await machine["k9"].unload())["state"] == "offline"


async def test_events_and_logs(machine: Machine, served: Served) -> None:
    await served.service.happen("one")
    await served.service.happen("two")
    assert [event["text"] async for event in machine.events(follow=False)] == ["one", "two"]
    assert [event["text"] async for event in machine.events(1, follow=False)] == ["two"]
    assert [line["text"] async for line in machine["k1"].dmesg()] == ["one", "two"]
    following = machine.events(2)
    coming = asyncio.ensure_future(anext(following))
    await served.service.wait_followers(1)
    await served.service.happen("three")
    assert (await coming)["text"] == "three"
    await following.aclose()  # type: ignore[attr-defined]


def test_a_machine_that_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(NoSuchMachine):
        Machine.attach("m", run_dir=tmp_path)
    with pytest.raises(NoSuchMachine, match="not up yet"):
        _ = Machine.from_file("demo", run_dir=tmp_path).name


async def test_attached_machines_are_left_up(machine: Machine, served: Served) -> None:
    async with machine as same:
        assert same is machine
    assert not served.service.went_down.is_set()


# Programs


async def test_run(machine: Machine) -> None:
    result = await machine["k1"].run(["uname", "-n"])
    assert (result.ok, result.status, result.stdout, result.stderr) == (True, 0, "k1\n", "")
    result = await machine["k1"].run(["exit", "3"])
    assert (result.ok, result.status, result.stdout, result.stderr) == (False, 3, "out", "err\n")
    result = await machine["k1"].run(["false"])
    assert (result.stderr, result.stderr_bytes) == ("it is � false\n", b"it is \xff false\n")
    asked = json.loads((await machine["k1"].run(["env"], env={"A": "1"}, cwd="/tmp")).stdout)
    assert asked == {"argv": ["env"], "env": {"A": "1"}, "cwd": "/tmp"}


async def test_run_with_input(machine: Machine) -> None:
    for data in (b"", b"x", b"y" * 3_000_000):
        assert (await machine["k1"].run(["cat"], input=data)).stdout_bytes == data
    assert (await machine["k1"].run(["cat"], input="grün")).stdout == "grün"
    assert (await machine["k1"].run(["uname", "-n"], input=b"z" * 3_000_000)).stdout == "k1\n"


async def test_run_that_has_to_succeed(machine: Machine) -> None:
    assert (await machine["k1"].run(["exit", "0"], check=True)).ok
    with pytest.raises(popnet.CommandFailed, match="k1: exit 3 ended with status 3") as caught:
        await machine["k1"].run(["exit", "3"], check=True)
    assert caught.value.hint == "it said: err"
    assert caught.value.result.stdout == "out"


async def test_run_that_takes_too_long(machine: Machine, served: Served) -> None:
    with pytest.raises(
        popnet.CommandTimeout, match=r"k1: sleep took more than 0\.05 s, and was killed"
    ) as caught:
        await machine["k1"].run(["sleep"], timeout_s=0.05)
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.result.status, caught.value.result.signal) == (137, 9)
    await served.service.wait_ended("exec")


async def test_run_that_cannot(machine: Machine) -> None:
    with pytest.raises(NoSuchProgram):
        await machine["k1"].run(["nonesuch"])
    with pytest.raises(NoSuchKernel):
        await machine["nobody"].run(["true"])


async def test_cancelling_a_run_ends_the_program(machine: Machine, served: Served) -> None:
    running = asyncio.create_task(machine["k1"].run(["sleep"]))
    await served.service.until(lambda: bool(served.service.opened))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await served.service.wait_ended("exec")


# Streams


async def test_console(machine: Machine, served: Served) -> None:
    served.service.terminals["k1", 1].marker("hello")
    assert "hello" in await machine["k1"].history(1)
    async with await machine["k1"].console(1) as console:
        shown = b""
        while b"hello" not in shown:
            received = await console.receive()
            assert received is not None
            shown += received[1]
        with pytest.raises(Refused):
            await machine["k1"].console(1)
        async with await machine["k1"].console(1, write=False), await machine["k1"].console(1, force=True):
            pass


async def test_dial(machine: Machine) -> None:
    async with await machine["k1"].dial(80) as connection:
        assert await connection.receive() == (0, b'{"port": 80, "host": "127.0.0.1"}')
        await connection.send(b"GET /")
        assert await connection.receive() == (0, b"GET /")
    with pytest.raises(Refused, match="refused"):
        await machine["k1"].dial(9)


async def test_inject_and_capture(machine: Machine, served: Served, tmp_path: Path) -> None:
    kernel = machine["k1"]
    async with kernel.capture("payload") as capture:
        assert await kernel.inject(FRAME) == 1
        assert await kernel.inject(FRAME + b"2", [FRAME + b"3", b"other"]) == 3
        await capture.wait_for(3)
        assert capture.captured is None
        assert [packet.data for packet in capture.packets()] == [FRAME, FRAME + b"2", FRAME + b"3"]
        capture.save(tmp_path / "so-far.pcapng")
    assert (capture.count, capture.captured, capture.dropped) == (3, 3, 3)
    assert capture.packets()[1].time_ns == 10**9
    capture.save(tmp_path / "all.pcapng")
    so_far = (tmp_path / "so-far.pcapng").read_bytes()
    assert (tmp_path / "all.pcapng").read_bytes().startswith(so_far), "counts follow"
    assert (tmp_path / "all.pcapng").stat().st_size == capture.size
    await capture.stop()
    assert served.service.network.captures == 0


async def test_a_capture_diverts_what_it_is_asked_to(machine: Machine, served: Served) -> None:
    async with machine["k1"].capture("payload", divert="out"):
        assert served.service.network.params["divert"] == "out"
    async with machine["k1"].capture("payload"):
        assert "divert" not in served.service.network.params


async def test_a_capture_read_as_it_grows(machine: Machine) -> None:
    async with machine["k1"].capture() as capture:
        whole = b""
        async for piece in capture:
            whole += piece
            if capture.count == 0:
                await machine["k1"].inject(FRAME * 100, FRAME)
            elif capture.count == 2:
                await capture.stop()
        assert len(whole) == capture.size
        assert [piece async for piece in capture] == [whole]


async def test_a_capture_whose_kernel_dies(machine: Machine, served: Served) -> None:
    served.service.handlers["capture"] = served.service.handlers["dies"]
    dying = served.service.open

    async def open_dying(name: str, service: str, params: dict[str, Any]) -> Any:
        return await dying(name, "dies", params)

    served.service.open = open_dying  # type: ignore[method-assign]
    with pytest.raises(PeerDied):
        async with machine["k1"].capture() as capture:
            await capture.wait_for(1)
            with pytest.raises(PeerDied):
                async for _ in capture:
                    pass


@pytest.mark.parametrize(("where", "raises"), [("k1", True), ("k1,primary", False)])
async def test_a_kernel_that_dies_while_its_capture_is_stopped(
    machine: Machine, served: Served, where: str, raises: bool
) -> None:
    """The news of the death and the stop pass each other. Where another kernel lives, it ended well."""
    capture_well = served.service.handlers["capture"]

    async def die_when_stopped(stream: Any) -> dict[str, Any]:
        if stream.params["interface"] == 1:
            return await capture_well(stream)
        await stream.send(pcapng.section_header() + pcapng.interface("k1/eth0", 65550, ""))
        while await stream.receive() is not None:
            pass
        raise PeerDied("kernel 1 died")  # which ends the stream without a result

    served.service.handlers["capture"] = die_when_stopped
    frames = machine.capture(where)
    await frames.__aenter__()
    if raises:
        with pytest.raises(StreamClosed):
            await frames.__aexit__(None, None, None)
    else:
        await frames.__aexit__(None, None, None)


async def test_leaving_a_capture_with_an_error_ends_it(machine: Machine, served: Served) -> None:
    with pytest.raises(KeyError):
        async with machine["k1"].capture() as capture:
            await capture.wait_for(0)
            raise KeyError
    await served.service.wait_ended("capture")


async def test_captures_leave_no_descriptors(machine: Machine) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    async with machine["k1"].capture():
        pass
    before = count()
    for _ in range(5):
        async with machine["k1"].capture() as capture:
            pass
    del capture
    assert count() <= before + 1


# Starting one


PRIMARY = """\
import json, os, signal, socket, sys
from pathlib import Path
arguments = dict(zip(sys.argv[3::2], sys.argv[4::2]))
progress = os.fdopen(int(arguments["--progress-fd"]), "w")
def say(**message): print(json.dumps(message), file=progress, flush=True)
"""


@pytest.fixture
def primary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a script the program that starts machines."""

    def use(script: str) -> None:
        program = tmp_path / "python"
        program.write_text(f"#!{sys.executable}\n{PRIMARY}{script}")
        program.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(program))

    return use


async def test_up(primary: Any, tmp_path: Path, served: Served) -> None:
    primary(
        'say(event={"text": arguments["--file"]}); say(event={"text": arguments["--run-dir"]})\n'
        'say(ready={"name": arguments["--name"], "socket": "s", "took_ms": 1})\n'
    )
    events: list[Any] = []
    machine = await Machine.up("demo", name="m", run_dir=served.run_dir, on_event=events.append)
    assert events == [{"text": "demo"}, {"text": str(served.run_dir)}]
    assert (await machine.info())["name"] == "m"
    assert not served.service.went_down.is_set()


async def test_an_error_of_the_start_is_raised(primary: Any, tmp_path: Path) -> None:
    primary('say(error={"code": "refused", "message": "no", "hint": "do"}); sys.exit(1)')
    with pytest.raises(Refused, match="no") as caught:
        async with Machine.from_file(tmp_path / "m.yaml", run_dir=tmp_path):
            pass
    assert caught.value.hint == "do"


async def test_a_primary_that_dies_early(primary: Any, tmp_path: Path) -> None:
    primary('print("the reason", file=sys.stderr); sys.exit(3)')
    with pytest.raises(BootFailed, match="ended with status 3 before it was up") as caught:
        await Machine.up("demo", run_dir=tmp_path)
    assert caught.value.hint == "it said: the reason"


async def test_a_primary_that_dies_while_a_child_holds_its_pipe(primary: Any, tmp_path: Path) -> None:
    primary(
        f"reading, writing = os.pipe(); pid = os.fork()\n"
        f"if pid == 0: os.close(writing); os.read(reading, 1); os._exit(0)\n"
        f"Path({str(tmp_path / 'pid')!r}).write_text(str(pid))\n"
        "keep = os.dup(writing); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with pytest.raises(BootFailed, match="ended with status -9") as caught:
        await Machine.up("demo", run_dir=tmp_path)
    assert caught.value.hint == "it said nothing"


async def test_cancelling_the_start_takes_down_what_came_up(
    primary: Any, tmp_path: Path, served: Served
) -> None:
    primary(
        'say(event={}); os.read(os.open(arguments["--file"], os.O_RDONLY), 1)\n'
        'say(ready={"name": "m", "socket": "s", "took_ms": 1})\n'
    )
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    starting = asyncio.create_task(
        Machine.up(
            fifo,
            run_dir=served.run_dir,
            on_event=lambda event: loop.call_soon_threadsafe(started.set) and None,
        )
    )
    await started.wait()
    starting.cancel()
    await asyncio.to_thread(fifo.write_text, "go on")
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert served.service.went_down.is_set()
