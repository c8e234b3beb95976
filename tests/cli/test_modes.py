"""`mode`: what is asked of the kernel, and what is shown."""

import json

from click.testing import CliRunner

from popnet.cli.main import cli
from tests.cli.conftest import Machine


def modes(*words: str) -> dict[str, dict[str, str]]:
    result = CliRunner().invoke(cli, ["mode", *words, "-o", "json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.output)["items"]
    return {row["peer"]: {ring: row[ring] for ring in ("high", "normal", "frames")} for row in rows}


def test_shown_with_names_where_there_are_some(machine: Machine) -> None:
    assert modes("k1") == {
        peer: dict.fromkeys(("high", "normal", "frames"), "adaptive") for peer in ("primary", "7")
    }
    lines = CliRunner().invoke(cli, ["mode", "k1"]).output.splitlines()
    assert [line.split() for line in lines] == [
        ["KERNEL", "PEER", "HIGH", "NORMAL", "FRAMES"],
        ["k1", "primary", "adaptive", "adaptive", "adaptive"],
        ["k1", "7", "adaptive", "adaptive", "adaptive"],
    ]


def test_switched_everywhere_or_at_one_ring_of_one_peer(machine: Machine) -> None:
    assert {mode for rings in modes("k1", "poll").values() for mode in rings.values()} == {"poll"}
    there = modes("k1", "interrupt", "--peer", "primary", "--ring", "frames")
    assert there["primary"] == {"high": "adaptive", "normal": "adaptive", "frames": "interrupt"}
    assert set(there["7"].values()) == {"adaptive"}


def test_bad_words_are_told(machine: Machine) -> None:
    result = machine.run("mode", "k1", "poll", "--peer", "k77")
    assert result.returncode == 1
    assert b"no kernel 'k77'" in result.stderr
    result = machine.run("mode", "k1", "fast")
    assert result.returncode == 2
    assert b"'fast' is not one of 'poll', 'adaptive', 'interrupt'" in result.stderr
    result = machine.run("mode", "k77")
    assert result.returncode == 1
    assert b"k77" in result.stderr
