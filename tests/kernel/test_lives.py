"""The lives of kernels: a state changes in one place, and what that entails is done and told, once."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from popnet.core.errors import BootFailed, IllegalState, Refused
from popnet.kernel import lives as module
from popnet.kernel.entry import Entry
from popnet.kernel.incarnation import Incarnation
from popnet.kernel.lives import Lives
from popnet.machine.states import KernelState
from popnet.message.kinds import Kind
from popnet.transport.directory import Directory
from tests.kernel.parts import Body, Told, roster_of, until

ROW = {"step": "fork", "start_ms": 0, "took_ms": 1}


class Lab:
    """The lives of k1 and k2: the test is the loader, the daemons, the registry and the links of kernel 0."""

    def __init__(self, tmp: Path) -> None:
        self.roster = roster_of(tmp)
        self.k1, self.k2 = self.roster.named("k1"), self.roster.named("k2")
        self.told = Told()
        self.bodies: list[Body] = []
        self.refuses: Exception | None = None
        self.posts: list[tuple[int, int, Any]] = []
        self.down: list[tuple[str, int, int, str]] = []
        self.changed: list[str] = []
        self.on_death: Callable[[Incarnation], None] = lambda incarnation: None
        self.directory, _ = Directory.create()

        def post(peer: int, kind: int, body: bytes, high: bool) -> None:
            self.posts.append((peer, kind, json.loads(body)))

        async def ready(image: Any) -> None:
            return None

        daemon: Any = SimpleNamespace(
            links=SimpleNamespace(linked={2: None}, peer_down=self._noted("links")),
            endpoint=SimpleNamespace(post=post),
        )
        loader: Any = SimpleNamespace(fork=self._fork)
        registry: Any = SimpleNamespace(down=self._noted("registry"))
        roots: Any = SimpleNamespace(ready=ready)
        switchboard: Any = SimpleNamespace(take=None)
        self.lives = Lives(
            self.roster, loader, switchboard, self.directory, daemon, registry, roots, self.told
        )
        self.lives.on_change = lambda kernel: self.changed.append(
            f"{kernel.spec.name} {kernel.life.state.value}"
        )

    def _noted(self, by: str) -> Callable[[int, int, str], None]:
        return lambda kid, generation, reason: self.down.append((by, kid, generation, reason))

    def _fork(self, kernel: Entry, take: Any, died: Callable[[Incarnation], None]) -> Incarnation:
        if self.refuses is not None:
            raise self.refuses
        self.on_death = died
        self.bodies.append(Body(kernel))
        return self.bodies[-1].incarnation

    def end(self, code: int = -9) -> None:
        """The loader has reaped the last that was forked."""
        body = self.bodies.pop()
        body.incarnation.exited(code)
        body.theirs.close()
        kernel = self.roster.by_kid[body.incarnation.kernel.kid]
        self.lives.reaped(kernel, body.incarnation)

    async def boot(self) -> None:
        """k1, up to online."""
        booting = asyncio.create_task(self.lives.boot(self.k1))
        await until(lambda: self.bodies)
        assert self.lives.came_online(self.k1, [ROW])
        await booting


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    while lab.bodies:
        lab.end()
    await lab.lives.remove_groups()
    lab.directory.close()


async def test_a_boot_goes_through_its_states_and_shows_them_to_all(lab: Lab) -> None:
    await lab.boot()
    assert lab.changed == ["k1 loaded", "k1 starting", "k1 online"]
    assert lab.told.texts()[-1] == "kernel 1: online (generation 1, 1 ms)"
    shown = lab.directory.get(1)
    assert (list(KernelState)[shown.state - 1], shown.generation) == (KernelState.ONLINE, 1)
    assert lab.k1.timeline == [ROW]


async def test_online_counts_once_and_only_while_it_boots(lab: Lab) -> None:
    assert not lab.lives.came_online(lab.k1, [ROW]), "nothing was forked"
    await lab.boot()
    assert not lab.lives.came_online(lab.k1, [])
    assert lab.k1.timeline == [ROW]


async def test_what_runs_is_not_booted_again(lab: Lab) -> None:
    await lab.boot()
    with pytest.raises(IllegalState, match="kernel k1"):
        await lab.lives.boot(lab.k1)


async def test_a_machine_that_goes_down_boots_nobody(lab: Lab) -> None:
    lab.lives.boot_no_more()
    with pytest.raises(IllegalState, match="cannot boot kernel k1: the machine goes down"):
        await lab.lives.boot(lab.k1)
    assert lab.changed == []


@pytest.mark.parametrize("error", [OSError(28, "No space left"), Refused("no such group", "mend it")])
async def test_a_fork_that_cannot_be_asked_for_fails_the_boot_with_its_hint(
    lab: Lab, error: Exception
) -> None:
    lab.refuses = error
    with pytest.raises(BootFailed) as caught:
        await lab.lives.boot(lab.k1)
    assert str(error) in str(caught.value)
    assert caught.value.hint == getattr(error, "hint", "")
    assert lab.k1.life.state is KernelState.FAILED
    lab.refuses = None
    await lab.boot()
    assert lab.k1.life.generation == 2


async def test_a_boot_that_fails_says_the_step_and_the_reason(lab: Lab) -> None:
    booting = asyncio.create_task(lab.lives.boot(lab.k1))
    await until(lambda: lab.bodies)
    lab.bodies[0].incarnation.failed("nic: no TAP", "mend it")
    lab.end(1)
    with pytest.raises(BootFailed, match="kernel k1: nic: no TAP") as caught:
        await booting
    assert caught.value.hint == "mend it"
    assert lab.k1.life.state is KernelState.FAILED and lab.k1.incarnation is None


async def test_a_boot_that_never_ends_is_given_up_and_killed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BOOT_TIMEOUT_S", 0.05)
    booting = asyncio.create_task(lab.lives.boot(lab.k1))
    await until(lambda: lab.bodies and lab.bodies[0].killed)
    lab.end()
    with pytest.raises(BootFailed, match="online: not reached"):
        await booting


async def test_a_death_is_told_to_everybody_before_it_is_known_how(lab: Lab) -> None:
    await lab.boot()
    lab.on_death(lab.bodies[0].incarnation)
    assert lab.down == [("links", 1, 1, "k1: its daemon ended"), ("registry", 1, 1, "its daemon ended")]
    assert lab.posts == [(2, Kind.NOTIFY, {"down": 1, "generation": 1, "reason": "its daemon ended"})]
    assert lab.k1.life.state is KernelState.ONLINE, "the loader says how"
    lab.k1.hung = True
    gone = lab.bodies[0].incarnation.gone
    lab.end(-11)
    assert (lab.k1.life.state, lab.k1.life.reason) == (KernelState.FAILED, "killed by SIGSEGV")
    assert gone.result() == "killed by SIGSEGV"
    assert not lab.k1.hung and lab.k1.incarnation is None


async def test_stopping_asks_first_and_ends_in_offline(lab: Lab) -> None:
    await lab.boot()
    stopping = asyncio.create_task(lab.lives.stop(lab.k1))
    await until(lambda: lab.posts)
    assert lab.posts[0] == (1, Kind.CONTROL, {"op": "shutdown"})
    assert not lab.bodies[0].killed
    lab.end(0)
    await stopping
    assert (lab.k1.life.state, lab.k1.life.reason) == (KernelState.OFFLINE, "stopped")


async def test_who_does_not_stop_is_killed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DOWN_TIMEOUT_S", 0.05)
    await lab.boot()
    stopping = asyncio.create_task(lab.lives.stop(lab.k1))
    await until(lambda: lab.bodies[0].killed)
    assert lab.k1.life.state is KernelState.STOPPING
    lab.end()
    await stopping
    assert lab.k1.life.state is KernelState.OFFLINE
