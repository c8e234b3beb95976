"""Fixtures of the live tests: real TAPs, namespaces, ssh clients and tshark, on this host, which is left as
it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from popnet.cli import residue
from tests.live.lab import Lab, nothing_left


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """An empty lab of this test's own; whatever the test does, nothing of it is left on the host."""
    yield from _lab(tmp_path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A machine of a primary and two full kernels, k1 and k2, shared by the tests of a module."""
    for lab in _lab(tmp_path_factory.mktemp("pair")):
        yield lab.up()


def _lab(tmp: Path) -> Iterator[Lab]:
    lab = Lab(tmp / "run", tmp)
    before = residue.take(lab.run_dir)
    try:
        yield lab
    finally:
        lab.down()
    nothing_left(before, before, lab.run_dir)
