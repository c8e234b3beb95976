"""The Python API on a real machine."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import popnet
from popnet.cli import residue
from popnet.core.errors import NoSuchMachine, NoSuchProgram, PeerDied, Refused
from popnet.pytest_plugin import machine_file
from tests.live.lab import nothing_left

EXPERIMENTAL = bytes.fromhex("02706f706e02 02706f706e01 88b5") + b"x" * 46


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[popnet.Machine]:
    """k1 and k2, full; shared by the tests of this module."""
    tmp = tmp_path_factory.mktemp("api")
    before = residue.take(tmp / "run")
    async with popnet.Machine.from_file(machine_file(tmp), name="api", run_dir=tmp / "run") as machine:
        yield machine
    nothing_left(before, before, tmp / "run")


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_programs(machine: popnet.Machine) -> None:
    k1 = machine["k1"]
    assert (await k1.run(["uname", "-n"])).stdout == "k1\n"
    assert (await k1.run(["cat"], input=b"\0\xff" * 500_000)).stdout_bytes == b"\0\xff" * 500_000
    script = 'echo "$A in $PWD"; echo oops >&2; exit 7'
    result = await k1.run(["sh", "-c", script], env={"A": "ä"}, cwd="/tmp")
    assert (result.status, result.stdout, result.stderr) == (7, "ä in /tmp\n", "oops\n")
    assert (await k1.run(["sh", "-c", "kill -TERM $$"])).status == 143
    assert (await k1.run(["head", "-c3"], input=b"abc" * 1_000_000)).stdout == "abc"
    with pytest.raises(NoSuchProgram):
        await k1.run(["no-such-program"])
    with pytest.raises(popnet.CommandTimeout) as caught:
        await k1.run(["sh", "-c", "echo begun; exec sleep 60"], timeout_s=1)
    assert caught.value.result.stdout == "begun\n"
    with pytest.raises(popnet.CommandFailed):
        await k1.run(["false"], check=True)


async def test_a_program_whose_runner_is_cancelled_ends(machine: popnet.Machine) -> None:
    running = asyncio.create_task(machine["k1"].run(["sleep", "987654"]))
    while (await machine["k1"].run(["pgrep", "-f", "sleep 98765[4]"])).status != 0:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    running.cancel()
    while (await machine["k1"].run(["pgrep", "-f", "sleep 98765[4]"])).status == 0:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def test_frames(machine: popnet.Machine, tmp_path: Path) -> None:
    async with machine["k1"].capture("icmp") as capture:
        for _ in range(2):  # one after the other, however late an answer is
            await machine["k1"].run(["ping", "-4", "-c1", "k2"], check=True)
    assert (capture.count, capture.captured, capture.dropped) == (4, 4, 0)
    assert [packet.direction for packet in capture.packets()] == [1, 0, 1, 0]
    capture.save(tmp_path / "ping.pcapng")
    assert (tmp_path / "ping.pcapng").stat().st_size == capture.size
    async with machine["k2"].capture("ether proto 0x88b5") as capture:
        assert await machine["k1"].inject([EXPERIMENTAL] * 3) == 3
        async with asyncio.timeout(60):
            await capture.wait_for(3)
    assert [packet.data for packet in capture.packets()] == [EXPERIMENTAL] * 3
    with pytest.raises(Refused):
        async with machine["k1"].capture("no such filter"):
            pass
    with pytest.raises(Refused):
        await machine["k1"].inject(b"short")


async def test_a_capture_that_diverts_is_the_end_of_frames(machine: popnet.Machine) -> None:
    ping = ["ping", "-4", "-c1", "-W30", "k2"]
    for peer in (None, "k2"):
        async with machine["k1"].capture("icmp", peer=peer, divert="in") as capture:
            lost = await machine["k1"].run([*ping, "-W0.3"])
            await capture.wait_for(2)
        assert (lost.status, len(capture.packets())) == (1, 2), (
            "the answer came to the capture, and no further"
        )
        assert (await machine["k1"].run(ping)).ok
    with pytest.raises(Refused, match="divert is in, out or both"):
        async with machine["k1"].capture(divert="sideways"):
            pass


async def test_connections(machine: popnet.Machine) -> None:
    async with await machine["k2"].dial(22) as connection:
        received = await connection.receive()
        assert received is not None
        assert received[1].startswith(b"SSH-2.0-")
    with pytest.raises(Refused, match="port 9"):
        await machine["k2"].dial(9)


async def test_a_console(machine: popnet.Machine) -> None:
    async with await machine["k1"].console() as console:
        await console.send(b"echo on the con''sole\r")
        shown = b""
        while b"on the console\r\n" not in shown:
            received = await console.receive()
            assert received is not None
            shown += received[1]
    assert "on the console\r\n" in await machine["k1"].history()


async def test_events_and_logs(machine: popnet.Machine) -> None:
    texts = [event["text"] async for event in machine.events(follow=False)]
    assert "machine api: up" in texts
    assert "init: pid 1" in "".join([line["text"] async for line in machine["k1"].dmesg()])
    assert (await machine.ssh_config()).count("\nHost ") >= 2
    assert set((await machine.counters())["kernels"]) == {"primary", "k1", "k2"}


async def test_a_crash_and_the_next_generation(machine: popnet.Machine) -> None:
    k2 = machine["k2"]
    generation = (await k2.info())["generation"]
    last = [event["seq"] async for event in machine.events(follow=False)][-1]
    running = asyncio.create_task(k2.run(["sleep", "60"]))
    with pytest.raises(PeerDied):
        async with k2.capture():
            assert (await k2.kill())["state"] == "offline"
    with pytest.raises(PeerDied):
        await running
    async for event in machine.events(last):
        if event.get("state") == "offline":
            break
    row = await k2.boot()
    assert (row["state"], row["generation"]) == ("online", generation + 1)
    assert row["timeline"]
    assert (await k2.run(["true"])).ok


async def test_a_machine_that_stays(tmp_path: Path) -> None:
    events: list[str] = []
    file = machine_file(tmp_path, 1, "light", "stays")
    machine = await popnet.Machine.up(
        file, run_dir=tmp_path / "run", on_event=lambda event: events.append(event["text"])
    )
    assert "machine stays: up" in events
    async with popnet.Machine.attach(run_dir=tmp_path / "run") as same:
        assert same.name == "stays"
    assert (await machine["k1"].run(["true"])).ok
    await same.down()
    await machine.down()
    with pytest.raises(NoSuchMachine):
        popnet.Machine.attach("stays", run_dir=tmp_path / "run")
