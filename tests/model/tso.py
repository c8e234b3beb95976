"""The machine with store buffers (x86-TSO).

A store goes into the process's own buffer and reaches memory some time later, in order. A load sees the own
buffer first, else memory as it is now. A fence waits until the own buffer is empty. Acquire and release need
nothing here: loads are in order, and so are stores.
"""

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

Buffer = tuple[tuple[str, int], ...]
"""Stores on their way to memory, oldest first."""


@dataclass(frozen=True, slots=True)
class TsoState:
    programs: tuple[Program, ...]
    buffers: tuple[Buffer, ...]
    memory: Cells = ()
    bells: Cells = ()
    wrong: str = ""


def search(*programs: Program) -> Result:
    """Everything that *programs* can do together, starting with all words and bells 0."""
    return search_from(TsoState(programs, ((),) * len(programs)), _steps)


def _steps(state: TsoState) -> list[tuple[str, TsoState]]:
    steps: list[tuple[str, TsoState]] = []
    for i, buffer in enumerate(state.buffers):
        if buffer:
            (word, value), rest = buffer[0], buffer[1:]
            flushed = replace(
                state, buffers=replace_at(state.buffers, i, rest), memory=put(state.memory, word, value)
            )
            steps.append((f"{i}: {word}={value} reaches memory", flushed))
        following = _execute(state, i)
        if following is not None:
            steps.append((f"{i}: {state.programs[i].operation}", following))
    return steps


def _execute(state: TsoState, i: int) -> TsoState | None:
    """Process *i* does its next operation; None if it cannot now."""
    program, buffer = state.programs[i], state.buffers[i]
    value, buffers, bells, wrong = 0, state.buffers, state.bells, ""
    match program.operation:
        case Load(word):
            value = dict(buffer).get(word, get(state.memory, word))
        case Read(word, expected):
            value = dict(buffer).get(word, get(state.memory, word))
            wrong = f"{word} is {value}, not {expected}" if value != expected else ""
        case Store(word, stored):
            buffers = replace_at(buffers, i, (*buffer, (word, stored)))
        case Fence():
            if buffer:
                return None
        case Kick(bell):
            bells = put(bells, bell, get(bells, bell) + 1)
        case Wait(bell):
            if not get(bells, bell):
                return None
            bells = put(bells, bell, 0)
        case None:
            return None
    programs = replace_at(state.programs, i, program.after(value))
    return TsoState(programs, buffers, state.memory, bells, wrong)
