"""A small machine with store buffers, and a search of everything it can do.

Processes share memory words and bells. A store goes into the process's own buffer and reaches memory some
time later, in order (x86-TSO; aarch64 reorders more, but not across the same fences). A load sees the own
buffer first. A fence waits until the own buffer is empty. A bell is an eventfd: a kick counts one, waiting
takes the whole count and blocks while it is zero; neither flushes the buffer.
"""

from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Load:
    word: str


@dataclass(frozen=True, slots=True)
class Store:
    word: str
    value: int


@dataclass(frozen=True, slots=True)
class Fence:
    pass


@dataclass(frozen=True, slots=True)
class Kick:
    bell: str


@dataclass(frozen=True, slots=True)
class Wait:
    bell: str


Operation = Load | Store | Fence | Kick | Wait


class Program(Protocol):
    """A process at one place, its registers included: immutable and hashable."""

    @property
    def operation(self) -> Operation | None:
        """What it does next; None: it has ended."""

    def after(self, value: int) -> "Program":
        """Where it is once that is done; *value* is what a load returned, else 0."""


Cells = tuple[tuple[str, int], ...]
"""Names and values, sorted; what is missing is 0."""

Buffer = tuple[tuple[str, int], ...]
"""Stores on their way to memory, oldest first."""


@dataclass(frozen=True, slots=True)
class State:
    programs: tuple[Program, ...]
    buffers: tuple[Buffer, ...]
    memory: Cells
    bells: Cells


@dataclass(frozen=True, slots=True)
class Result:
    """What a search found: how many states there are; and if there is one where nothing moves any more, the
    steps to it, and what each process wanted to do there."""

    states: int
    steps: tuple[str, ...] | None = None
    wanted: tuple[Operation | None, ...] = ()


def search(*programs: Program) -> Result:
    """Visit every state that *programs* can reach together, starting with all words and bells 0."""
    start = State(programs, ((),) * len(programs), (), ())
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    todo = [start]
    while todo:
        state = todo.pop()
        steps = _steps(state)
        wanted = tuple(program.operation for program in state.programs)
        if not steps and any(wanted):
            return Result(len(came_from), _trace(state, came_from), wanted)
        for label, following in steps:
            if following not in came_from:
                came_from[following] = (state, label)
                todo.append(following)
    return Result(len(came_from))


def _trace(state: State, came_from: dict[State, tuple[State, str] | None]) -> tuple[str, ...]:
    labels: list[str] = []
    while step := came_from[state]:
        state, label = step
        labels.append(label)
    return tuple(reversed(labels))


def _get(cells: Cells, name: str) -> int:
    return dict(cells).get(name, 0)


def _set(cells: Cells, name: str, value: int) -> Cells:
    return tuple(sorted({**dict(cells), name: value}.items()))


def _steps(state: State) -> list[tuple[str, State]]:
    """Every single step from *state*: each process's next operation, each buffer's oldest store."""
    steps: list[tuple[str, State]] = []
    for i, buffer in enumerate(state.buffers):
        if buffer:
            (word, value), rest = buffer[0], buffer[1:]
            buffers = _with(state.buffers, i, rest)
            flushed = State(state.programs, buffers, _set(state.memory, word, value), state.bells)
            steps.append((f"{i}: {word}={value} reaches memory", flushed))
        following = _execute(state, i)
        if following is not None:
            steps.append((f"{i}: {state.programs[i].operation}", following))
    return steps


def _with(items: tuple[T, ...], i: int, item: T) -> tuple[T, ...]:
    return (*items[:i], item, *items[i + 1 :])


def _execute(state: State, i: int) -> State | None:
    """Process *i* does its next operation; None if it cannot now."""
    program, buffer = state.programs[i], state.buffers[i]
    value, buffers, bells = 0, state.buffers, state.bells
    match program.operation:
        case Load(word):
            value = dict(buffer).get(word, _get(state.memory, word))
        case Store(word, stored):
            buffers = _with(buffers, i, (*buffer, (word, stored)))
        case Fence():
            if buffer:
                return None
        case Kick(bell):
            bells = _set(bells, bell, _get(bells, bell) + 1)
        case Wait(bell):
            if not _get(bells, bell):
                return None
            bells = _set(bells, bell, 0)
        case None:
            return None
    return State(_with(state.programs, i, program.after(value)), buffers, state.memory, bells)
