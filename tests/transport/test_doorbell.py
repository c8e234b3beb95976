"""Doorbells: kicks add up, a drain answers them all, and neither ever blocks."""

import os

import pytest

from popnet.core.errors import LinkViolation
from popnet.transport.doorbell import check_doorbell, create_doorbell, drain, kick


def test_kicks_add_up_and_one_drain_answers_them() -> None:
    bell = create_doorbell()
    assert not drain(bell)
    kick(bell)
    kick(bell)
    assert drain(bell)
    assert not drain(bell)
    os.close(bell)


def test_a_bell_at_the_brim_is_rung_already() -> None:
    bell = create_doorbell()
    os.eventfd_write(bell, 2**64 - 2)
    kick(bell)
    assert drain(bell)
    os.close(bell)


def test_a_doorbell_of_a_peer_is_checked() -> None:
    bell, blocking, pipe = create_doorbell(), os.eventfd(0), os.pipe()
    check_doorbell(bell)
    with pytest.raises(LinkViolation, match="blocks"):
        check_doorbell(blocking)
    with pytest.raises(LinkViolation, match="not an eventfd"):
        check_doorbell(pipe[1])
    for fd in (bell, blocking, *pipe):
        os.close(fd)
