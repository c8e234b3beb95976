"""The page of boot parameters is what the table says."""

import subprocess
import sys
from pathlib import Path

from popnet.machine.parameters import PARAMETERS

ROOT = Path(__file__).parents[2]


def test_the_committed_page_is_the_generated_one() -> None:
    command = [sys.executable, ROOT / "tools/boot_parameters", "--print"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (ROOT / "docs/boot-parameters.md").read_text() == text, (
        "parameters changed: run tools/boot_parameters"
    )
    assert all(f"### {parameter.name}\n" in text for parameter in PARAMETERS)
