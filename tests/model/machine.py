"""What a process may ask of a machine, and a search of everything that processes can do together on one.

Processes share memory words and bells. Two machines know what these operations mean: `tso` (x86: store
buffers) and `weak` (arm64: stores reach memory in any order, loads are satisfied early or late). A bell is
an eventfd: a kick counts one, waiting takes the whole count and blocks while it is zero; neither orders
any memory access.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Load:
    """Load a word on whose value the process goes on."""

    word: str
    acquire: bool = True


@dataclass(frozen=True, slots=True)
class Read:
    """Load a byte of a record: the process goes on without looking at it, but it must be *expected*."""

    word: str
    expected: int


@dataclass(frozen=True, slots=True)
class Store:
    word: str
    value: int
    release: bool = True


@dataclass(frozen=True, slots=True)
class Fence:
    pass


@dataclass(frozen=True, slots=True)
class Kick:
    bell: str


@dataclass(frozen=True, slots=True)
class Wait:
    bell: str


Operation = Load | Read | Store | Fence | Kick | Wait


class Program(Protocol):
    """A process at one place, its registers included: immutable and hashable."""

    @property
    def operation(self) -> Operation | None:
        """What it does next; None: it has ended."""

    def after(self, value: int) -> "Program":
        """Where it is once that is done; *value* is what a load returned, else 0."""


class State(Protocol):
    """Processes and memory at one moment: immutable and hashable."""

    @property
    def programs(self) -> tuple[Program, ...]: ...

    @property
    def wrong(self) -> str:
        """What was read that should not have been; empty: nothing."""


Steps = Callable[[T], list[tuple[str, T]]]
"""Every single step from a state, each with its name."""

Cells = tuple[tuple[str, int], ...]
"""Names and values, sorted; what is missing is 0."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a search found: how many states there are; and if something is wrong in one, the steps to it: what
    was read there, or (when nothing moves any more) what each process wanted to do."""

    states: int
    steps: tuple[str, ...] | None = None
    wanted: tuple[Operation | None, ...] = ()
    wrong: str = ""


S = TypeVar("S", bound=State)


def search_from(start: S, steps_from: Steps[S]) -> Result:
    """Visit every state that can be reached from *start*, until something is wrong in one."""
    came_from: dict[S, tuple[S, str] | None] = {start: None}
    todo = [start]
    while todo:
        state = todo.pop()
        if state.wrong:
            return Result(len(came_from), _trace(state, came_from), wrong=state.wrong)
        steps = steps_from(state)
        if not steps:
            wanted = tuple(program.operation for program in state.programs)
            if any(wanted):
                return Result(len(came_from), _trace(state, came_from), wanted)
        for label, following in steps:
            if following not in came_from:
                came_from[following] = (state, label)
                todo.append(following)
    return Result(len(came_from))


def _trace(state: S, came_from: dict[S, tuple[S, str] | None]) -> tuple[str, ...]:
    labels: list[str] = []
    while step := came_from[state]:
        state, label = step
        labels.append(label)
    return tuple(reversed(labels))


def get(cells: Cells, name: str) -> int:
    for key, value in cells:
        if key == name:
            return value
    return 0


def put(cells: Cells, name: str, value: int) -> Cells:
    return tuple(sorted({**dict(cells), name: value}.items()))


def replace_at(items: tuple[T, ...], i: int, item: T) -> tuple[T, ...]:
    return (*items[:i], item, *items[i + 1 :])
