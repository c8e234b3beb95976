"""Where traced messages go: lines and records on stdout, or a file."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from popnet.cli.attach import STDOUT
from popnet.cli.capturesinks import created
from popnet.cli.output import json_text, yaml_text
from popnet.cli.settings import Settings
from popnet.cli.terminal import Output
from popnet.cli.tracefiles import TraceFile
from popnet.cli.traceviews import HEADING, line, record
from popnet.message.tracejoin import Traced


class View(Protocol):
    """Where messages go."""

    async def begin(self, names: Mapping[int, str], wall_offset_ns: int) -> None: ...

    async def show(self, messages: Sequence[Traced]) -> None:
        """Raises BrokenPipeError when nobody reads any more; PopnetError if there is no room."""

    async def end(self) -> None: ...

    async def until_closed(self) -> None:
        """Returns once nobody reads any more; never, where that cannot be known."""

    def close(self) -> None: ...


class Lines:
    """stdout: a line, or a record, a message."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._output = Output(STDOUT)
        self._names: Mapping[int, str] = {}
        self._offset_ns = 0

    async def begin(self, names: Mapping[int, str], wall_offset_ns: int) -> None:
        self._names, self._offset_ns = names, wall_offset_ns
        if self._settings.output == "table":
            await self._output.write(f"{HEADING}\n".encode())

    async def show(self, messages: Sequence[Traced]) -> None:
        if messages:
            await self._output.write("".join(map(self._text, messages)).encode())

    async def end(self) -> None:
        return

    async def until_closed(self) -> None:
        await self._output.until_closed()

    def close(self) -> None:
        self._output.close()

    def _text(self, traced: Traced) -> str:
        if self._settings.output == "table":
            return line(traced, self._names, self._offset_ns) + "\n"
        row = record(traced, self._names, self._offset_ns)
        if self._settings.output == "json":
            return json_text(row, indent=None) + "\n"
        return "\n".join(("---", *yaml_text(row))) + "\n"


class Written:
    """A file."""

    def __init__(self, path: str, kind: Callable[[Mapping[int, str], int], TraceFile]) -> None:
        self._blob = created(path)
        self._kind = kind
        self._file: TraceFile | None = None

    async def begin(self, names: Mapping[int, str], wall_offset_ns: int) -> None:
        self._file = self._kind(names, wall_offset_ns)
        await self._blob.write(self._file.head())

    async def show(self, messages: Sequence[Traced]) -> None:
        assert self._file is not None
        if messages:
            await self._blob.write(self._file.messages(messages))

    async def end(self) -> None:
        assert self._file is not None
        await self._blob.write(self._file.end())

    async def until_closed(self) -> None:
        await self._blob.until_closed()

    def close(self) -> None:
        self._blob.close()
