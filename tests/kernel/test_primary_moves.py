"""What a user may do with kernels, in any order: the real primary, fake kernels, and a model of what is
legal."""

import asyncio
import signal
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from popnet.core.errors import IllegalState, NoSuchKernel, Refused
from popnet.message.notice import Change
from tests.kernel.test_primary import Lab, lab, until

__all__ = ["lab"]

LEGAL = {
    ("load", "offline"): "loaded",
    ("load", "failed"): "loaded",
    ("boot", "offline"): "online",
    ("boot", "failed"): "online",
    ("boot", "loaded"): "online",
    ("reboot", "online"): "online",
    ("kill", "online"): "offline",
    ("update", "online"): "online",
    ("update", "loaded"): "loaded",
    ("unload", "loaded"): "offline",
    ("unload", "failed"): "offline",
    ("crash", "online"): "failed",
}
"""The model: in which state which move is legal, and where it leads. All others change nothing."""

MOVES = st.lists(
    st.tuples(st.sampled_from(sorted({move for move, _ in LEGAL})), st.sampled_from(["k1", "k2"])),
    min_size=1,
    max_size=8,
)


async def move(lab: Lab, verb: str, name: str, memory: str) -> Any:
    """Do it, as the control API would."""
    if verb == "update":
        return await lab.primary.update(name, {"memory": memory})
    if verb == "crash":
        if lab.row(name)["state"] != "online":
            raise IllegalState("nothing to crash")
        kid = lab.row(name)["kid"]
        [kernel for kernel in lab.kernels if kernel.kid == kid][-1].die()
        await until(lambda: lab.row(name)["state"] == "failed")
        return None
    result = getattr(lab.primary, verb)(name)
    return await result if asyncio.iscoroutine(result) else result


async def play(lab: Lab, moves: Sequence[tuple[str, str]]) -> None:
    await lab.primary.start()
    memory: dict[str, int | None] = dict.fromkeys(("k1", "k2"))
    states, generations = dict.fromkeys(("k1", "k2"), "online"), dict.fromkeys(("k1", "k2"), 1)
    for turn, (verb, name) in enumerate(moves):
        wanted = f"{64 + turn}M"
        expected = LEGAL.get((verb, states[name]))
        if expected is None:
            with pytest.raises(IllegalState) as caught:
                await move(lab, verb, name, wanted)
            assert verb == "crash" or caught.value.hint, "it says what to do instead"
        else:
            await move(lab, verb, name, wanted)
            generations[name] += expected == "online" and verb != "update"
            states[name] = expected
            if verb in ("update", "unload"):
                memory[name] = (64 + turn) << 20 if verb == "update" else None
        for other in states:
            assert (lab.row(other)["state"], lab.row(other)["generation"]) == (
                states[other],
                generations[other],
            )
            assert lab.row(other)["memory_bytes"] == memory[other], "until it is unloaded"
    running = {kernel.kid for kernel in lab.kernels if kernel.process.poll() is None}
    assert running == {lab.row(name)["kid"] for name, state in states.items() if state == "online"}


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(moves=MOVES)
def test_any_sequence_of_moves_does_what_the_model_says(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[str, str]]
) -> None:
    async def run(monkeypatch: pytest.MonkeyPatch) -> None:
        lab = Lab(tmp_path_factory.mktemp("moves"), monkeypatch)
        try:
            await play(lab, moves)
        finally:
            await lab.close()
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().remove_signal_handler(number)

    with pytest.MonkeyPatch.context() as monkeypatch:
        asyncio.run(run(monkeypatch))


async def test_a_kernel_can_be_added_and_is_gone_when_unloaded(lab: Lab) -> None:
    await lab.primary.start()
    with pytest.raises(NoSuchKernel, match="has no kernel 'k9'"):
        lab.primary.load("k9")
    row = lab.primary.load("k9", "light", "mem=64M vty=3")
    assert (row["state"], row["kid"], row["image"], row["memory_bytes"]) == ("loaded", 3, "light", 64 << 20)
    assert lab.primary.terminal("k9", 2)
    assert (await lab.primary.boot("k9"))["state"] == "online"
    with pytest.raises(IllegalState, match="cannot unload kernel k9: it is online"):
        lab.primary.unload("k9")
    await lab.primary.kill("k9")
    lab.primary.load("k9")
    lab.primary.unload("k9")
    assert [row["name"] for row in lab.primary.kernels()] == ["primary", "k1", "k2"]
    assert lab.primary.load("k8", "light")["kid"] == 3


async def test_a_known_kernel_is_another_until_it_is_unloaded(lab: Lab) -> None:
    await lab.primary.start()
    await lab.primary.kill("k1")
    assert lab.primary.load("k1", "light", "vty=4")["image"] == "light"
    assert lab.row("k1")["ttys"] == 4
    lab.primary.unload("k1")
    assert (lab.row("k1")["image"], lab.row("k1")["ttys"]) == ("full", 2)


@pytest.mark.parametrize(
    ("name", "image", "append", "reason"),
    [
        ("K9", "light", None, "not a kernel's name"),
        ("k9", "lihgt", None, "no image 'lihgt'; did you mean 'light'?"),
        ("k9", "light", "present_mask=7", "has no CPU 7"),
        ("k9", "light", "mem=2G", "but this host has 1G"),
    ],
)
async def test_what_cannot_be_loaded_changes_nothing(
    lab: Lab, name: str, image: str, append: str | None, reason: str
) -> None:
    await lab.primary.start()
    before = lab.primary.kernels()
    with pytest.raises(Refused, match=reason.replace("?", r"\?")):
        lab.primary.load(name, image, append)
    assert [row["name"] for row in lab.primary.kernels()] == [row["name"] for row in before]


async def test_the_primary_itself_is_left_alone(lab: Lab) -> None:
    await lab.primary.start()
    for verb in ("kill", "reboot", "panic"):
        with pytest.raises(IllegalState, match="the primary cannot be"):
            await getattr(lab.primary, verb)("primary")
    with pytest.raises(IllegalState, match="the primary cannot be made to hang"):
        lab.primary.hang("primary")


async def test_panic_fails_the_kernel(lab: Lab) -> None:
    await lab.primary.start()
    row = await lab.primary.panic("k1")
    assert row["state"] == "failed"
    with pytest.raises(IllegalState, match="cannot make kernel k1 panic: it is failed"):
        await lab.primary.panic("k1")


async def test_an_update_reaches_the_kernel_and_those_who_watch(lab: Lab) -> None:
    await lab.primary.start()
    told: list[Any] = []
    lab.kernels[1].endpoint.watch("kernel/k1", told.append)
    [row] = await lab.primary.update("k1", {"memory": "64M", "devices": "+null"})
    assert row["memory_bytes"] == 64 << 20
    [given_] = lab.kernels[0].partitions
    assert (given_["memory_bytes"], given_["cpus"], given_["devices"]) == (
        64 << 20,
        [0],
        ["net/tun", "fuse", "null"],
    )
    await until(lambda: bool(told) and told[-1].change is Change.KERNEL_CHANGED)
    assert told[-1].reason == "memory no limit -> 64M, devices +null"


async def test_a_move_that_one_of_them_refuses_changes_nothing(lab: Lab) -> None:
    await lab.primary.start()
    await lab.primary.update("k1", {"memory": "128M"})
    await lab.primary.update("k2", {"memory": "128M"})
    lab.kernels[1].refuses = "no"
    with pytest.raises(Refused, match="cannot update kernel k2: no"):
        await lab.primary.update("k2", {"memory": "+64M", "from": "k1"})
    assert [lab.row(name)["memory_bytes"] for name in ("k1", "k2")] == [128 << 20] * 2
    assert [given_["memory_bytes"] for given_ in lab.kernels[0].partitions] == [
        128 << 20,
        64 << 20,
        128 << 20,
    ]
    lab.kernels[1].refuses = ""
    rows = await lab.primary.update("k2", {"memory": "+64M", "from": "k1"})
    assert [row["memory_bytes"] for row in rows] == [64 << 20, 192 << 20]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({}, "nothing to update"),
        ({"cpu": "1"}, "unknown key 'cpu'; allowed: cpus, devices, from, memory"),
        ({"cpus": 3}, "cpus: got 3"),
        ({"cpus": "+1"}, "has no CPU 1"),
        ({"memory": "+1M", "from": "k1"}, "cannot give to itself"),
    ],
)
async def test_requests_that_are_none(lab: Lab, request_: dict[str, Any], reason: str) -> None:
    await lab.primary.start()
    with pytest.raises(Refused, match=reason.replace("?", r"\?")):
        await lab.primary.update("k1", request_)
    assert lab.kernels[0].partitions == []
