"""`validate` and `schema`."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from popnet.cli.files import shipped_files
from popnet.cli.main import cli

GOOD = "apiVersion: popnet/v1\nname: lab\nkernels:\n  k1: {image: full, memory: 512M, ttys: 3}\n"


def test_valid_file(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(GOOD)
    result = CliRunner().invoke(cli, ["validate", str(file), "-o", "json"])
    assert result.exit_code == 0
    assert result.stderr == f"{file}: machine 'lab' is valid\n"
    document = json.loads(result.stdout)
    assert document["kind"] == "KernelSpecList"
    assert set(document["items"][1]) == {
        "name", "kid", "image", "cpus", "memory_bytes", "mtu", "ttys", "hostname", "init", "ssh", "ipv4",
        "ipv6", "cmdline",
    }  # fmt: skip
    assert document["items"][1]["memory_bytes"] == 512 << 20


def test_table(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(GOOD)
    lines = CliRunner().invoke(cli, ["validate", str(file)]).stdout.splitlines()
    assert lines[0].split() == ["NAME", "KID", "IMAGE", "CPUS", "MEMORY", "TTYS", "ADDRESS"]
    assert lines[2].split()[:3] + lines[2].split()[-3:] == ["k1", "1", "full", "512M", "3", "10.1.2.2"]


def test_all_errors_of_a_wrong_file(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("apiVersion: popnet/v1\nname: lab\nkernels:\n  k1: {memroy: 1G}\n  k2: {ttys: 99}\n")
    result = CliRunner().invoke(cli, ["validate", str(file)])
    assert result.exit_code == 1
    assert "did you mean 'memory'?" in result.stderr and f"{file}:5:" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("name", ["nosuch", "./nosuch.yaml"])
def test_file_that_is_not_there(name: str) -> None:
    result = CliRunner().invoke(cli, ["validate", name])
    assert result.exit_code == 1 and "nosuch" in result.stderr


def test_files_that_come_with_popnet_are_valid_and_complete() -> None:
    names = shipped_files()
    assert "demo" in names
    for name in names:
        assert CliRunner().invoke(cli, ["validate", name]).exit_code == 0


def test_schema_accepts_a_good_file() -> None:
    schema = json.loads(CliRunner().invoke(cli, ["schema"]).stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(GOOD), schema)
