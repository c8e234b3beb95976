"""The primary's end of one terminal of one kernel: one source, any number of viewers, at most one writer.

Theory of operation. `run` is the source: it moves bytes from the kernel's stream into the history, one run a
generation. A viewer is a cursor into the history (an `Attachment`); each goes at its own pace, and none can
hold up another, with one exception, on purpose:

- The *writer* loses nothing. When its cursor is more than `lag_max` bytes behind, the source stops receiving:
  the stream's credit runs out, the kernel stops reading that pty, and the program waits, as on a slow serial
  line. No other terminal notices. `lag_max`, and each piece appended, is at most a quarter of the history, so
  the writer's cursor stays inside it.
- A *reader* that falls out of the history goes on from the middle of it (at its oldest byte it would fall out
  again at once), and reads a marker that says how many bytes were skipped.
- With no writer the source always runs.

Writer moves: nobody → A (`attach`), A → nobody (`detach`), A → B (`attach` by force: A stays as a reader, is
told so, and its `taken` is set). Forbidden: two writers at once, since their keystrokes would mix.

A kernel's death does not end a terminal: `run` returns with a marker in the history, the viewers stay, and
the next `run` goes on in the same history. Should the source be stalled at that time, the new run accepts its
stream at once (a boot must not wait for a slow viewer), but its bytes wait for those of the run before. Input
while no stream is there is dropped, and the writer reads so, once for each time the kernel is down.

What the kernel must know (the size, that somebody looks) is state, not a queue: each run sends what differs
from what it has told its stream, so that a new generation learns it as well.
"""

import asyncio
import json
import re
from typing import Any, Final

from popnet.core.errors import PopnetError, Refused
from popnet.core.limits import HISTORY_SIZE, STREAM_WINDOW
from popnet.message.stream import Stream
from popnet.tty.history import History

DATA: Final = 0
"""Channel of the bytes, both ways."""

CONTROL: Final = 2
"""Channel of JSON to the kernel: `{"resize": [cols, rows]}` and `{"attached": true}`."""

_READ_SIZE: Final = 64 << 10

_QUERIES: Final = re.compile(rb"\x1b\[(?:[56]n|[>=]?0?c)")
"""Questions of programs to their terminal (where is the cursor, what are you). They were asked long ago: a
terminal that is shown them in the history now would type its answer into whatever runs there today."""


class Terminal:
    """One terminal, from the machine's start to its end.

    Attributes:
        name: the kernel's name, for the markers.
        size: columns and rows the writer last asked for; None until it did.
        closed: the machine is down: viewers read what is left, then the end.
    """

    def __init__(self, name: str, history_size: int = HISTORY_SIZE) -> None:
        self.name = name
        self.size: tuple[int, int] | None = None
        self.closed = False
        self._history = History(history_size)
        self._lag_max = max(1, min(STREAM_WINDOW, history_size // 4))
        self._viewers: set[Attachment] = set()
        self._writer: Attachment | None = None
        self._stream: Stream | None = None
        self._runs = 0
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()
        self._news = asyncio.Event()
        self._counts = dict.fromkeys(("stalls", "skipped_bytes", "dropped_input_bytes", "takeovers"), 0)

    @property
    def produced(self) -> int:
        """Bytes that the terminal ever showed."""
        return self._history.produced

    # For viewers

    def attach(self, *, write: bool, force: bool = False, history: bool = True) -> "Attachment":
        """A new viewer, with what the terminal remembers before what comes, or without (*history*).

        Raises:
            Refused: *write* without *force*, and there is a writer; or the machine is down.
        """
        if self.closed:
            raise Refused(f"the terminal of {self.name} is closed")
        if write and self._writer is not None and not force:
            hint = "take over with --force, or watch with --ro"
            raise Refused(f"somebody else writes to the terminal of {self.name}", hint)
        viewer = Attachment(self, self._history.oldest if history else self._history.produced)
        self._viewers.add(viewer)
        if write:
            self._take_over(viewer)
        if self._stream is None and not (history and self._history.produced):
            viewer.notify(f"{self.name} is not running; waiting for boot")
        self._news.set()
        return viewer

    def close(self) -> None:
        """The machine goes down: nobody stalls the source any more, viewers read what is left."""
        self.closed = True
        self._room.set()
        self._wake()

    def marker(self, text: str) -> None:
        """Put a line of our own between the bytes, for every viewer, now and later."""
        self._history.append(_marker(text))
        self._wake()

    def counters(self) -> dict[str, int]:
        return {"produced_bytes": self._history.produced, "viewers": len(self._viewers), **self._counts}

    # For the kernel

    async def run(self, stream: Stream, generation: int | None = None) -> None:
        """Feed the terminal from *stream* until it ends; return when it did, whatever the reason.

        Args:
            stream: of the kernel's current generation. Accepted at once.
            generation: its number, for the marker; without it, runs are counted.
        """
        self._runs += 1
        generation = generation or self._runs
        again = self._runs > 1
        await stream.accept()
        self._stream = stream
        async with asyncio.TaskGroup() as group:
            steering = group.create_task(self._steer(stream))
            async with self._turn:
                if again:
                    self.marker(f"{self.name} is back, generation {generation}")
                end = await self._feed(stream)
                if self._stream is stream:
                    self._stream = None
                self.marker(f"{self.name} {end}; waiting for boot")
            steering.cancel()

    async def _feed(self, stream: Stream) -> str:
        try:
            while (received := await stream.receive()) is not None:
                channel, data = received
                if channel == DATA:
                    await self._append(data)
        except PopnetError as error:
            return f"died ({error})"
        return "stopped"

    async def _append(self, data: bytes) -> None:
        for start in range(0, len(data), self._lag_max):
            if self._writer_lags():
                self._counts["stalls"] += 1
            while self._writer_lags():
                self._room.clear()
                await self._room.wait()
            self._history.append(data[start : start + self._lag_max])
            self._wake()

    def _writer_lags(self) -> bool:
        if self._writer is None or self.closed:
            return False
        return self._history.produced - self._writer.position > self._lag_max

    async def _steer(self, stream: Stream) -> None:
        attached = False
        size = None
        try:
            while True:
                self._news.clear()
                if self._viewers and not attached:
                    attached = True
                    await stream.send(_json({"attached": True}), CONTROL)
                if size != self.size:
                    size = self.size
                    await stream.send(_json({"resize": size}), CONTROL)
                await self._news.wait()
        except PopnetError:
            return  # the feeding side meets the same end, and tells of it

    # For attachments

    def _take_over(self, viewer: "Attachment") -> None:
        old, self._writer = self._writer, viewer
        if old is not None:
            self._counts["takeovers"] += 1
            old.notify("another client took over; this one only reads from here on")
            old.taken.set()
        self._room.set()

    def _leave(self, viewer: "Attachment") -> None:
        self._viewers.discard(viewer)
        if self._writer is viewer:
            self._writer = None
            self._room.set()

    def _resize(self, size: tuple[int, int]) -> None:
        self.size = size
        self._news.set()

    async def _send(self, data: bytes) -> bool:
        if self._stream is not None:
            try:
                await self._stream.send(data, DATA)
            except PopnetError:
                pass
            else:
                return True
        self._counts["dropped_input_bytes"] += len(data)
        return False

    def _wake(self) -> None:
        for viewer in self._viewers:
            viewer.wake()


class Attachment:
    """A viewer of a terminal: a cursor into its history, and for the writer the way to its keyboard.

    Attributes:
        position: where in the history it reads next; only grows.
        taken: set once another client took the keyboard over by force.
    """

    def __init__(self, terminal: Terminal, position: int) -> None:
        self.position = position
        self._live_from = terminal.produced
        self.taken = asyncio.Event()
        self._terminal = terminal
        self._notices = b""
        self._told_down_in_run = -1
        self._detached = False
        self._wakeup = asyncio.Event()

    @property
    def writes(self) -> bool:
        """Whether this is the terminal's writer now."""
        return self._terminal._writer is self

    async def read(self) -> bytes:
        """What comes next, as soon as there is something; b"" once the terminal is closed, or this detached.

        One reader at a time. For the writer, reading is what lets the kernel write on.
        """
        while not self._detached:
            data = self._next()
            if data or self._terminal.closed:
                return data
            self._wakeup.clear()
            await self._wakeup.wait()
        return b""

    def _next(self) -> bytes:
        terminal = self._terminal
        history = terminal._history
        if self.position < history.oldest:
            middle = history.produced - history.size // 2
            skipped, self.position = middle - self.position, middle
            terminal._counts["skipped_bytes"] += skipped
            self.notify(f"{skipped} bytes skipped")
        piece = history.read(self.position, _READ_SIZE)
        self.position = piece.position
        notices, self._notices = self._notices, b""
        if self.writes:
            terminal._room.set()
        old = max(0, self._live_from - (piece.position - len(piece.data)))
        return notices + _QUERIES.sub(b"", piece.data[:old]) + piece.data[old:]

    async def write(self, data: bytes) -> None:
        """Type *data*; waits while the kernel does not take it. When another client took over, or the kernel
        is down, the data is dropped.

        Raises:
            Refused: attached without the right to write.
        """
        terminal = self._terminal
        if self.taken.is_set() or self._detached:
            terminal._counts["dropped_input_bytes"] += len(data)
        elif not self.writes:
            raise Refused(f"this client only watches the terminal of {terminal.name}", "attach without --ro")
        elif not await terminal._send(data) and self._told_down_in_run != terminal._runs:
            self._told_down_in_run = terminal._runs
            self.notify(f"{terminal.name} is down; input is dropped")

    def resize(self, cols: int, rows: int) -> None:
        """Tell the size of the client's screen; the terminal takes the writer's, now and at the next boot."""
        if self.writes:
            self._terminal._resize((cols, rows))

    def detach(self) -> None:
        """Leave; a pending read ends. Twice does no harm."""
        self._detached = True
        self._terminal._leave(self)
        self.wake()

    def notify(self, text: str) -> None:
        """Put a line of our own before what this viewer reads next."""
        self._notices += _marker(text)
        self.wake()

    def wake(self) -> None:
        self._wakeup.set()


def _marker(text: str) -> bytes:
    return f"\r\n[popnet: {text}]\r\n".encode()


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()
