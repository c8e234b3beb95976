"""Terminal modes that ssh clients send, on a real pty."""

import os
import termios
from collections.abc import Iterator

import pytest

from popnet.tty import modes, pty


@pytest.fixture
def slave() -> Iterator[int]:
    master, slave = pty.open_pty()
    yield slave
    os.close(slave)
    os.close(master)


def changed(slave: int, asked: dict[int, int]) -> list[object]:
    """The attributes that the pty has after it was set so."""
    termios.tcsetattr(slave, termios.TCSANOW, modes.apply(termios.tcgetattr(slave), asked))
    return termios.tcgetattr(slave)


def test_characters_and_flags_are_set(slave: int) -> None:
    attributes = changed(slave, {3: 8, 10: 255, 42: 1, 38: 0, 53: 0, 51: 1, 72: 0})
    input_flags, output_flags, _, local_flags, _, _, characters = attributes
    assert isinstance(characters, list)
    assert characters[termios.VERASE] == b"\x08"
    assert characters[termios.VSUSP] == b"\x00"
    assert isinstance(input_flags, int)
    assert isinstance(output_flags, int)
    assert isinstance(local_flags, int)
    assert input_flags & 0x4000  # IUTF8
    assert not input_flags & termios.IXON
    assert not local_flags & termios.ECHO
    assert local_flags & termios.ICANON
    assert not output_flags & termios.ONLCR


def test_modes_that_linux_does_not_know_change_nothing(slave: int) -> None:
    assert changed(slave, {}) == changed(slave, {11: 25, 17: 20, 128: 38400, 129: 38400, 91: 0, 250: 1})


def test_an_end_of_file_has_a_key_only_while_the_terminal_works_by_lines(slave: int) -> None:
    assert modes.ends_input(termios.tcgetattr(slave)) == b"\x04"
    changed(slave, {51: 0})
    assert modes.ends_input(termios.tcgetattr(slave)) == b""
