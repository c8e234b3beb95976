"""Applying files to a machine of fake kernels: the steps done, undone, and refused."""

from pathlib import Path
from typing import Any

import pytest

from popnet.core.errors import InvalidMachineFile, Refused
from tests.kernel.test_primary import FakeKernel, Lab, lab

__all__ = ["lab"]

HEAD = "apiVersion: popnet/v1\nname: test\nkernels:\n"
FIRST = HEAD + "  k1: {image: full}\n  k2: {image: full}\n"
SECOND = HEAD + "  k3: {image: light}\n  k1: {image: full, memory: 64M}\n  k2: {image: full, ttys: 4}\n"


def request(text: str, **more: str) -> dict[str, Any]:
    return {"file": str(Path("/nowhere/machine.yaml")), "text": text, **more}


def looks(lab: Lab) -> dict[str, Any]:
    keys = ("kid", "image", "state", "memory_bytes", "ttys")
    return {row["name"]: tuple(row[key] for key in keys) for row in lab.primary.kernels()}


async def test_the_machine_becomes_what_the_file_says_and_then_there_is_nothing_to_do(lab: Lab) -> None:
    await lab.primary.start()
    assert (await lab.primary.apply(request(FIRST)))["steps"] == []
    planned = await lab.primary.plan(request(SECOND))
    assert [step["text"] for step in planned["steps"]] == [
        "update k1: memory no limit -> 64M",
        "reboot k2: number of terminals 2 -> 4",
        "boot k3: it is new",
    ]
    assert lab.row("k1")["memory_bytes"] is None, "a plan does nothing"
    assert await lab.primary.apply(request(SECOND, token=planned["token"])) == planned
    assert looks(lab) == {
        "primary": (0, "full", "online", None, 2),
        "k1": (1, "full", "online", 64 << 20, 2),
        "k2": (2, "full", "online", None, 4),
        "k3": (3, "light", "online", None, 1),
    }
    assert [lab.row(name)["generation"] for name in ("k1", "k2", "k3")] == [1, 2, 1]
    assert (await lab.primary.apply(request(SECOND)))["steps"] == []
    await lab.primary.kill("k1")
    lab.primary.load("k1", "light", "mem=99M")
    lab.primary.unload("k1")
    assert lab.row("k1")["memory_bytes"] == 64 << 20, "what the file says is what it is again"


async def test_what_was_loaded_by_hand_or_has_died_is_as_the_file_says_again(lab: Lab) -> None:
    await lab.primary.start()
    lab.primary.load("k9", "light")
    await lab.primary.kill("k2")
    found = await lab.primary.apply(request(FIRST))
    assert [step["text"] for step in found["steps"]] == [
        "unload k9: the file does not have it",
        "boot k2: it does not run",
    ]
    assert sorted(looks(lab)) == ["k1", "k2", "primary"]
    assert lab.row("k2")["state"] == "online"


async def test_a_number_that_is_used_again_counts_on(lab: Lab) -> None:
    await lab.primary.start()
    await lab.primary.apply(request(SECOND))
    await lab.primary.apply(request(FIRST))
    await lab.primary.apply(request(SECOND))
    assert (lab.row("k3")["kid"], lab.row("k3")["generation"]) == (3, 2)


async def test_a_step_that_fails_is_undone_with_all_before_it(lab: Lab) -> None:
    async def boot(kernel: FakeKernel) -> None:
        await (kernel.boot() if kernel.kid < 3 else kernel.check_in())
        if kernel.kid == 3:
            kernel.die()

    await lab.primary.start()
    before, file = looks(lab), lab.primary.machine()["file"]
    lab.play = boot
    with pytest.raises(
        Refused, match="apply failed, and was undone: boot k3: it is new: kernel k3: "
    ) as caught:
        await lab.primary.apply(request(SECOND))
    assert "but for" not in str(caught.value)
    assert looks(lab) == before
    assert [given["memory_bytes"] for given in lab.kernels[0].partitions] == [64 << 20, None]
    assert any("undone" in text for text in await lab.events())
    assert lab.primary.machine()["file"] == file
    assert (await lab.primary.plan(request(FIRST)))["steps"] == []


async def test_what_cannot_be_undone_is_told(lab: Lab) -> None:
    async def boot(kernel: FakeKernel) -> None:
        await kernel.check_in()
        kernel.die()

    await lab.primary.start()
    lab.play = boot
    with pytest.raises(Refused, match="was undone, but for: reboot k2: as it was: kernel k2: "):
        await lab.primary.apply(request(SECOND))
    assert (lab.row("k1")["memory_bytes"], lab.row("k2")["ttys"]) == (None, 2)


async def test_a_file_or_a_machine_that_has_changed_since_the_plan_is_refused(lab: Lab) -> None:
    await lab.primary.start()
    token = (await lab.primary.plan(request(SECOND)))["token"]
    before = looks(lab)
    with pytest.raises(Refused, match="the file has changed since the plan was made"):
        await lab.primary.apply(request(SECOND + "# touched\n", token=token))
    assert looks(lab) == before
    await lab.primary.update("k2", {"memory": "128M"})
    with pytest.raises(Refused, match="the machine has changed since the plan was made"):
        await lab.primary.apply(request(SECOND, token=token))


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ("apiVersion: popnet/v1\n", InvalidMachineFile, "'name' is missing"),
        (FIRST.replace("full}", "full, memroy: 1G}", 1), InvalidMachineFile, "memroy"),
        (FIRST.replace("name: test", "name: other"), Refused, "name: test -> other"),
        (HEAD + "  k1: {memory: 8G}\n", InvalidMachineFile, "8G"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_done(
    lab: Lab, text: str, error: type[Exception], reason: str
) -> None:
    await lab.primary.start()
    before = looks(lab)
    with pytest.raises(error, match=reason):
        await lab.primary.apply(request(text))
    assert looks(lab) == before


async def test_a_request_without_a_text_is_none(lab: Lab) -> None:
    await lab.primary.start()
    with pytest.raises(Refused, match="a plan needs the `file`"):
        await lab.primary.plan({"file": "x"})
