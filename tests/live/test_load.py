"""Load, boot, reboot, kill, unload, panic and hang, on a machine that runs."""

import json
import random
from collections.abc import Iterator

import pytest

from popnet.control.client import Client
from tests.live.conftest import _lab
from tests.live.lab import Lab, wait_until

MACHINE = """\
apiVersion: popnet/v1
name: {name}
kernels:
  k1: {{image: light}}
  k2: {{image: light}}
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    for lab in _lab(tmp_path_factory.mktemp("load")):
        yield lab.up(MACHINE)


def test_a_kernel_that_the_file_does_not_have(machine: Lab) -> None:
    loaded = machine.popnet("load", "k9", "--image", "full", "--append", "mem=64M hue=blue quiet")
    assert loaded.stdout == "kernel k9: loaded (generation 0)\n"
    machine.popnet("boot", "k9")
    assert machine.sh("k9", "echo $hue; uname -n").split() == ["blue", "k9"]
    assert machine.sh("k9", "cat /proc/cmdline").endswith(
        "mem=64M vty=2 hostname=k9 ip=10.1.2.4 quiet hue=blue\n"
    )
    machine.ping("k9", "k1")
    machine.ping("k1", "10.1.2.4")
    assert machine.popnet("ssh", "k9", "--", "uname", "-n").stdout == "k9\n"
    machine.popnet("kill", "k9")
    machine.popnet("load", "k9")
    machine.popnet("unload", "k9")
    assert "k9" not in machine.kernels()


def test_illegal_moves_say_what_to_do(machine: Lab) -> None:
    for words, reason, advice in (
        (("load", "k1"), "cannot load kernel k1: it is online", "popnet kill k1"),
        (("unload", "k1"), "cannot unload kernel k1: it is online", "popnet kill k1"),
        (("load", "k8"), "machine lab has no kernel 'k8'", "primary, k1, k2"),
        (("load", "k8", "--image", "nope"), "no image 'nope'", "path of its directory"),
        (("load", "k8", "--append", "mem=x"), "cannot load kernel k8: mem=: got 'x'", ""),
        (("reboot", "primary"), "the primary cannot be rebooted", "popnet down"),
    ):
        result = machine.popnet(*words, check=False)
        assert result.returncode == 1, words
        assert reason in result.stderr
        assert advice in result.stderr
        assert "Traceback" not in result.stderr


def test_reboot_is_the_next_generation(machine: Lab) -> None:
    before = machine.kernels()["k1"]["generation"]
    machine.sh("k1", "echo kept > /run/mark")
    assert f"(generation {before + 1}, " in machine.popnet("reboot", "k1").stdout
    assert machine.exec("k1", "cat", "/run/mark", check=False).returncode == 1
    machine.ping("k2", "k1")


def test_panic_and_its_last_words(machine: Lab) -> None:
    assert machine.popnet("panic", "k2").stdout.startswith("kernel k2: failed: panic was asked for")
    assert machine.kernels()["k1"]["state"] == "online"
    words = machine.popnet("dmesg", "k2", "--previous").stdout
    assert "Kernel panic: panic was asked for" in words
    machine.popnet("boot", "k2")
    assert "Kernel panic" in machine.popnet("dmesg", "k2", "--previous").stdout, (
        "kept while the next one runs"
    )
    lines = json.loads(machine.popnet("-o", "json", "dmesg", "k2", "--previous").stdout)["items"]
    assert len({line["generation"] for line in lines}) == 1


def test_a_hang_is_seen_and_ended_by_kill(machine: Lab) -> None:
    machine.popnet("hang", "k2")
    wait_until(lambda: machine.kernels()["k2"]["hung"], "k2 counts as hung")
    assert any(event["kind"] == "kernel.hung" and event["kernel"] == "k2" for event in machine.events())
    assert "hang was asked for" in machine.popnet("dmesg", "k2").stdout
    machine.popnet("kill", "k2")
    machine.popnet("boot", "k2")
    wait_until(lambda: not machine.kernels()["k2"]["hung"], "k2 beats again")


def test_twenty_moves_at_random_leave_a_machine_that_works(machine: Lab) -> None:
    client = Client("lab", run_dir=machine.run_dir)
    dice = random.Random(5)
    legal = {
        "online": ("kill", "reboot", "panic"),
        "offline": ("load", "boot"),
        "loaded": ("boot", "unload"),
        "failed": ("load", "boot", "unload"),
    }
    for _ in range(20):
        name = dice.choice(["k1", "k2"])
        state = client.get(f"/v1/kernels/{name}")["state"]
        client.post(f"/v1/kernels/{name}/{dice.choice(legal[state])}")
    for name in ("k1", "k2"):
        if client.get(f"/v1/kernels/{name}")["state"] != "online":
            client.post(f"/v1/kernels/{name}/boot")
    machine.ping("k1", "k2")
