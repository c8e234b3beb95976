"""`services`."""

import json

from click.testing import CliRunner

from popnet.cli.main import cli
from tests.cli.conftest import Machine


def test_the_list_has_a_row_a_service(machine: Machine) -> None:
    lines = CliRunner().invoke(cli, ["services"]).output.splitlines()
    assert [line.split() for line in lines] == [
        ["SERVICE", "KERNEL", "GEN", "VERSION"],
        ["exec", "k1", "1", "1"],
    ]


def test_the_document_has_ports_too(machine: Machine) -> None:
    document = json.loads(CliRunner().invoke(cli, ["services", "-o", "json"]).output)
    assert document["kind"] == "ServiceList"
    assert document["items"] == [
        {"service": "exec", "kernel": "k1", "kid": 1, "generation": 1, "version": 1, "port": 2}
    ]
