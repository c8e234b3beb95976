"""What is heard of an interface that changes, in a namespace of the test's own."""

import errno
import selectors
import socket
from typing import Any

import pytest

from popnet.net.linkwatch import LinkWatch
from popnet.net.netlink import LinkInfo, RouteSocket
from tests.net.namespace import in_namespace


def heard(watch: LinkWatch) -> LinkInfo | None:
    with selectors.DefaultSelector() as selector:
        selector.register(watch.fd, selectors.EVENT_READ)
        assert selector.select(10), "the host told nothing"
    return watch.read()


def test_the_last_change_is_told() -> None:
    def body() -> list[int]:
        with RouteSocket() as route:
            watch = LinkWatch(route.link("lo").index)
            assert watch.read() is None
            told = []
            for mtu in (1500, 576):
                route.set_link("lo", mtu=mtu)
                info = heard(watch)
                assert info is not None
                told.append(info.mtu)
            watch.close()
            return told

    assert in_namespace(body) == [1500, 576]


def test_changes_of_others_are_not() -> None:
    def body() -> None:
        with RouteSocket() as route:
            watch = LinkWatch(4711)
            route.set_link("lo", mtu=1500)
            assert heard(watch) is None
            watch.close()

    in_namespace(body)


class FloodedSocket:
    """One whose host has dropped messages."""

    def __init__(self, *answers: OSError) -> None:
        self.answers = list(answers)

    def recv(self, size: int) -> bytes:
        raise self.answers.pop(0)

    def close(self) -> None:
        self.answers.clear()


def flooded(monkeypatch: pytest.MonkeyPatch, *answers: OSError) -> LinkWatch:
    watch = LinkWatch(socket.if_nametoindex("lo"))
    watch.close()
    fake: Any = FloodedSocket(*answers)
    monkeypatch.setattr(watch, "_socket", fake)
    return watch


def test_lost_messages_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = flooded(monkeypatch, OSError(errno.ENOBUFS, "full"), BlockingIOError(errno.EAGAIN, "no more"))
    told = watch.read()
    assert told is not None
    assert told.name == "lo"


def test_other_errors_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = flooded(monkeypatch, OSError(errno.EBADF, "closed"))
    with pytest.raises(OSError, match="closed"):
        watch.read()
