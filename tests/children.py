"""Whether code that forks leaves its children behind: other tests' children must not count."""

import os

import pytest


class Forks:
    """The children forked while *monkeypatch* lasts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._pids: list[int] = []
        self._fork = os.fork
        monkeypatch.setattr(os, "fork", self._remember)

    def _remember(self) -> int:
        pid = self._fork()
        self._pids.append(pid)
        return pid

    def assert_reaped(self) -> None:
        """At least one was forked, and none of them is still to be waited for."""
        assert self._pids
        for pid in self._pids:
            with pytest.raises(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
