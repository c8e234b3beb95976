"""`link` and `fault`: what is asked of the machine, what is shown, and how bad words are told."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from popnet.cli.main import cli
from tests.cli.conftest import Machine


def items(*words: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(cli, [*words, "-o", "json"])
    assert result.exit_code == 0, result.output
    return list(json.loads(result.stdout)["items"])


def test_both_directions_or_one(machine: Machine) -> None:
    words = ("--delay", "5ms", "--loss", "1%", "--seed", "7")
    rows = items("link", "set", "k1", "k2", *words)
    assert [(row["from"], row["to"]) for row in rows] == [("k1", "k2"), ("k2", "k1")]
    assert rows[0]["impairment"] == {"delay": "5ms", "loss": "1%", "seed": 7}
    assert len(items("link", "clear", "k1", "k2", "-d", "in")) == 0
    assert [(row["from"], row["to"]) for row in items("link")] == [("k1", "k2")]


def test_the_verb_set_may_be_left_out(machine: Machine) -> None:
    assert items("link", "k1", "k2", "--rate", "10mbit") == items("link", "show", "k1", "k2")
    assert items("link", "k1", "k2") == items("link")
    assert items("link", "k2", "primary") == []


def test_a_nic_is_isolated_and_mended(machine: Machine) -> None:
    assert machine.run("link", "down", "k1").stderr == b"k1: down\n"
    assert [(row["from"], row["to"], row["state"]) for row in items("link")] == [
        (None, "k1", "down"),
        ("k1", None, "down"),
    ]
    assert machine.run("link", "up", "k1").returncode == 0
    assert items("link") == []


def test_what_is_shown_to_people(machine: Machine) -> None:
    machine.run(
        "link", "k1", "k2", "--delay", "5ms", "--ordered", "--jitter", "1ms", "-d", "out", "--seed", "1"
    )
    machine.run("link", "down", "k1", "-d", "in")
    lines = CliRunner().invoke(cli, ["link"]).output.splitlines()
    said = "delay 5ms jitter 1ms ordered seed 1 10 9 loss 1 corrupt 2 0 5.1ms 6.2ms"
    head = "FROM TO STATE IMPAIRMENT FRAMES PASSED DROPS CHANGES QUEUED DELAY P99"
    assert " ".join(lines[0].split()) == head
    assert " ".join(lines[1].split()) == "k1 k2 up " + said
    assert " ".join(lines[2].split()) == "* k1 down" + 8 * " -"


def test_bad_words_are_told(machine: Machine) -> None:
    for words, text in (
        (("link", "k1", "k2", "--delay", "5"), b"delay: got '5'; allowed: a duration"),
        (("link", "k1", "k2", "--loss", "1"), b"did you mean '1%'?"),
        (("link", "k1", "k9", "--delay", "5ms"), b"no kernel 'k9'"),
        (("link", "down", "k1", "k1"), b"two different kernels"),
        (("link", "flap", "k1", "--down", "0s"), b"down: got '0s'"),
        (("link", "k1", "--reorder", "5%"), b"reorder: needs 'delay' as well"),
        (("fault", "run"), b"has no plan of faults"),
        (("fault", "run", "/nonesuch"), b"cannot read this plan"),
    ):
        result = machine.run(*words)
        assert result.returncode == 1, words
        assert text in result.stderr, (words, result.stderr)
        assert b"Traceback" not in result.stderr
    assert machine.run("link", "set", "k1", "k2").returncode == 2


def test_a_plan_from_a_file(machine: Machine, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "faults:\n"
        "  - {at: 5s, link: [k1, k2], direction: out, down: true}\n"
        "  - {at: 1s, nic: k1, clear: true}\n"
    )
    rows = items("fault", "run", str(plan))
    assert [(row["at_s"], row["action"]) for row in rows] == [(1.0, "clear"), (5.0, "down")]
    assert rows[1]["ways"] == ["k1 -> k2"]
    assert b"running since 1.5 s" in machine.run("fault", "show").stderr
    assert b"running" not in machine.run("fault", "stop").stderr
    for text, wrong in (
        ("faults: 5", b"no list under 'faults:'"),
        ("faults: [{at: 5s", b"not valid YAML"),
        ("faults:\n  - {at: 5s, nic: k7, down: true}\n", b"faults.0.nic: no kernel 'k7'"),
    ):
        plan.write_text(text)
        result = machine.run("fault", "run", str(plan))
        assert (result.returncode, wrong in result.stderr) == (1, True), result.stderr
