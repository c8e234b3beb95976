"""Descriptors: raised if there are too few and the host allows it, refused with the remedy if it does not."""

import resource
from typing import Any

import pytest

from popnet.core.errors import Refused
from popnet.kernel import descriptors
from tests.kernel.inside import in_child


@pytest.mark.parametrize(
    ("limits", "kernels", "after"),
    [((1024, 4096), 10, 1024), ((100, 4096), 10, 144), ((1024, 4096), 254, 2096), ((144, 144), 10, 144)],
)
def test_the_soft_limit_is_raised_as_far_as_needed(limits: tuple[int, int], kernels: int, after: int) -> None:
    def child() -> Any:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        descriptors.provide(kernels)
        return list(resource.getrlimit(resource.RLIMIT_NOFILE))

    assert in_child(child) == [after, limits[1]]


def test_too_few_are_refused_before_anything_is_started() -> None:
    def child() -> Any:
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, 143))
        try:
            descriptors.provide(10)
        except Refused as error:
            return str(error), error.hint
        return None

    text, hint = in_child(child)
    assert text == "a machine of 10 kernels needs 144 file descriptors, and it may have 143"
    assert "ulimit -n 144" in hint
