"""Runs a function beside a fresh kernel, for tests: namespaces, init, a root, in a child process.

pytest never changes its own namespaces: a child does (an ordinary user's is root in a user namespace of its
own, as a machine's primary is), forks init, and runs an asyncio function that is handed the client of init.
What it returns comes back as JSON, and so does its error.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from popnet.kernel import init, linux, namespaces
from popnet.kernel.initclient import InitClient
from popnet.kernel.rootfs import RootPlan
from popnet.transport.handover import create_handover, send_packet

ENVIRON = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}

TIMEOUT_S = 60


def in_child(function: Callable[[], Any]) -> Any:
    """What *function* returns in a forked child, JSON-able; AssertionError with its traceback."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer: dict[str, Any] = {"error": "it ended without a word"}
        try:
            os.close(reading)
            signal.alarm(TIMEOUT_S)
            answer = {"result": function()}
        except BaseException:  # noqa: BLE001  it comes back as the answer
            answer = {"error": traceback.format_exc()}
        finally:
            with open(writing, "w") as pipe:
                json.dump(answer, pipe)
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    answer = json.loads(text or '{"error": "the child was killed"}')
    assert "error" not in answer, answer["error"]
    return answer["result"]


def busybox() -> str:
    """A static busybox of this host."""
    return subprocess.run(
        ["sh", "-c", "command -v busybox"], capture_output=True, text=True, check=True
    ).stdout.strip()


def small_root(directory: Path, *applets: str, files: dict[str, str] | None = None) -> RootPlan:
    """A plan of a root that is made in *directory*: busybox under the names *applets*, and *files*."""
    directory.mkdir(parents=True)
    (directory / "bin").mkdir()
    shutil.copy(Path(busybox()).resolve(), directory / "bin/busybox")
    for name in applets:
        (directory / "bin" / name).symlink_to("busybox")
    return RootPlan("directory", str(directory), files=files or {})


def in_kernel(
    test: Callable[[InitClient], Awaitable[Any]],
    mount_point: Path,
    plan: RootPlan | None = None,
    program: tuple[str, ...] = (),
    before: Callable[[], None] | None = None,
) -> Any:
    """What *test* returns, run beside the init of a new kernel.

    Args:
        mount_point: any directory; an empty one is made in it.
        plan: of its root; the host's tree if None.
        program: an init of its own.
        before: runs in the child once it has a mount namespace of its own: may mount what it likes.
    """

    mount_point = mount_point / "mount-point"
    mount_point.mkdir(exist_ok=True)

    def child() -> Any:
        namespaces.enter_machine()
        if before is not None:
            before()
        user = namespaces.enter_kernel()
        ours, theirs = create_handover()
        made = init.InitPlan(
            root=plan or RootPlan("host-overlay"),
            mount_point=str(mount_point),
            user_namespace=user,
            hostname="inside",
            program=program,
            environ=ENVIRON,
        )
        pid = linux.fork_into(linux.CLONE_NEWPID)
        if pid == 0:
            ours.close()
            init.run(theirs, made)
        theirs.close()
        os.close(user)
        return asyncio.run(_run(test, ours, pid))

    return in_child(child)


async def _run(test: Callable[[InitClient], Awaitable[Any]], channel: Any, pid: int) -> Any:
    reasons: list[str] = []
    client = InitClient(channel, pid, reasons.append)
    with contextlib.suppress(BrokenPipeError):  # it has failed already, and says so
        send_packet(channel, {"op": "go"})
    try:
        return await test(client)
    finally:
        if not client.exited.done():
            await client.shut_down(0.1)
        assert len(reasons) == 1, reasons
        sys.stdout.flush()


async def output_of(client: InitClient, *argv: str) -> str:
    """What a program prints in the kernel, on both of its outputs."""
    reading, writing = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    try:
        program = await client.spawn(argv, ENVIRON, streams=(null, writing, writing))
    finally:
        os.close(writing)
        os.close(null)
    with open(reading, "rb") as pipe:
        text = await asyncio.to_thread(pipe.read)
    await program.ended
    return text.decode()


async def sh(client: InitClient, script: str) -> str:
    return await output_of(client, "/bin/sh", "-c", script)
