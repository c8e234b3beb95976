"""Pairs of links for tests: fake ones, and real ones over shared memory, with the same ends."""

import os
from dataclasses import dataclass

from popnet.message.fake import FakeLink, fake_links
from popnet.transport._native import Link, Window
from popnet.transport.doorbell import create_doorbell
from popnet.transport.window import attach_window, create_window

KINDS = ("fake", "real")


@dataclass
class LinkPair:
    """The two ends of a link, and the doorbell of each. Kernels 1 and 2, in generations 1 and 5."""

    a: FakeLink | Link
    b: FakeLink | Link
    bell_a: int
    bell_b: int
    window_b: Window | None = None

    def close(self) -> None:
        os.close(self.bell_a)
        os.close(self.bell_b)


def link_pair(kind: str) -> LinkPair:
    bell_a, bell_b = create_doorbell(), create_doorbell()
    if kind == "fake":
        return LinkPair(*fake_links(bell_a, bell_b), bell_a, bell_b)
    (window_a, fd_a), (window_b, fd_b) = create_window(1, 1, 2), create_window(2, 5, 1)
    link_a = Link(window_a, attach_window(fd_b), bell_b, -1)
    link_b = Link(window_b, attach_window(fd_a), bell_a, -1)
    os.close(fd_a)
    os.close(fd_b)
    return LinkPair(link_a, link_b, bell_a, bell_b, window_b)
