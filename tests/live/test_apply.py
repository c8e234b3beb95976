"""`popnet apply`: a machine that runs becomes what a file says, all of it or nothing."""

import json

from tests.live.lab import Lab

FIRST = """\
apiVersion: popnet/v1
name: lab
kernels:
  k1: {image: light, memory: 128M}
  k2: {image: light}
"""

SECOND = """\
apiVersion: popnet/v1
name: lab
kernels:
  k1: {image: light, memory: 256M}
  k2: {image: light, ttys: 2}
  k3: {image: light}
links:
  - {link: [k1, k2], delay: 1ms}
"""


def test_plan_apply_again_and_back(lab: Lab) -> None:
    lab.popnet("up", lab.file(FIRST))
    file = lab.file(SECOND, "second.yaml")
    lab.sh("k1", "echo kept > /run/mark")
    plan = json.loads(lab.popnet("-o", "json", "apply", "--dry-run", file).stdout)["items"]
    found = {(step["step"], step["what"]): step["why"] for step in plan}
    assert "memory 128M -> 256M" in found["update", "k1"], "beside the CPUs, which are shared out anew"
    assert found["reboot", "k2"] == "number of terminals 1 -> 2"
    assert found["boot", "k3"] == "it is new"
    assert found["link", "k1 -> k2"] == found["link", "k2 -> k1"] == "nothing -> delay 1ms"
    assert "k3" not in lab.kernels(), "a dry run does nothing"
    lab.popnet("apply", file)
    assert lab.sh("k1", "cat /run/mark; grep MemTotal /proc/meminfo").split()[:3] == [
        "kept",
        "MemTotal:",
        str(256 << 10),
    ]
    lab.exec("k2", "ls", "/dev/tty1")
    lab.ping("k3", "k1")
    assert len(json.loads(lab.popnet("-o", "json", "link").stdout)["items"]) == 2
    again = lab.popnet("apply", file)
    assert (again.stdout, again.stderr) == ("", "machine lab: nothing to do\n")
    lab.popnet("apply", lab.file(FIRST))
    assert sorted(lab.kernels()) == ["k1", "k2", "primary"]
    assert json.loads(lab.popnet("-o", "json", "link").stdout)["items"] == []
    # One more of the same number must be heard by the others.
    lab.popnet("apply", file)
    address = lab.kernels()["k3"]["ipv4"]  # the name is known to those that boot later
    lab.ping("k1", address)


def test_a_kernel_that_does_not_boot_undoes_all_of_it(lab: Lab) -> None:
    lab.popnet("up", lab.file(FIRST))
    broken = lab.file(
        SECOND.replace("k3: {image: light}", "k3: {image: light, init: /bin/false}"), "broken.yaml"
    )
    failed = lab.popnet("apply", broken, check=False)
    assert failed.returncode == 1
    assert "apply failed, and was undone: boot k3: it is new: kernel k3: " in failed.stderr
    assert "Traceback" not in failed.stderr
    rows = lab.kernels()
    assert sorted(rows) == ["k1", "k2", "primary"]
    assert (rows["k1"]["memory_bytes"], rows["k2"]["ttys"], rows["k2"]["state"]) == (128 << 20, 1, "online")
    assert lab.popnet("apply", lab.file(FIRST)).stderr == "machine lab: nothing to do\n"


def test_a_file_that_changed_between_plan_and_apply(lab: Lab) -> None:
    lab.popnet("up", lab.file(FIRST))
    file = lab.file(SECOND, "second.yaml")
    token = lab.popnet("apply", "--dry-run", file).stderr.split()[1].rstrip(":")
    lab.file(SECOND.replace("256M", "255M"), "second.yaml")
    refused = lab.popnet("apply", "--plan", token, file, check=False)
    assert "the file has changed since the plan was made" in refused.stderr
    assert "k3" not in lab.kernels()
    wrong = lab.popnet("apply", lab.file(SECOND.replace("memory", "memroy"), "wrong.yaml"), check=False)
    assert "did you mean 'memory'?" in wrong.stderr
    lab.file(SECOND, "second.yaml")
    lab.popnet("apply", "--plan", token, file)
    assert lab.kernels()["k3"]["state"] == "online"
