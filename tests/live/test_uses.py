"""The machine files that popnet brings along do what their own checks say, and leave nothing."""

import json
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.live.lab import Lab

USES = ("single", "virtual", "compute-io", "realtime", "teaching")


@pytest.mark.parametrize("use", USES)
def test_a_use_passes_its_own_checks(lab: Lab, use: str, tmp_path: Path) -> None:
    if use == "realtime" and 1 not in os.sched_getaffinity(0):
        pytest.skip("needs CPU 1")
    report = tmp_path / "report.xml"
    done = lab.popnet("-o", "json", "check", use, "--junit", str(report), check=False, timeout_s=120)
    items = json.loads(done.stdout)["items"]
    bad = [item for item in items if not item["ok"]]
    assert not bad, bad
    assert done.returncode == 0
    assert len(items) > 5
    assert ElementTree.parse(report).getroot().attrib["tests"] == str(len(items))
    assert lab.machines() == [], "taken down afterwards"


CHECKED = """\
apiVersion: popnet/v1
name: {name}
kernels:
  k1: {{image: light}}
checks:
  - {{name: right, kernel: k1, run: uname -n, stdout: k1}}
  - {{name: wrong status, kernel: k1, run: echo why >&2; exit 3}}
  - {{name: wrong output, kernel: k1, run: echo this, stdout: that}}
  - {{name: too slow, kernel: k1, run: sleep 600, timeout: 300ms}}
  - {{name: no such program, kernel: k1, run: [nonesuch]}}
  - {{name: wrong state, kernel: k1, state: failed, timeout: 100ms}}
"""


def test_what_is_wrong_is_told_and_is_the_exit_status(lab: Lab) -> None:
    lab.up(CHECKED)
    done = lab.popnet("check", check=False)
    assert done.returncode == 1
    reasons = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
    assert reasons == [
        "k1: exit status 3, not 0; it said 'why'",
        "k1: stdout is 'this', in which 'that' is not found",
        "k1: sh -c sleep 600 took more than 0.3 s, and was killed",
        "k1: [Errno 2] cannot execute: No such file or directory: 'nonesuch'",
        "k1: it is online, not failed",
    ]
    assert "1 checks passed, 5 failed" in done.stderr
    lab.popnet("kill", "k1")
    down = json.loads(lab.popnet("-o", "json", "check", check=False).stdout)["items"]
    assert not any(item["ok"] for item in down)
    assert lab.machines() == ["lab"], "a machine that ran before goes on"


def test_a_machine_without_checks_is_an_error(lab: Lab) -> None:
    lab.up()
    done = lab.popnet("check", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "machine 'lab' has no checks" in done.stderr
    assert lab.popnet("check", "--keep", check=False).returncode == 2
    written = lab.popnet("check", "teaching", "--junit", "/nonexistent/x.xml", check=False)
    assert written.returncode == 1
    assert "/nonexistent/x.xml" in written.stderr
    assert lab.machines() == ["lab"]
