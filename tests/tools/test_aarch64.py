"""The native file compiles for aarch64 without a warning, and a Python for it imports what comes out."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(400)
def test_it_compiles_and_is_imported() -> None:
    done = subprocess.run(
        [ROOT / "tools/packages/aarch64"], capture_output=True, text=True, check=False, timeout=350
    )
    assert done.returncode == 0, done.stderr
    compiled, imported = done.stdout.splitlines()
    assert compiled == "compiled: AArch64, stable ABI of 3.11"
    assert imported.startswith("imported: on aarch64 by Python 3.")
