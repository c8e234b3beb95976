"""The machine that reorders (arm64 and its like): multi-copy atomic, all else as weak as that allows.

Each process has a window of what is under way: a plain store reaches memory whenever it likes (those to
one word in order), a release store only once everything before it has. A load is satisfied *early*, with
what the word was at any time since the process's last barrier; a read, which nothing waits for, early or
*late*, when later plain stores are in memory already. An acquire load is a barrier to what comes behind
it, as of the time it was satisfied. A fence waits until all is done and is a barrier as of now. What a
branch decides on is loaded before the stores behind it: no processor shows a store on a guess.

Two things make it small. A read has one right value, so it need not be tried at each moment between its
earliest and its last: it is wrong if the word was, is or becomes anything else while it is under way. And
no process may load what it stores itself, so each needs to know only what the others stored since its
barrier, in order.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.model.machine import (
    Cells,
    Fence,
    Kick,
    Load,
    Program,
    Read,
    Result,
    Store,
    Wait,
    get,
    put,
    replace_at,
    search_from,
)

Windows = tuple[tuple[Store | Read, ...], ...]


@dataclass(frozen=True, slots=True)
class View:
    """What a process may see of the others' stores."""

    memory: Cells = ()
    """As of its last barrier."""

    log: Cells = ()
    """What reached memory since, oldest first; not sorted."""

    floors: Cells = ()
    """How much of the log it has seen of a word already: one word never goes backwards."""

    def at(self, word: str, time: int) -> int:
        """What *word* was when *time* stores of the log had reached memory."""
        for stored, value in reversed(self.log[:time]):
            if stored == word:
                return value
        return get(self.memory, word)

    def values(self, word: str) -> list[tuple[int, int]]:
        """What *word* may be, each value with the earliest time for it: that leaves all later ones."""
        found: dict[int, int] = {}
        for time in range(get(self.floors, word), len(self.log) + 1):
            found.setdefault(self.at(word, time), time)
        return list(found.items())

    def since(self, time: int) -> "View":
        """The same after a barrier."""
        memory = dict(self.memory) | dict(self.log[:time])
        floors = tuple((word, floor - time) for word, floor in self.floors if floor > time)
        return View(tuple(sorted(memory.items())), self.log[time:], floors)


@dataclass(frozen=True, slots=True)
class WeakState:
    programs: tuple[Program, ...]
    windows: Windows
    """What each process has begun and not completed, oldest first."""

    views: tuple[View, ...]
    bells: Cells = ()
    wrong: str = ""


def search(*programs: Program) -> Result:
    """Everything that *programs* can do together, starting with all words and bells 0."""
    return search_from(WeakState(programs, ((),) * len(programs), (View(),) * len(programs)), _steps)


def _steps(state: WeakState) -> list[tuple[str, WeakState]]:
    steps: list[tuple[str, WeakState]] = []
    for i, program in enumerate(state.programs):
        steps += _complete(state, i)
        steps += ((f"{i}: {program.operation}{how}", after) for how, after in _execute(state, i, program))
    return steps


def _complete(state: WeakState, i: int) -> Iterator[tuple[str, WeakState]]:
    """A store that process *i* has under way reaches memory."""
    window = state.windows[i]
    for at, item in enumerate(window):
        if isinstance(item, Read):
            continue
        before, rest = window[:at], window[at + 1 :]
        if any(isinstance(b, Store) and (item.release or b.word == item.word) for b in before):
            continue
        windows = replace_at(state.windows, i, rest if item.release else before + rest)
        stored = (item.word, item.value)
        views = tuple(
            view if j == i else replace(view, log=(*view.log, stored)) for j, view in enumerate(state.views)
        )
        reached = replace(state, windows=windows, views=views, wrong=_spoilt(windows, item))
        yield f"{i}: {item.word}={item.value} reaches memory", reached


def _spoilt(windows: Windows, store: Store) -> str:
    """What *store* does to reads that are under way."""
    for item in (item for window in windows for item in window if isinstance(item, Read)):
        if item.word == store.word and item.expected != store.value:
            return f"{item.word} is {store.value}, not {item.expected}, when it is read late"
    return ""


def _execute(state: WeakState, i: int, program: Program) -> Iterator[tuple[str, WeakState]]:
    """Process *i* does its next operation, in every way it can."""
    operation, view = program.operation, state.views[i]

    def on(value: int = 0) -> tuple[Program, ...]:
        return replace_at(state.programs, i, program.after(value))

    match operation:
        case Load(word, acquire):
            for value, time in view.values(word):
                seen = view.since(time) if acquire else replace(view, floors=put(view.floors, word, time))
                yield (
                    f" -> {value}",
                    replace(state, programs=on(value), views=replace_at(state.views, i, seen)),
                )
        case Read(word, expected):
            others = [value for value, _ in view.values(word) if value != expected]
            wrong = f"{word} is {others[0]}, not {expected}, when it is read early" if others else ""
            yield "", replace(state, programs=on(), windows=_begun(state, i, operation), wrong=wrong)
        case Store():
            yield "", replace(state, programs=on(), windows=_begun(state, i, operation))
        case Fence():
            if not any(isinstance(item, Store) for item in state.windows[i]):
                views = replace_at(state.views, i, view.since(len(view.log)))
                yield "", replace(state, programs=on(), windows=replace_at(state.windows, i, ()), views=views)
        case Kick(bell):
            yield "", replace(state, programs=on(), bells=put(state.bells, bell, get(state.bells, bell) + 1))
        case Wait(bell):
            if get(state.bells, bell):
                yield "", replace(state, programs=on(), bells=put(state.bells, bell, 0))


def _begun(state: WeakState, i: int, item: Store | Read) -> Windows:
    return replace_at(state.windows, i, (*state.windows[i], item))
