"""Which machines `serve` runs, what users of a gateway mean, and whether a machine is well."""

import pytest

from popnet.cli.gatewayusers import split
from popnet.cli.serving import Target, targets
from popnet.cli.status import judge
from popnet.core.errors import NoSuchMachine


def test_which_machines_are_meant() -> None:
    assert targets(["demo"]) == [Target("demo")]
    assert targets(["red=./a.yaml", "b.yaml"]) == [Target("./a.yaml", "red"), Target("b.yaml")]
    expanded = [target.name for target in targets(["s[08-11]=pair"])]
    assert expanded == ["s08", "s09", "s10", "s11"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["=demo"], "allowed: FILE, NAME=FILE"),
        (["a="], "allowed: FILE, NAME=FILE"),
        (["s[3-1]=demo"], "a rising range"),
        (["s[1-999]=demo"], "a rising range"),
        (["a=x", "a=y"], "two machines are called 'a'"),
        (["s[1-40]=x", "t[1-40]=x"], "80 machines; allowed: 64"),
    ],
)
def test_words_that_are_refused(words: list[str], says: str) -> None:
    with pytest.raises(ValueError) as caught:
        targets(words)
    assert says in str(caught.value)


def test_what_users_of_a_gateway_mean() -> None:
    assert split("red.k1.tty0", ["blue", "red"]) == ("red", "k1.tty0")
    assert split("k1.tty0", ["red"]) == ("red", "k1.tty0")
    assert split("red.k1", ["red"]) == ("red", "k1")
    with pytest.raises(NoSuchMachine):
        split("k1", [])
    with pytest.raises(NoSuchMachine) as caught:
        split("k1", ["blue", "red"])
    assert "blue.k1" in caught.value.hint


MACHINE = {"state": "up", "gateway": None}
ONLINE = {"kid": 1, "name": "k1", "state": "online", "hung": False}


@pytest.mark.parametrize(
    ("machine", "kernel", "why"),
    [
        (MACHINE, ONLINE, ""),
        (MACHINE, {**ONLINE, "state": "offline"}, ""),
        (MACHINE, {**ONLINE, "state": "failed", "reason": "panic"}, "k1 is failed (panic)"),
        (MACHINE, {**ONLINE, "hung": True}, "k1 hangs"),
        (MACHINE, {**ONLINE, "kid": 0, "state": "offline"}, "k1 is offline"),
        ({**MACHINE, "state": "stopping"}, ONLINE, "the machine is stopping"),
        ({**MACHINE, "gateway": {"state": "failed"}}, ONLINE, "its gateway does not run"),
        ({**MACHINE, "gateway": {"state": "listening"}}, ONLINE, ""),
    ],
)
def test_health(machine: dict[str, object], kernel: dict[str, object], why: str) -> None:
    row = judge("lab", machine, [kernel])
    assert (row["why"], row["healthy"]) == (why, not why)
