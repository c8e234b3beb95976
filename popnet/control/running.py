"""Run a program in a kernel from its beginning to its end: `run`, and the `Result` it returns."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from popnet.control import wire
from popnet.control.stream import ClientStream, connect
from popnet.core.errors import PeerDied, PopnetError, StreamClosed

_KILL: Final = 9
_KILLED_S: Final = 5.0
"""Seconds that a killed program's result may take."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a program ended, and what it wrote.

    Attributes:
        argv: the program and its arguments.
        status: its exit status; 128 + n if signal n ended it, as in shells.
        signal: the signal that ended it, or None.
        stdout_bytes, stderr_bytes: what it wrote, as it wrote it.
    """

    argv: tuple[str, ...]
    status: int
    signal: int | None
    stdout_bytes: bytes
    stderr_bytes: bytes

    @property
    def ok(self) -> bool:
        return self.status == 0

    @property
    def stdout(self) -> str:
        """As text; what is not UTF-8 reads as U+FFFD."""
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        return self.stderr_bytes.decode(errors="replace")


class CommandFailed(PopnetError):
    """A program that had to succeed did not. Attributes: result."""

    code = "command-failed"

    def __init__(self, kernel: str, result: Result) -> None:
        how = f"signal {result.signal}" if result.signal else f"status {result.status}"
        said = result.stderr.strip() or result.stdout.strip()
        super().__init__(
            f"{kernel}: {' '.join(result.argv)} ended with {how}", f"it said: {said}" if said else ""
        )
        self.result = result


class CommandTimeout(PopnetError, TimeoutError):
    """A program took too long, and was killed. Attributes: result, with what it had written until then."""

    code = "command-timeout"

    def __init__(self, kernel: str, result: Result, timeout_s: float) -> None:
        super().__init__(f"{kernel}: {' '.join(result.argv)} took more than {timeout_s:g} s, and was killed")
        self.result = result


async def run(
    address: Path,
    kernel: str,
    argv: Sequence[str],
    *,
    input: bytes | str = b"",
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    timeout_s: float | None = None,
    check: bool = False,
) -> Result:
    """Runs *argv* in *kernel* of the machine at *address*.

    Args:
        input: what the program reads; then, or at once, its stdin ends.
        env: added to the kernel's own.
        cwd: the directory it starts in.
        timeout_s: seconds after which it is killed; None: never.
        check: raise CommandFailed unless it succeeds.

    Raises: NoSuchProgram, NotExecutable, CommandTimeout, CommandFailed, PeerDied.
    """
    params: dict[str, Any] = {"argv": list(argv), "env": dict(env or {})}
    if cwd is not None:
        params["cwd"] = cwd
    async with await connect(address, wire.stream_path(kernel, "exec"), params) as stream:
        program = _Program(stream, tuple(argv))
        feeding = asyncio.create_task(program.feed(input.encode() if isinstance(input, str) else input))
        try:
            async with asyncio.timeout(timeout_s):
                await program.collect()
        except TimeoutError:
            await program.kill()
            assert timeout_s is not None
            raise CommandTimeout(kernel, program.result(), timeout_s) from None
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
    result = program.result()
    if check and not result.ok:
        raise CommandFailed(kernel, result)
    return result


class _Program:
    def __init__(self, stream: ClientStream, argv: tuple[str, ...]) -> None:
        self._stream = stream
        self._argv = argv
        self._written = {wire.DATA: bytearray(), wire.STDERR: bytearray()}

    async def feed(self, data: bytes) -> None:
        try:
            await self._stream.send(data)
            await self._control({"eof": True})
        except (StreamClosed, PeerDied):
            return  # it has ended without reading it all, as `collect` tells

    async def collect(self) -> None:
        """Until the program has ended."""
        while (received := await self._stream.receive()) is not None:
            channel, data = received
            if channel in self._written:
                self._written[channel] += data

    async def kill(self) -> None:
        """Kills it, and takes what it had still written."""
        try:
            async with asyncio.timeout(_KILLED_S):
                await self._control({"signal": _KILL})
                await self.collect()
        except (TimeoutError, StreamClosed):
            return  # the kernel kills it as soon as the stream is closed

    def result(self) -> Result:
        ended = self._stream.result or {}
        number = ended.get("signal")
        status = 128 + number if number else int(ended.get("status", 128 + _KILL))
        output, errors = (bytes(self._written[channel]) for channel in (wire.DATA, wire.STDERR))
        return Result(self._argv, status, number, output, errors)

    async def _control(self, fields: dict[str, Any]) -> None:
        await self._stream.send(json.dumps(fields).encode(), wire.CONTROL)
