"""Start a machine as a process of its own, tell what it does until it is up, and take it down again.

Standard library only. The primary writes its progress into a pipe, one JSON object a line (see
`popnet.control.main`); what it prints goes to a file, whose end is shown if it dies without a word. Its end
is seen by a pidfd and not by the end of the pipe, which processes that it forked may still hold.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from popnet.control.client import decode_error
from popnet.control.rundir import open_socket
from popnet.core.errors import BootFailed, PopnetError, Unavailable

TYPE_CHECKING = False  # not from typing: that import alone would cost 3 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import IO, Any, Final

    from popnet.control.client import Client

    Process = subprocess.Popen[bytes]

DOWN_S: Final = 30.0
"""Seconds that a machine may take to go down."""

_LOG_TAIL: Final = 4096
"""Bytes of a dead primary's last words to show."""

_READ_SIZE: Final = 64 << 10

_UCRED: Final = struct.Struct("3i")


def launch(
    file: str | Path,
    *,
    name: str | None = None,
    run_dir: Path | None = None,
    on_event: Callable[[Mapping[str, Any]], None] | None = None,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Boot the machine of *file* and return once it is up: {"name", "socket", "took_ms"}.

    Args:
        file: a path, or the bare name of a machine file that popnet brings along.
        name: instead of the name in the file.
        run_dir: instead of the usual run directory.
        on_event: called with each event of the boot.
        options: further options of `popnet.control.main`, such as --log-format.

    Raises:
        InvalidMachineFile, BootFailed, Refused, Unavailable: why it did not start; nothing of it is left.
    """
    ready, process = start(file, name=name, run_dir=run_dir, on_event=on_event, options=options)
    process.returncode = 0  # it goes on without us: do not warn that nobody waited for it
    return ready


def start(
    file: str | Path,
    *,
    name: str | None = None,
    run_dir: Path | None = None,
    on_event: Callable[[Mapping[str, Any]], None] | None = None,
    options: Sequence[str] = (),
    on_process: Callable[[int], None] | None = None,
) -> tuple[dict[str, Any], Process]:
    """As `launch`, for a caller that lives longer than the machine, and waits for the process; *on_process*
    is told its pid at once."""
    command = [*primary_command(file, name, run_dir), *options]
    with tempfile.TemporaryFile() as output:
        process, progress = _run(command, output)
        if on_process is not None:
            on_process(process.pid)
        try:
            for message in _messages(process, progress):
                if "ready" in message:
                    return message["ready"], process
                if "error" in message:
                    raise decode_error(message)
                if on_event is not None:
                    on_event(message["event"])
            status = process.wait()
            raise BootFailed(f"the primary ended with status {status} before it was up", _tail(output))
        except PopnetError:
            _reap(process)  # it is about to end, once it has tidied up
            raise
        except BaseException:
            process.terminate()
            _reap(process)
            raise
        finally:
            os.close(progress)


def primary_command(file: str | Path, name: str | None, run_dir: Path | None) -> list[str]:
    """The words that start the primary of a machine."""
    command = [sys.executable, "-m", "popnet.control.main", "--file", str(file)]
    if name is not None:
        command += ["--name", name]
    if run_dir is not None:
        command += ["--run-dir", str(run_dir)]
    return command


def take_down(client: Client, timeout_s: float = DOWN_S) -> None:
    """Take the machine of *client* down, and wait until its primary has ended.

    Raises Unavailable if it has not after *timeout_s*; NoSuchMachine if it does not run.
    """
    watch = _watch(client.socket)
    try:
        client.post("/v1/down")
        if watch is not None and not select.select([watch], [], [], timeout_s)[0]:
            message = f"machine {client.machine!r} did not end within {timeout_s:g} s"
            raise Unavailable(message, "end its primary; then popnet gc")
    finally:
        if watch is not None:
            os.close(watch)


def _run(command: list[str], output: IO[bytes]) -> tuple[Process, int]:
    """The process of a primary, and the end of its progress pipe to read from."""
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [*command, "--progress-fd", str(writing)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(writing,),
            start_new_session=True,
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return process, reading


def _messages(process: Process, progress: int) -> Iterator[dict[str, Any]]:
    """What the primary says, until it ends, or closes its pipe."""
    ended = os.pidfd_open(process.pid)
    pending = b""
    try:
        while True:
            ready = select.select([progress, ended], [], [])[0]
            if progress not in ready:
                return  # it ended, and said all it had to say before
            data = os.read(progress, _READ_SIZE)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            yield from map(json.loads, lines)
    finally:
        os.close(ended)


def _reap(process: Process) -> None:
    try:
        process.wait(DOWN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _watch(address: Path) -> int | None:
    """A pidfd of the process that serves the control socket *address*; None if it just ended, or is us."""
    try:
        with open_socket(address, None) as sock:
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid = _UCRED.unpack(credentials)[0]
        return None if pid == os.getpid() else os.pidfd_open(pid)
    except OSError:
        return None


def _tail(output: IO[bytes]) -> str:
    size = os.fstat(output.fileno()).st_size
    text = os.pread(output.fileno(), _LOG_TAIL, max(0, size - _LOG_TAIL)).decode(errors="replace").strip()
    return f"it said: {text}" if text else "it said nothing"
