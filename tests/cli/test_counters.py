"""`counters`."""

import json

from click.testing import CliRunner

from popnet.cli.counters import flat
from popnet.cli.main import cli
from tests.cli.conftest import Machine
from tests.cli.fake_machine import COUNTERS


def test_flat() -> None:
    assert list(flat({"a": {"b": 1, "c": {"d": 2}}, "e": 3})) == [("a.b", 1), ("a.c.d", 2), ("e", 3)]


def test_lines_are_what_counted_something(machine: Machine) -> None:
    run = CliRunner().invoke
    assert run(cli, ["counters"]).output == "kernels.k1.nic.tx_frames 12\n"
    assert run(cli, ["counters", "--all"]).output.splitlines()[1] == "kernels.k1.nic.drop_no_link 0"


def test_document(machine: Machine) -> None:
    document = json.loads(CliRunner().invoke(cli, ["counters", "-o", "json"]).output)
    assert document == {"apiVersion": "popnet/v1", "kind": "Counters", **COUNTERS}
