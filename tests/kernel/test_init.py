"""Init, as its daemon sees it: programs, ttys, signals, orphans, shutdown, what may not kill it."""

import asyncio
import contextlib
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from popnet.core.errors import BootFailed, NoSuchProgram, NotExecutable, Refused
from popnet.kernel.initclient import InitClient
from popnet.kernel.rootfs import RootPlan
from tests.kernel.inside import ENVIRON, in_kernel, output_of, sh, small_root


@pytest.fixture
def light(tmp_path: Path) -> RootPlan:
    """A small root: busybox and its shell."""
    names = ("sh", "cat", "sleep", "ls", "kill", "tty", "stty", "nohup", "ps", "test", "true")
    more = ("hostname", "sed", "cut")
    return small_root(tmp_path / "light", *names, *more, files={"/etc/motd": "hello\n"})


def _read_all(master: int) -> str:
    """What comes from a pty until its last slave is closed."""
    text = b""
    with contextlib.suppress(OSError):
        while data := os.read(master, 4096):
            text += data
    os.close(master)
    return text.decode()


def test_programs_run_on_pipes_and_end_with_their_status(tmp_path: Path, light: RootPlan) -> None:
    async def test(client: InitClient) -> Any:
        await client.wait_ready()
        said = await sh(client, "echo $$ $0; cat /proc/1/comm; hostname; pwd; echo loud >&2")
        statuses = []
        for script in ("exit 0", "exit 7", "kill -9 $$"):
            program = await client.spawn(["/bin/sh", "-c", script], ENVIRON, streams=(0, 1, 2))
            statuses.append(await program.ended)
        return said, statuses

    said, statuses = in_kernel(test, tmp_path, light)
    lines = said.split("\n")
    assert lines[0].split()[0] != "1"
    assert lines[1:] == ["init", "inside", "/", "loud", ""]
    assert statuses == [{"status": 0}, {"status": 7}, {"signal": 9}]


def test_a_program_on_a_new_pty_has_it_as_its_terminal(tmp_path: Path, light: RootPlan) -> None:
    async def test(client: InitClient) -> Any:
        await client.wait_ready()
        program = await client.spawn(
            ["/bin/sh", "-c", "tty; stty size; echo in charge > /dev/tty"], ENVIRON, terminal=(97, 31)
        )
        assert program.terminal is not None
        outcome = await program.ended
        return outcome, (await asyncio.to_thread(_read_all, program.terminal)).split()

    outcome, words = in_kernel(test, tmp_path, light)
    assert outcome == {"status": 0}
    assert words == [words[0], "31", "97", "in", "charge"]
    assert words[0].startswith("/dev/pts/")


def test_a_tty_has_a_name_and_programs_start_on_its_path(tmp_path: Path, light: RootPlan) -> None:
    async def test(client: InitClient) -> Any:
        await client.wait_ready()
        path, master, slave = await client.open_pty("tty0")
        links = await sh(client, "ls -l /dev/tty0 /dev/console | sed 's/.*-> //'")
        program = await client.spawn(["/bin/sh", "-c", "tty"], ENVIRON, path=path)
        await program.ended
        os.close(slave)
        return path, links, (await asyncio.to_thread(_read_all, master)).strip()

    path, links, said = in_kernel(test, tmp_path, light)
    assert said == path
    assert links.split() == [path.removeprefix("/dev/")] * 2


@pytest.mark.parametrize(
    ("argv", "cwd", "kind"),
    [
        (["/bin/none"], None, NoSuchProgram),
        (["none"], None, NoSuchProgram),
        (["/etc/motd"], None, NotExecutable),
        (["/etc"], None, NotExecutable),
        (["/bin/true"], "/none", NotExecutable),
        (["/bin/true", "zero\0byte"], None, NotExecutable),
        (["/bin/true", "\ud800"], None, NotExecutable),
    ],
)
def test_what_cannot_be_started_says_why(
    tmp_path: Path, light: RootPlan, argv: list[str], cwd: str | None, kind: type[Refused]
) -> None:
    async def test(client: InitClient) -> Any:
        await client.wait_ready()
        try:
            await client.spawn(argv, ENVIRON, cwd=cwd, streams=(0, 1, 2))
        except Refused as error:
            return type(error).__name__, str(error), await output_of(client, "/bin/cat", "/etc/motd")
        return None

    name, text, after = in_kernel(test, tmp_path, light)
    assert name == kind.__name__
    assert text
    assert after == "hello\n"


def test_what_is_too_long_for_a_request_is_refused(tmp_path: Path, light: RootPlan) -> None:
    async def test(client: InitClient) -> Any:
        await client.wait_ready()
        with pytest.raises(Refused, match="too long together"):
            await client.spawn(["/bin/true", "x" * 70_000], ENVIRON, streams=(0, 1, 2))
        return await output_of(client, "/bin/cat", "/etc/motd")

    assert in_kernel(test, tmp_path, light) == "hello\n"


def test_signals_reach_the_whole_group_and_bad_ones_nobody(tmp_path: Path, light: RootPlan) -> None:
    async def test(client: InitClient) -> Any:
        await client.wait_ready()
        reading, writing = os.pipe()
        program = await client.spawn(
            ["/bin/sh", "-c", "sleep 1000 & echo up; wait"], ENVIRON, streams=(0, writing, 2)
        )
        os.close(writing)
        with open(reading, "rb") as pipe:
            await asyncio.to_thread(pipe.readline)
            client.signal(program, 99_999)
            client.signal(program, -1)
            assert await output_of(client, "/bin/cat", "/etc/motd") == "hello\n"
            client.signal(program, signal.SIGTERM)
            outcome = await program.ended
            await asyncio.to_thread(pipe.read)  # the child in the background has ended as well
        client.signal(program, signal.SIGTERM)  # nobody left: fine
        return outcome, await output_of(client, "/bin/cat", "/etc/motd")

    assert in_kernel(test, tmp_path, light) == [{"signal": 15}, "hello\n"]


def test_orphans_are_reaped(tmp_path: Path, light: RootPlan) -> None:
    async def test(client: InitClient) -> Any:
        await client.wait_ready()
        await sh(client, "for i in 1 2 3 4 5 6 7 8; do (sleep 0 &); done")
        while "Z" in (states := await sh(client, "cat /proc/[0-9]*/stat | sed 's/.*) //' | cut -c1")):
            continue
        return states

    assert in_kernel(test, tmp_path, light).split()


def test_shutdown_asks_and_then_kills_the_stubborn(tmp_path: Path, light: RootPlan) -> None:
    async def test(client: InitClient) -> Any:
        await client.wait_ready()
        reading, writing = os.pipe()
        polite = ["/bin/sh", "-c", "trap '' HUP; trap 'echo bye; exit 3' TERM; echo up; sleep 1000 & wait"]
        stubborn = ["/bin/sh", "-c", "trap '' TERM HUP; echo up; exec sleep 1000"]
        first = await client.spawn(polite, ENVIRON, streams=(0, writing, 2))
        second = await client.spawn(stubborn, ENVIRON, streams=(0, writing, 2))
        os.close(writing)
        with open(reading, "rb") as pipe:
            for _ in range(2):
                await asyncio.to_thread(pipe.readline)
            await client.shut_down(1.0)
            rest = (await asyncio.to_thread(pipe.read)).decode()
        with pytest.raises(Refused, match="kernel stopped"):
            await client.spawn(["/bin/true"], ENVIRON, streams=(0, 1, 2))
        client.signal(second, 9)  # to nobody: fine
        return await first.ended, await second.ended, rest, client.exited.result()

    assert in_kernel(test, tmp_path, light) == [
        {"status": 3},
        {"signal": 9},
        "bye\n",
        "init exited with status 0",
    ]


def test_init_killed_ends_every_program_and_wait(tmp_path: Path, light: RootPlan) -> None:
    async def test(client: InitClient) -> Any:
        await client.wait_ready()
        program = await client.spawn(["/bin/sleep", "1000"], ENVIRON, streams=(0, 1, 2))
        os.kill(client.pid, signal.SIGSTOP)
        waiting = asyncio.create_task(client.spawn(["/bin/true"], ENVIRON, streams=(0, 1, 2)))
        await asyncio.sleep(0)
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(Refused, match="kernel stopped: init was killed by SIGKILL"):
            await waiting
        return await program.ended, await client.exited

    assert in_kernel(test, tmp_path, light) == [{"signal": 9}, "init was killed by SIGKILL"]


def test_a_spawn_that_nobody_waits_for_any_more_ends(tmp_path: Path, light: RootPlan) -> None:
    async def test(client: InitClient) -> Any:
        await client.wait_ready()
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        spawning = asyncio.create_task(client.spawn(["/bin/sleep", "1000"], ENVIRON, terminal=(80, 24)))
        await asyncio.sleep(0)
        spawning.cancel()
        await asyncio.gather(spawning, return_exceptions=True)
        await output_of(client, "/bin/cat", "/etc/motd")
        while "sleep" in await sh(client, "cat /proc/[0-9]*/comm"):
            continue
        return len(os.listdir("/proc/self/fd")) - before  # noqa: PTH208

    assert in_kernel(test, tmp_path, light) == 0


def test_a_root_that_cannot_be_built_fails_the_boot_with_the_step(tmp_path: Path) -> None:
    async def test(client: InitClient) -> Any:
        try:
            await client.wait_ready()
        except BootFailed as error:
            return str(error)

    plan = RootPlan("directory", "/no/such/root")
    assert re.match("root: .*No such file or directory: '/no/such/root'", in_kernel(test, tmp_path, plan))


def test_an_init_of_the_images_own_is_pid_1(tmp_path: Path, light: RootPlan) -> None:
    async def test(client: InitClient) -> Any:
        await client.wait_ready()
        return await sh(client, "cat /proc/1/cmdline")

    said = in_kernel(test, tmp_path, light, program=("/bin/sleep", "1000"))
    assert said == "/bin/sleep\x001000\x00"


def test_an_init_of_ones_own_that_is_not_there(tmp_path: Path, light: RootPlan) -> None:
    async def test(client: InitClient) -> Any:
        return await client.exited

    assert in_kernel(test, tmp_path, light, program=("/bin/none",)) == (
        "init: /bin/none: No such file or directory"
    )
