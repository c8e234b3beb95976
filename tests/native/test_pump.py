"""The frame pump, in Python and with all its threads, under ThreadSanitizer: its own tests once more.

What it can see are the pump's thread and Python's own at the gate. The rings it cannot: each end of a link
has a mapping of its own, and a race detector knows memory by its address (see threads.c). All of it is so
slow here that a consumer which runs may take longer than the 100 ms after which the pump calls it stalled: a
stall takes two seconds, so that what stalls, and what does not, is the same as at full speed. Two tests,
which would send 65,550 frames one by one and wait for 25 stalls, are thinned.
"""

import contextlib
import re
import subprocess
from pathlib import Path

from tests.native.extension import Completed, copy_of_popnet, transport_tests

TESTS = "tests/transport/test_native_pump.py"

PASSED_MIN = 30
"""Of about fifty: one that gives up waiting on a slow machine is no race."""

STALL_NS = 2_000_000_000
RACES = ("-fsanitize=thread", "-Wno-tsan", f"-DSTALL_NS={STALL_NS}u")

ATTEMPTS, ATTEMPT_S = 5, 20
"""Without its gate a pump may hang before a race is seen: then it is ended, and another gets its chance."""

NO_GATE = """
#define _GNU_SOURCE
#include <pthread.h>
#define pthread_mutex_lock(mutex) ((void)(mutex), 0)
#define pthread_mutex_unlock(mutex) ((void)(mutex), 0)
"""


def test_the_pump_has_no_race(tmp_path: Path) -> None:
    copy_of_popnet(tmp_path, *RACES)
    done = pump_tests(tmp_path)
    assert "ThreadSanitizer" not in done.stdout + done.stderr
    # What each test asserts is told where it runs at full speed; here it has to run, to its end.
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) >= PASSED_MIN, done.stdout


def test_a_pump_without_its_gate_is_found(tmp_path: Path) -> None:
    header = tmp_path / "no_gate.h"
    header.write_text(NO_GATE)
    copy_of_popnet(tmp_path, *RACES, "-include", str(header))
    told = []
    for _ in range(ATTEMPTS):
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = pump_tests(tmp_path, "-k", "injected or wanted or flood", patience_s=ATTEMPT_S)
            told.append(done.stdout + done.stderr)
            if "ThreadSanitizer: data race" in told[-1]:
                return
    raise AssertionError(told)


def pump_tests(directory: Path, *arguments: str, patience_s: int = 100) -> Completed:
    options = {"TSAN_OPTIONS": "halt_on_error=1", "POPNET_TEST_THINNED": "1"}
    return transport_tests(directory, "libtsan", options, TESTS, *arguments, patience_s=patience_s)
