"""The manual and the completions: made of what popnet says of itself, well-formed, used by real shells."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from popnet.cli.main import VERBS

ROOT = Path(__file__).parents[2]
PAGES = ("popnet.1", "popnet-machine.5", "popnet.7")


def read(page: str) -> str:
    """*page* as a reader sees it."""
    command = ["mandoc", "-Tutf8", "-O", "width=200", str(ROOT / "docs/man" / page)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.sub(".\b", "", text)  # bold and underlined, as printers did it


def test_the_committed_files_are_the_generated_ones() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools/manpages", "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_well_formed(page: str) -> None:
    done = subprocess.run(
        ["mandoc", "-Tlint", "-Wwarning", str(ROOT / "docs/man" / page)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []


def test_every_verb_and_every_key_has_its_place() -> None:
    commands = read("popnet.1")
    for section in VERBS.values():
        for verb in section:
            assert f"\n   {verb}" in commands, verb
    assert "--log-format [auto|text|json|journal]" in commands
    schema = json.loads((ROOT / "kernels/machine.schema.json").read_text())
    machine = read("popnet-machine.5")
    for key in [*schema["properties"], *schema["$defs"]["KernelSection"]["properties"]]:
        assert f"\n       {key}" in machine, key
    overview = read("popnet.7")
    assert "doorbell" in overview and "present_mask=0-1,3" in overview


def environment(tmp_path: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "POPNET_RUN_DIR": str(tmp_path), "HOME": str(tmp_path)}


def test_bash_completes(tmp_path: Path) -> None:
    script = (
        f". {ROOT}/tools/completion/popnet; COMP_WORDS=(popnet cap); COMP_CWORD=1; COMP_LINE='popnet cap'; "
        'complete -p popnet | grep -q -- "-F _popnet_completion"; '
        '_popnet_completion popnet; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-ec", script], capture_output=True, text=True, check=False, env=environment(tmp_path)
    )
    assert (done.stdout, done.stderr) == ("capture\n", "")


def test_fish_completes(tmp_path: Path) -> None:
    script = f"source {ROOT}/tools/completion/popnet.fish; complete -C 'popnet cap'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=environment(tmp_path),
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["capture"]


def test_zsh_loads_the_function_by_its_name(tmp_path: Path) -> None:
    script = (
        f"fpath=({ROOT}/tools/completion $fpath); autoload -Uz compinit; compinit -u -D; "
        "print $_comps[popnet]; "
        "autoload +X _popnet && functions _popnet | grep -c zsh_complete"
    )
    done = subprocess.run(
        ["zsh", "-fc", script], capture_output=True, text=True, check=False, env=environment(tmp_path)
    )
    assert done.stdout.splitlines() == ["_popnet", "1"], done.stderr
