"""The TAP door without a TAP: what is asked of the host, and what users read when it refuses."""

import errno
import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from popnet.core.errors import Unavailable
from popnet.net import tap


class FakeDevice:
    """pytun's device on a pipe; remembers how it was made."""

    def __init__(self, name: str, flags: int) -> None:
        self.name, self.flags = name, flags
        self.reader, self._writer = os.pipe()
        os.set_inheritable(self.reader, True)

    def fileno(self) -> int:
        return self.reader

    def close(self) -> None:
        if self.reader >= 0:
            os.close(self.reader)
            os.close(self._writer)
            self.reader = -1


class FakeHost:
    """Takes the ioctls, refusing offload flags it was told not to know."""

    def __init__(self) -> None:
        self.unknown_flags = 0
        self.calls: list[tuple[int, Any]] = []

    def ioctl(self, fd: int, request: int, argument: Any) -> int:
        self.calls.append((request, argument))
        if request == tap.TUNSETOFFLOAD and argument & self.unknown_flags:
            raise OSError(errno.EINVAL, "Invalid argument")
        return 0


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHost]:
    fake = FakeHost()
    monkeypatch.setattr("fcntl.ioctl", fake.ioctl)
    monkeypatch.setattr("pytun.TunTapDevice", FakeDevice)
    yield fake


def test_asks_for_a_tap_with_the_header_and_all_offloads(host: FakeHost) -> None:
    opened = tap.open_tap("eth7")
    device = opened._device
    assert isinstance(device, FakeDevice)
    assert device.flags == 0x0002 | 0x1000 | 0x4000  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
    assert host.calls == [(tap.TUNSETVNETHDRSZ, struct.pack("i", 12)), (tap.TUNSETOFFLOAD, 0x6F)]
    assert opened.name == "eth7"
    assert opened.offloads == ("csum", "tso4", "tso6", "tso-ecn", "uso4", "uso6")
    assert not os.get_blocking(opened.fd)
    assert not os.get_inheritable(opened.fd)
    opened.close()
    opened.close()
    assert opened.fd == -1


@pytest.mark.parametrize(
    ("unknown_flags", "took"),
    [
        (0x60, ("csum", "tso4", "tso6", "tso-ecn")),
        (0x6E, ("csum",)),
        (0x6F, ()),
    ],
)
def test_falls_back_to_the_offloads_the_host_knows(
    host: FakeHost, unknown_flags: int, took: tuple[str, ...]
) -> None:
    host.unknown_flags = unknown_flags
    opened = tap.open_tap()
    assert opened.offloads == took
    opened.close()


@pytest.mark.parametrize(
    ("number", "says", "hint"),
    [
        (errno.ENOENT, "/dev/net/tun is missing", "modprobe tun"),
        (errno.EACCES, "no permission to open /dev/net/tun", "chmod 0666"),
        (errno.EPERM, "no permission to make a network interface", "--cap-add NET_ADMIN"),
        (errno.EBUSY, "exists already", "another name"),
        (errno.EINVAL, "exists already", "new network namespace"),
        (errno.EMFILE, "Too many open files", ""),
    ],
)
def test_a_host_that_refuses_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, number: int, says: str, hint: str
) -> None:
    def refuse(name: str, flags: int) -> FakeDevice:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("pytun.TunTapDevice", refuse)
    with pytest.raises(Unavailable) as caught:
        tap.open_tap("eth0")
    assert str(caught.value).startswith("cannot open TAP device eth0: ")
    assert says in str(caught.value)
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", ["", "sixteen-letters-"])
def test_a_name_that_is_none_is_our_mistake(name: str) -> None:
    with pytest.raises(ValueError, match="interface name"):
        tap.open_tap(name)


def test_the_carrier_is_switched(host: FakeHost) -> None:
    opened = tap.open_tap("eth0")
    assert opened.set_carrier(False)
    assert opened.set_carrier(True)
    assert host.calls[-2:] == [(tap.TUNSETCARRIER, struct.pack("i", on)) for on in (0, 1)]


def test_a_host_that_cannot_switch_it_is_no_error(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = tap.open_tap("eth0")

    def refuse(fd: int, request: int, argument: Any) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("fcntl.ioctl", refuse)
    assert not opened.set_carrier(False)
