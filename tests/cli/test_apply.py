"""`apply`: shows the plan, does it, and says when there is nothing to do."""

import json
from pathlib import Path

from tests.cli.conftest import Machine


def test_the_plan_is_shown_and_done(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("new\n")
    done = machine.run("apply", str(file))
    assert done.stdout.decode().split() == ["STEP", "WHAT", "WHY", "boot", "k3", "it", "is", "new"]
    assert done.stderr.decode().endswith(": 1 step done\n")
    file.write_text("done already\n")
    done = machine.run("apply", str(file))
    assert (done.stdout, done.stderr.decode().endswith(": nothing to do\n")) == (b"", True)


def test_a_dry_run_names_the_plan_and_only_that_one_is_done(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("new\n")
    shown = machine.run("apply", "--dry-run", "-o", "json", str(file))
    assert [step["step"] for step in json.loads(shown.stdout)["items"]] == ["boot"]
    assert shown.stderr == b"plan 4-0: 1 step, none done\n"
    assert machine.run("apply", "--plan", "4-0", str(file)).returncode == 0
    file.write_text("other\n")
    refused = machine.run("apply", "--plan", "4-0", str(file))
    assert (refused.returncode, b"the file has changed" in refused.stderr) == (1, True)


def test_a_file_that_is_not_there(machine: Machine, tmp_path: Path) -> None:
    refused = machine.run("apply", str(tmp_path / "none.yaml"))
    assert (refused.returncode, b"cannot read this machine file" in refused.stderr) == (1, True)
