"""The life of one kernel: which moves are legal, what each entails, and what to do instead of an illegal one.

Theory of operation. `handle` takes what is known of a kernel and one event, and returns what is known
afterwards and what has to be done; it does nothing itself. Users cause `Load`, `Start`, `Stop`, `Unload` and
`Update`; a wrong one raises IllegalState, whose hint names the right one. The host causes `Online`,
`StepFailed` and `Died`, in any order that processes can end in: a kernel that crashes while it boots may be
reported twice, one that is told to stop may come online first, and a check-in may be read after the death
that followed it. Such reports are legal where the table has them, and those of an earlier generation are
ignored everywhere; any other is our own bug.

A generation is one incarnation: it counts from 1 and grows at each `Start`. Who talks to an old one is
refused.
"""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from popnet.core.errors import IllegalState


class KernelState(Enum):
    """Where a kernel is in its life. The legal moves, and what each entails:

    ========  ===========  ========  ====================
    in        event        goes to   entails
    ========  ===========  ========  ====================
    offline   Load         loaded    -
    offline   Online       offline   -  (too late)
    offline   StepFailed   offline   -  (reported twice)
    offline   Died         offline   -  (reported twice)
    loaded    Start        starting  Boot
    loaded    Unload       offline   -
    loaded    Update       loaded    -
    loaded    Online       loaded    -  (too late)
    loaded    StepFailed   loaded    -  (reported twice)
    loaded    Died         loaded    -  (reported twice)
    starting  Online       online    -
    starting  StepFailed   failed    CleanUp
    starting  Died         failed    CleanUp
    starting  Stop         stopping  Terminate
    online    Stop         stopping  Terminate
    online    Update       online    -
    online    Died         failed    CleanUp
    stopping  Online       stopping  -  (too late)
    stopping  StepFailed   offline   CleanUp
    stopping  Died         offline   CleanUp
    failed    Load         loaded    -
    failed    Unload       offline   -
    failed    Online       failed    -  (too late)
    failed    StepFailed   failed    -  (reported twice)
    failed    Died         failed    -  (reported twice)
    ========  ===========  ========  ====================

    In `offline` nothing of the kernel exists, apart from its description. In `loaded` its partition is its
    own and nothing runs. `failed` is `offline` with a reason that nobody has looked at yet.
    """

    OFFLINE = "offline"
    LOADED = "loaded"
    STARTING = "starting"
    ONLINE = "online"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Load:
    """Give the kernel its partition."""


@dataclass(frozen=True, slots=True)
class Start:
    """Boot it, as its next generation."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End it, whatever it does."""

    reason: str = "stopped"


@dataclass(frozen=True, slots=True)
class Unload:
    """Take its partition back."""


@dataclass(frozen=True, slots=True)
class Update:
    """Give it another partition than it has."""


@dataclass(frozen=True, slots=True)
class Online:
    """It has checked in, and its init runs."""

    generation: int


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step of its boot failed."""

    generation: int
    step: str
    reason: str


@dataclass(frozen=True, slots=True)
class Died:
    """Its process ended, or hung and was ended."""

    generation: int
    reason: str


Event = Load | Start | Stop | Unload | Update | Online | StepFailed | Died


@dataclass(frozen=True, slots=True)
class Boot:
    """Run the boot steps of this generation."""

    generation: int


@dataclass(frozen=True, slots=True)
class Terminate:
    """End every process of this generation; its death is reported as `Died`."""

    generation: int


@dataclass(frozen=True, slots=True)
class CleanUp:
    """Undo all that this generation leaves behind: links, addresses, groups, mounts; tell its peers."""

    generation: int
    reason: str


Command = Boot | Terminate | CleanUp


@dataclass(frozen=True, slots=True)
class Life:
    """What is known of one kernel.

    Attributes:
        name: the kernel's.
        state: where it is in its life.
        generation: its latest incarnation; 0 before the first.
        since_s: when it came into this state, in seconds of the caller's clock.
        reason: why it is in this state, where there is something to say: of what it failed, why it stopped.
    """

    name: str
    state: KernelState = KernelState.OFFLINE
    generation: int = 0
    since_s: float = 0.0
    reason: str = ""


def handle(life: Life, event: Event, now_s: float) -> tuple[Life, list[Command]]:
    """What *event* makes of *life* at *now_s*, and what is to be done.

    Raises IllegalState for what a user asked at the wrong time; its hint says what to do instead.
    """
    state = life.state
    match event:
        case Load() if state in (KernelState.OFFLINE, KernelState.FAILED):
            return _move(life, KernelState.LOADED, now_s), []
        case Start() if state is KernelState.LOADED:
            born = replace(life, generation=life.generation + 1)
            return _move(born, KernelState.STARTING, now_s), [Boot(born.generation)]
        case Stop(reason) if state in (KernelState.STARTING, KernelState.ONLINE):
            return _move(life, KernelState.STOPPING, now_s, reason), [Terminate(life.generation)]
        case Unload() if state in (KernelState.LOADED, KernelState.FAILED):
            return _move(life, KernelState.OFFLINE, now_s), []
        case Update() if state in (KernelState.LOADED, KernelState.ONLINE):
            return life, []
        case Load() | Start() | Stop() | Unload() | Update():
            verb = type(event).__name__.lower()
            message = f"cannot {verb} kernel {life.name}: it is {state.value}"
            raise IllegalState(message, hint=_INSTEAD[type(event), state].format(name=life.name))
        case Online() | StepFailed() | Died():
            return _report(life, event, now_s)


def _report(life: Life, event: Online | StepFailed | Died, now_s: float) -> tuple[Life, list[Command]]:
    assert 1 <= event.generation <= life.generation, f"{event} of a generation never started: {life}"
    if event.generation < life.generation:
        return life, []
    match event, life.state:
        case Online(), KernelState.STARTING:
            return _move(life, KernelState.ONLINE, now_s), []
        case StepFailed(_, step, why), KernelState.STARTING:
            reason = f"{step}: {why}"
            return _move(life, KernelState.FAILED, now_s, reason), [CleanUp(life.generation, reason)]
        case Died(_, reason), KernelState.STARTING | KernelState.ONLINE:
            return _move(life, KernelState.FAILED, now_s, reason), [CleanUp(life.generation, reason)]
        case Online(), KernelState.STOPPING:
            return life, []
        case _, KernelState.STOPPING:
            reason = life.reason
            return _move(life, KernelState.OFFLINE, now_s, reason), [CleanUp(life.generation, reason)]
        case _, KernelState.OFFLINE | KernelState.LOADED | KernelState.FAILED:
            return life, []
        case _:
            raise AssertionError(f"{event} cannot happen to {life}")


def _move(life: Life, state: KernelState, now_s: float, reason: str = "") -> Life:
    return replace(life, state=state, since_s=now_s, reason=reason)


_WAIT_STOPPED: Final = "Wait until it has stopped, which takes a moment."
_BOOT: Final = "Run `popnet boot {name}`."
_KILL_FIRST: Final = "It runs already; `popnet kill {name}` ends it first."

_INSTEAD: Final[dict[tuple[type[Event], KernelState], str]] = {
    (Load, KernelState.LOADED): "It is loaded already; `popnet boot {name}` starts it.",
    (Load, KernelState.STARTING): _KILL_FIRST,
    (Load, KernelState.ONLINE): _KILL_FIRST,
    (Load, KernelState.STOPPING): _WAIT_STOPPED,
    (Start, KernelState.OFFLINE): "Load it first: `popnet load {name}`.",
    (Start, KernelState.STARTING): "It is booting already; `popnet ps` shows when it is online.",
    (Start, KernelState.ONLINE): _KILL_FIRST,
    (Start, KernelState.STOPPING): _WAIT_STOPPED,
    (
        Start,
        KernelState.FAILED,
    ): "Load it again first: `popnet load {name}`; `popnet dmesg {name}` tells what failed.",
    (Stop, KernelState.OFFLINE): "It does not run. " + _BOOT,
    (Stop, KernelState.LOADED): "It does not run; `popnet unload {name}` takes its partition back.",
    (Stop, KernelState.STOPPING): _WAIT_STOPPED,
    (Stop, KernelState.FAILED): "It does not run any more; `popnet dmesg {name}` tells what failed.",
    (Unload, KernelState.OFFLINE): "There is nothing to take back.",
    (Unload, KernelState.STARTING): _KILL_FIRST,
    (Unload, KernelState.ONLINE): _KILL_FIRST,
    (Unload, KernelState.STOPPING): _WAIT_STOPPED,
    (Update, KernelState.OFFLINE): "It has no partition now; `popnet load {name}` gives it one.",
    (Update, KernelState.STARTING): "It is booting; `popnet ps` shows when it is online.",
    (Update, KernelState.STOPPING): _WAIT_STOPPED,
    (Update, KernelState.FAILED): "It has no partition now; `popnet load {name}` gives it one.",
}
"""What to do instead of each illegal move."""
