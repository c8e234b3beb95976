"""Sharing CPUs and numbers: everyone gets some, nobody gets another's, and the shares are fair."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popnet.machine.partition import number_kernels, owned_cores, share_cpus


@given(st.integers(1, 64), st.integers(1, 80))
def test_shares_are_fair(cpu_count: int, kernel_count: int) -> None:
    names = [f"k{number}" for number in range(kernel_count)]
    shares = share_cpus(range(cpu_count), {}, names)
    assert list(shares) == names
    sizes = [len(share) for share in shares.values()]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1
    users = [sum(cpu in share for share in shares.values()) for cpu in range(cpu_count)]
    assert max(users) - min(users) <= 1
    if cpu_count >= kernel_count:
        assert users == [1] * cpu_count


def test_lists_are_kept() -> None:
    assert share_cpus((0, 1, 2, 5), {"a": (1, 2)}, ["b", "c"]) == {"b": (0,), "c": (5,)}


def test_with_none_left_all_are_shared() -> None:
    assert share_cpus((0, 1), {"a": (0, 1)}, ["b", "c", "d"]) == {"b": (0,), "c": (1,), "d": (0,)}


def test_runs_are_of_neighbours() -> None:
    assert share_cpus(range(5), {}, ["a", "b"]) == {"a": (0, 1, 2), "b": (3, 4)}


@given(st.integers(1, 12), st.integers(1, 30))
def test_all_cores_are_owned_once(cpu_count: int, kernel_count: int) -> None:
    cpus = share_cpus(range(cpu_count), {}, [f"k{number}" for number in range(kernel_count)])
    owned = owned_cores(cpus)
    assert sum(owned.values()) == pytest.approx(cpu_count)
    assert (min(owned.values()) >= 1) == (kernel_count <= cpu_count)


def test_what_several_list_is_shared_evenly() -> None:
    assert owned_cores({"a": (0, 1), "b": (1,), "c": (1, 2)}) == {"a": 4 / 3, "b": 1 / 3, "c": 4 / 3}
    six = owned_cores({f"k{number}": range(6) for number in range(6)})
    assert set(six.values()) == {1.0}  # exactly: it is compared with 1


def test_kids_fill_the_gaps_in_order() -> None:
    kids = number_kernels(["primary", "a", "b", "c", "d"], {"primary": 0, "b": 2, "d": 1})
    assert kids == {"primary": 0, "a": 3, "b": 2, "c": 4, "d": 1}
