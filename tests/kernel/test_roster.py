"""The roster: its entries, tables and description agree, whatever is loaded, changed and taken away."""

from pathlib import Path

import pytest

from popnet.core.errors import IllegalState, NoSuchKernel, Refused
from popnet.machine import states
from popnet.machine.states import KernelState
from tests.kernel.parts import MACHINE, bring_online, move, roster_of


@pytest.fixture(autouse=True)
def _(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load` finds images as the machine file does."""
    monkeypatch.delenv("POPNET_IMAGE_PATH", raising=False)


def test_it_begins_as_the_machine_file_says(tmp_path: Path) -> None:
    roster = roster_of(tmp_path)
    assert roster.names == {0: "primary", 1: "k1", 2: "k2"}
    assert roster.kids == {"primary": 0, "k1": 1, "k2": 2}
    assert [entry.spec.name for entry in roster] == ["primary", "k1", "k2"]
    assert roster.own.spec.kid == 0
    assert [len(entry.terminals) for entry in roster] == [entry.spec.ttys for entry in roster]
    assert {entry.life.state for entry in roster} == {KernelState.OFFLINE}
    assert not roster.online("k1")
    bring_online(roster.named("k1"))
    assert roster.online("k1")
    assert roster.row(roster.named("k1"))["state"] == "online"


def test_a_name_that_is_none_says_what_there_is(tmp_path: Path) -> None:
    roster = roster_of(tmp_path)
    with pytest.raises(NoSuchKernel, match="k9") as caught:
        roster.named("k9")
    assert "k1, k2" in f"{caught.value} {caught.value.hint}"


def test_what_runs_cannot_be_loaded(tmp_path: Path) -> None:
    roster = roster_of(tmp_path)
    bring_online(roster.named("k1"))
    before = roster.machine
    for image, append in ((None, None), (None, "quiet"), ("light", None)):
        with pytest.raises(IllegalState, match="k1"):
            roster.to_load("k1", image, append)
    assert roster.machine is before


def test_a_known_kernel_becomes_another_and_itself_again(tmp_path: Path) -> None:
    roster = roster_of(tmp_path)
    spec = roster.named("k1").spec
    kernel = roster.to_load("k1", "light", "quiet vty=3")
    assert kernel is roster.named("k1")
    assert (kernel.spec.image, kernel.spec.ttys, len(kernel.terminals)) == ("light", 3, 3)
    assert "quiet" in kernel.spec.cmdline
    assert roster.machine.by_name("k1") is kernel.spec
    roster.restore(kernel)
    assert roster.named("k1").spec == spec == roster.machine.by_name("k1")
    assert len(kernel.terminals) == spec.ttys


def test_a_new_kernel_is_in_every_table_and_gone_when_restored(tmp_path: Path) -> None:
    roster = roster_of(tmp_path)
    names, kids = roster.names, roster.kids
    kernel = roster.to_load("k9", "full", "mem=64M")
    assert (kernel.spec.kid, kernel.origin) == (3, None)
    assert names[3] == "k9" and kids["k9"] == 3, "the tables that others hold are the same ones"
    assert [one.name for one in roster.machine.kernels] == ["primary", "k1", "k2", "k9"]
    assert "k9" in roster.credentials.host_keys
    roster.restore(kernel)
    assert 3 not in names and "k9" not in kids and 3 not in roster.by_kid
    assert [one.name for one in roster.machine.kernels] == ["primary", "k1", "k2"]


@pytest.mark.parametrize(
    ("name", "image", "append", "says"),
    [
        ("K 9", "full", None, "not a kernel's name"),
        ("k9", "ful", None, "no image 'ful'"),
        ("k9", "full", "mem=x", "mem=: got 'x'"),
    ],
)
def test_what_cannot_be_loaded_changes_nothing(
    tmp_path: Path, name: str, image: str, append: str | None, says: str
) -> None:
    roster = roster_of(tmp_path)
    before = roster.machine, dict(roster.names), dict(roster.kids), dict(roster.by_kid)
    with pytest.raises(Refused, match=says):
        roster.to_load(name, image, append)
    assert before == (roster.machine, roster.names, roster.kids, roster.by_kid)


def test_memory_that_another_kernel_holds_is_not_given_twice(tmp_path: Path) -> None:
    text = MACHINE.replace("{image: light}", "{image: light, append: memmap=64M@0}")
    roster = roster_of(tmp_path, text)
    move(roster.named("k2"), states.Load())
    with pytest.raises(Refused, match="k2"):
        roster.to_load("k9", "full", "memmap=64M@32M")
    assert "k9" not in roster.kids
    move(roster.named("k2"), states.Unload())
    assert roster.to_load("k9", "full", "memmap=64M@32M").spec.kid == 3, "nobody holds it now"
