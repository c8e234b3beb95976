"""What the words mean that say where to capture."""

import pytest

from popnet.control.capturetargets import Target, link, parse_targets
from popnet.core.errors import NoSuchKernel, Refused

KERNELS = ("primary", "k1", "k2", "a", "a-b", "b", "b-c", "c")


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("k1", [Target("k1")]),
        ("k1-k2", [Target("k1", "k2")]),
        ("k2-k1", [Target("k2", "k1")]),
        ("a-b", [Target("a-b")]),
        ("a-c", [Target("a", "c")]),
        ("k1-a-b", [Target("k1", "a-b")]),
        ("k1,k2-primary,k1", [Target("k1"), Target("k2", "primary")]),
        ("any", [Target(name) for name in KERNELS]),
        ("any,k1-k2", [*(Target(name) for name in KERNELS), Target("k1", "k2")]),
    ],
)
def test_targets(text: str, targets: list[Target]) -> None:
    assert parse_targets(text, KERNELS) == targets


def test_a_kernel_called_any_is_itself() -> None:
    assert parse_targets("any", ("primary", "any")) == [Target("any")]


@pytest.mark.parametrize("text", ["", "k3", "k1-k3", "k1,", "k1-", "-k1", "icmp"])
def test_what_is_not_there(text: str) -> None:
    with pytest.raises(NoSuchKernel, match="no kernel") as caught:
        parse_targets(text, KERNELS)
    assert "it has primary, k1" in caught.value.hint


def test_what_is_no_link() -> None:
    with pytest.raises(Refused, match="may be the link between a and b-c or a-b and c"):
        parse_targets("a-b-c", KERNELS)
    with pytest.raises(Refused, match="it has one end"):
        parse_targets("k1-k1", KERNELS)
    with pytest.raises(NoSuchKernel):
        link("k1", "k9", KERNELS)


def test_names_of_interfaces() -> None:
    assert [target.interface for target in parse_targets("k1,k1-k2", KERNELS)] == ["k1/eth0", "k1-k2"]
