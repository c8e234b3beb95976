"""`update`: what it asks the machine for."""

from tests.cli.conftest import Machine


def test_what_is_given_is_asked_for_and_nothing_else(machine: Machine) -> None:
    done = machine.run("update", "k1", "--cpus", "-3", "--memory", "+1G", "--from", "k2", "-o", "json")
    assert done.returncode == 0
    assert b'"cpus": "cpus=-3&memory=+1G&from=k2"' in done.stdout
    assert b"devices=-loop0,+loop1" in machine.run("update", "k1", "--devices", "-loop0,+loop1").stdout


def test_help_says_what_the_words_mean(machine: Machine) -> None:
    text = machine.run("update", "--help").stdout.decode()
    for word in ("+3", "-2-3", "none", "--from"):
        assert word in text
