"""The places of a kernel's programs: how many streams and calls all of them may have at once."""

import contextlib
from collections.abc import Iterator
from typing import Final

from popnet.core import limits
from popnet.core.errors import Overloaded

PLACES: Final = limits.STREAMS_MAX // 2
"""Streams, and as many calls, that all programs of a kernel may have at once: half of what a peer grants a
kernel."""


class Places:
    """Those of the programs of *kernel*.

    Attributes:
        streams, calls: how many are taken.
    """

    def __init__(self, kernel: str) -> None:
        self._kernel = kernel
        self.streams = 0
        self.calls = 0

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """The place of one stream. Raises Overloaded."""
        if self.streams >= PLACES:
            raise Overloaded(f"the programs of kernel {self._kernel} have {PLACES} streams already")
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """The place of one call. Raises Overloaded."""
        if self.calls >= PLACES:
            raise Overloaded(f"the programs of kernel {self._kernel} have {PLACES} calls under way already")
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1
