"""The frame pump, in Python and with all its threads, under ThreadSanitizer: its own tests once more.

What it can see are the pump's thread and Python's own at the gate. The rings it cannot: each end of a link
has a mapping of its own, and a race detector knows memory by its address (see threads.c). Those tests that a
slow pump would not pass, because they know what stalls and what does not, are left out.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.native.building import NATIVE, ROOT

TESTS = "tests/transport/test_native_pump.py"

PASSED_MIN = 30
"""Of about forty: one that gives up waiting on a slow machine is no race."""

NO_GATE = """
#define _GNU_SOURCE
#include <pthread.h>
#define pthread_mutex_lock(mutex) ((void)(mutex), 0)
#define pthread_mutex_unlock(mutex) ((void)(mutex), 0)
"""


def copy_of_popnet(to: Path, *flags: str) -> None:
    """popnet and its transport's tests at *to*, the extension made for ThreadSanitizer."""
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "popnet", to / "popnet", ignore=ignore)
    shutil.copytree(ROOT / "tests" / "transport", to / "tests" / "transport", ignore=ignore)
    (to / "tests" / "__init__.py").touch()
    shutil.copy(ROOT / "tests" / "children.py", to / "tests")
    (to / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    line = ["gcc", "-shared", "-fPIC", "-std=c11", "-O1", "-g", "-fsanitize=thread", "-Wno-tsan"]
    line += ["-fno-strict-aliasing", "-DPy_LIMITED_API=0x030B0000", f"-I{sysconfig.get_path('include')}"]
    line += [*flags, str(NATIVE / "module.c"), "-pthread"]
    line += ["-o", str(to / "popnet" / "transport" / "_native.abi3.so")]
    compiled = subprocess.run(line, capture_output=True, text=True, check=False, timeout=100)
    assert compiled.returncode == 0, compiled.stderr


def test_the_pump_has_no_race(tmp_path: Path) -> None:
    copy_of_popnet(tmp_path)
    done = pump_tests(tmp_path, "-k", "not stall and not full_ring and not does_not_read")
    assert "ThreadSanitizer" not in done.stdout + done.stderr
    # What each test asserts is told where it runs at full speed; here it has to run, to its end.
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) >= PASSED_MIN, done.stdout


def test_a_pump_without_its_gate_is_found(tmp_path: Path) -> None:
    header = tmp_path / "no_gate.h"
    header.write_text(NO_GATE)
    copy_of_popnet(tmp_path, "-include", str(header))
    done = pump_tests(tmp_path, "-k", "injected or wanted or flood")
    assert "ThreadSanitizer: data race" in done.stdout + done.stderr


def pump_tests(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    line = ["gcc", "-print-file-name=libtsan.so"]
    library = subprocess.run(line, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    environment = os.environ | {"LD_PRELOAD": library, "TSAN_OPTIONS": "halt_on_error=1"}
    line = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", TESTS, *arguments]
    return subprocess.run(
        line, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=100
    )
