"""Hear of changes of one interface as the guest makes them: `ip link set eth0 mtu 9000`.

A netlink socket of the namespace it was made in, which the host's kernel sends a message for each change of
any interface there. Messages may be lost when too many come at once; the host says so, and then we ask. So
what `read` returns last is always how things are.
"""

import contextlib
import errno
import socket
from typing import Final

from popnet.net.netlink import RTM_NEWLINK, LinkInfo, RouteSocket, links_in

RTMGRP_LINK: Final = 1
_RECEIVE_SIZE: Final = 64 << 10
_BUDGET: Final = 16
"""Messages read at once; an event loop calls again while there are more."""


class LinkWatch:
    """Changes of the interface number *index* of the caller's network namespace, from now on.

    Attributes:
        fd: readable when something changed. Non-blocking.
    """

    def __init__(self, index: int) -> None:
        self._index = index
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        try:
            self._socket.setblocking(False)
            self._socket.bind((0, RTMGRP_LINK))
        except BaseException:
            self._socket.close()
            raise
        self.fd = self._socket.fileno()

    def read(self) -> LinkInfo | None:
        """How the interface is after the changes that were told; None: it was not told of."""
        told = None
        for _ in range(_BUDGET):
            try:
                data = self._socket.recv(_RECEIVE_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                told = self._ask() or told
                continue
            for info in links_in(data, RTM_NEWLINK):
                if info.index == self._index:
                    told = info
        return told

    def _ask(self) -> LinkInfo | None:
        with contextlib.suppress(OSError), RouteSocket() as route:  # it may be deleted by now
            return next((info for info in route.links() if info.index == self._index), None)
        return None

    def close(self) -> None:
        self._socket.close()
