"""What the primary answers of its kernels: from the roster, the registry, and the kernels themselves."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from popnet.core.errors import IllegalState, NoSuchKernel, NoSuchTerminal
from popnet.kernel import answers
from popnet.kernel.answers import Answers
from popnet.machine import states
from popnet.message.kinds import Kind
from popnet.message.registry import Change, Notice
from popnet.message.stream import Stream
from tests.kernel.parts import Body, Ends, bring_online, move, roster_of


class Registry:
    """A registry in which k1 has registered one service."""

    def services(self) -> list[Notice]:
        return [Notice(Change.SERVICE_UP, 1, 4, "echo", 2, 9, "")]


class Lab:
    def __init__(self, tmp: Path) -> None:
        self.roster = roster_of(tmp)
        self.k1, self.k2 = self.roster.named("k1"), self.roster.named("k2")
        self.ends = Ends(1, 2)
        registry: Any = Registry()
        self.answers = Answers(self.roster, self.ends.own, registry)
        bring_online(self.roster.own)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    await lab.ends.close()


async def texts(log: AsyncIterator[dict[str, Any]]) -> list[str]:
    return [line["text"] async for line in log]


async def test_kernels_are_shown_as_they_are(lab: Lab) -> None:
    lab.k1.timeline = [{"step": "fork", "start_ms": 0, "took_ms": 1}]
    bring_online(lab.k1)
    rows = lab.answers.kernels()
    assert [(row["name"], row["state"], row["generation"]) for row in rows] == [
        ("primary", "online", 1),
        ("k1", "online", 1),
        ("k2", "offline", 0),
    ]
    assert lab.answers.timeline("k1") == lab.k1.timeline
    with pytest.raises(NoSuchKernel):
        lab.answers.timeline("k9")


async def test_the_log_of_a_generation_that_ended(lab: Lab) -> None:
    for generation, text in ((1, "first"), (1, "last words"), (2, "now")):
        lab.k1.log.append({"generation": generation, "text": text})
    bring_online(lab.k1)
    move(lab.k1, states.Died(1, "killed"))
    assert await texts(lab.answers.log("k1", False, previous=True)) == ["first", "last words"]
    bring_online(lab.k1)
    assert await texts(lab.answers.log("k1", False, previous=True)) == ["first", "last words"]
    assert await texts(lab.answers.log("k1", False)) == ["first", "last words", "now"]


async def test_images_are_those_in_use_and_those_that_have_a_name(lab: Lab) -> None:
    rows = {row["name"]: row for row in await lab.answers.images()}
    assert {"full", "light"} <= set(rows)


async def test_terminals(lab: Lab) -> None:
    assert lab.answers.terminal("k1", 0) is lab.k1.terminals[0]
    for n in (-1, len(lab.k1.terminals)):
        with pytest.raises(NoSuchTerminal) as caught:
            lab.answers.terminal("k1", n)
        assert caught.value.hint == f"it has tty0 to tty{len(lab.k1.terminals) - 1}"


async def test_services_have_the_names_of_their_kernels(lab: Lab) -> None:
    [row] = lab.answers.services()
    expected = {"service": "echo", "kernel": "k1", "kid": 1, "generation": 4}
    assert expected.items() <= row.items()


async def test_a_service_is_opened_at_who_is_online(lab: Lab) -> None:
    with pytest.raises(IllegalState, match="kernel k1 is offline") as caught:
        await lab.answers.open("k1", "echo", {})
    assert caught.value.hint == "`popnet -m test boot k1` boots it"
    bring_online(lab.k1)

    async def echo(stream: Stream) -> None:
        await stream.close({"params": stream.params})

    lab.ends.of[1].serve("echo", echo)
    stream = await lab.answers.open("k1", "echo", {"x": 1})
    assert await stream.receive() is None
    assert stream.result == {"params": {"x": 1}}


@pytest.mark.parametrize("answer", [b"{", b"[1]", b"[" * 5000, b"null"])
async def test_counters_that_are_none_are_an_error_of_that_kernel(lab: Lab, answer: bytes) -> None:
    async def counters(kid: int, body: bytes) -> bytes:
        return json.dumps({"nic": {"tx_frames": 7}}).encode()

    async def nonsense(kid: int, body: bytes) -> bytes:
        return answer

    bodies = []
    for kernel, handler in ((lab.k1, counters), (lab.k2, nonsense)):
        bring_online(kernel)
        bodies.append(Body(kernel))
        lab.ends.of[kernel.spec.kid].answer(Kind.COUNTERS, handler)
    lab.ends.own.answer(Kind.COUNTERS, counters)
    told = (await lab.answers.counters())["kernels"]
    assert told["k1"]["nic"] == {"tx_frames": 7}
    assert list(told["k1"]["ttys"]) == [f"tty{n}" for n in range(len(lab.k1.terminals))]
    assert "error" in told["k2"] and "nic" not in told["k2"] and "ttys" not in told["k2"]
    assert told["primary"]["usage"]["memory_bytes"] > 0, "the host tells it"
    for body in bodies:
        body.close()


async def test_who_does_not_answer_in_time_has_an_error(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "COUNTERS_TIMEOUT_S", 0.05)
    bring_online(lab.k1)
    body = Body(lab.k1)

    async def never(kid: int, body: bytes) -> bytes:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    lab.ends.of[1].answer(Kind.COUNTERS, never)
    told = (await lab.answers.counters())["kernels"]
    assert "error" in told["k1"] and "nic" not in told["k1"]
    body.close()


async def test_the_ssh_config_is_that_of_the_credentials(lab: Lab) -> None:
    assert lab.answers.ssh_config() == lab.roster.credentials.ssh_config
