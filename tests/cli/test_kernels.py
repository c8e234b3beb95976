"""`ps`, `boot`, `kill`, `timeline`: texts for people, golden shapes for programs."""

import json
from typing import Any

from click.testing import CliRunner, Result

from popnet.cli.kernels import kernel_table
from popnet.cli.main import cli
from tests.cli.conftest import Machine
from tests.cli.fake_machine import TIMELINE, kernel_row


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, args)


def test_ps_table(machine: Machine) -> None:
    assert run("ps").output.splitlines() == [
        "NAME     STATE    GEN  IMAGE  CPUS  MEMORY    ADDRESS    UPTIME",
        "primary  online     1  full   0-1   14M/512M  10.1.2.1   2m10s",
        "k1       online     1  full   0-1   14M/512M  10.1.2.2   2m10s",
        "k2       offline    1  full   0-1   14M/512M  10.1.2.3   2m10s",
        "local    online     1  full   0-1   14M/512M  127.0.0.1  2m10s",
    ]


def test_ps_json_shape(machine: Machine) -> None:
    document = json.loads(run("ps", "-o", "json").output)
    assert document == {
        "apiVersion": "popnet/v1",
        "kind": "KernelList",
        "items": [
            kernel_row(0, "primary"),
            kernel_row(1, "k1"),
            kernel_row(2, "k2", "offline"),
            kernel_row(3, "local"),
        ],
    }


def test_reason_column_only_with_a_reason() -> None:
    row: dict[str, Any] = {
        **kernel_row(1, "k1", "failed"),
        "reason": "nic: no /dev/net/tun",
        "uptime_s": None,
    }
    lines = kernel_table([row], colours=False)
    assert lines[0].endswith("REASON") and lines[1].endswith("nic: no /dev/net/tun")
    assert "REASON" not in kernel_table([kernel_row(1, "k1")], colours=False)[0]


def test_rows_with_little_in_them_are_printed() -> None:
    row = {"name": "k1", "state": "offline"}
    assert kernel_table([row], colours=False)[1].split() == ["k1", "offline", "-", "-", "-", "-", "-", "-"]


def test_boot_and_kill(machine: Machine) -> None:
    assert run("boot", "k2").output == "kernel k2: online (generation 2, 40 ms)\n"
    assert run("kill", "k2").output == "kernel k2: offline (generation 2)\n"


def test_boot_with_timeline(machine: Machine) -> None:
    lines = run("boot", "k2", "--timeline").output.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["partition", "namespaces", "init"]


def test_boot_of_a_running_kernel(machine: Machine) -> None:
    result = run("boot", "k1")
    assert result.exit_code == 1
    assert result.stderr == "popnet: kernel 'k1' is online\n  hint: popnet kill k1 stops it\n"


def test_timeline(machine: Machine) -> None:
    assert [line.split()[0] for line in run("timeline", "k1").output.splitlines()] == [
        "partition",
        "namespaces",
        "init",
    ]
    document = json.loads(run("timeline", "k1", "-o", "json").output)
    assert document == {"apiVersion": "popnet/v1", "kind": "BootStepList", "items": TIMELINE}


def test_load_boot_reboot_panic_hang_and_unload(machine: Machine) -> None:
    loaded = machine.run("load", "k9", "--image", "light", "--append", "mem=64M hue=a&b")
    assert loaded.stdout == b"kernel k9: loaded: mem=64M hue=a&b (generation 0)\n"
    assert b"kernel k9: online" in machine.run("boot", "k9").stdout
    assert b"kernel k9: online" in machine.run("reboot", "k9").stdout
    assert b"kernel k9: online" in machine.run("hang", "k9").stdout
    assert b"kernel k9: failed: panic was asked for" in machine.run("panic", "k9").stdout
    assert b"kernel k9: offline" in machine.run("unload", "k9").stdout
    refused = machine.run("load", "k1")
    assert (refused.returncode, b"it is online" in refused.stderr) == (1, True)
