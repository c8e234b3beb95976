"""The extension made for a sanitizer, in a copy of popnet, and the transport's own tests run on it."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.native.building import NATIVE, ROOT

Completed = subprocess.CompletedProcess[str]


def copy_of_popnet(to: Path, *flags: str) -> None:
    """popnet and its transport's tests at *to*, the extension compiled with *flags*."""
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "popnet", to / "popnet", ignore=ignore)
    shutil.copytree(ROOT / "tests" / "transport", to / "tests" / "transport", ignore=ignore)
    (to / "tests" / "__init__.py").touch()
    shutil.copy(ROOT / "tests" / "children.py", to / "tests")
    (to / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    line = ["gcc", "-shared", "-fPIC", "-std=c11", "-O1", "-g", "-fno-strict-aliasing"]
    line += ["-DPy_LIMITED_API=0x030B0000", f"-I{sysconfig.get_path('include')}", *flags]
    line += [str(NATIVE / "module.c"), "-pthread"]
    line += ["-o", str(to / "popnet" / "transport" / "_native.abi3.so")]
    compiled = subprocess.run(line, capture_output=True, text=True, check=False, timeout=100)
    assert compiled.returncode == 0, compiled.stderr


def transport_tests(
    directory: Path, sanitizer: str, options: dict[str, str], *arguments: str, patience_s: int = 100
) -> Completed:
    """pytest in a copy, under libasan or libtsan: it has to be there before Python is."""
    line = ["gcc", f"-print-file-name={sanitizer}.so"]
    library = subprocess.run(line, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    environment = os.environ | options | {"LD_PRELOAD": library}
    line = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(
        line, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=patience_s
    )
