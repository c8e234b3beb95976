"""`top`: rows from two looks, and the screen."""

import json
from typing import Any

import pexpect
from click.testing import CliRunner

from popnet.cli.main import cli
from popnet.cli.top import rows
from tests.cli.conftest import Machine
from tests.cli.fake_machine import kernel_row


def look(time_s: float, **told: Any) -> dict[str, Any]:
    kernels = [kernel_row(0, "primary"), kernel_row(1, "k1"), kernel_row(2, "k2", "offline")]
    return {"time_s": time_s, "kernels": kernels, "told": told}


def told(frames: int, drops: int, sent: int, cpu_s: float) -> dict[str, Any]:
    return {
        "nic": {"tx_frames": frames, "tx_bytes": 100 * frames, "drop_self": drops, "drop_stalled": drops},
        "links": {"0": {"high_sent": sent, "normal_sent": sent}, "7": {"normal_sent": sent}},
        "usage": {"cpu_s": cpu_s, "memory_bytes": 4096},
    }


def test_rates_between_two_looks() -> None:
    before, after = told(10, 1, 5, 1.0), told(30, 2, 9, 1.5)
    primary, k1, k2 = rows(look(100.0, primary=before), look(102.0, primary=after, k1=after))
    assert (primary["tx_frames_s"], primary["tx_bytes_s"], primary["rx_frames_s"]) == (10, 1000, 0)
    assert (primary["messages_s"], primary["drops_s"], primary["cpu_percent"]) == (6, 1, 25)
    assert (k1["tx_frames_s"], k1["cpu_percent"]) == (15, 75), "it was booted in between"
    assert (k2["state"], k2["tx_frames_s"], k2["memory_bytes"]) == ("offline", None, None)


def test_a_kernel_booted_anew_counts_from_nothing() -> None:
    (primary, *_) = rows(look(0.0, primary=told(500, 9, 9, 9.0)), look(1.0, primary=told(20, 0, 1, 0.5)))
    assert (primary["tx_frames_s"], primary["drops_s"], primary["cpu_percent"]) == (20, 0, 0)


def test_one_look_for_programs(machine: Machine) -> None:
    done = CliRunner().invoke(cli, ["top", "--once", "-i", "0.1", "-o", "json"])
    items = json.loads(done.output)["items"]
    assert [item["kernel"] for item in items] == ["primary", "k1", "k2", "local"]
    assert (items[1]["tx_frames_s"], items[2]["tx_frames_s"]) == (0, None)
    plain = CliRunner().invoke(cli, ["top", "-n", "2", "-i", "0.1"])
    assert plain.output.count("KERNEL") == 2


def test_the_screen_is_drawn_and_given_back(machine: Machine) -> None:
    screen = machine.spawn("top", "-i", "0.1", dimensions=(5, 40))
    screen.expect_exact("\x1b[?1049h")
    screen.expect_exact("machine demo")
    screen.expect("KERNEL +STATE")
    screen.expect_exact("... 3 more kernels")
    screen.send("x")
    screen.expect_exact("machine demo")
    screen.send("q")
    screen.expect_exact("\x1b[?1049l")
    screen.expect(pexpect.EOF)
    screen.close()
    assert screen.exitstatus == 0


def test_ctrl_c_gives_the_screen_back(machine: Machine) -> None:
    screen = machine.spawn("top", "-i", "0.1")
    screen.expect_exact("machine demo")
    screen.sendintr()
    screen.expect_exact("\x1b[?1049l")
    screen.expect(pexpect.EOF)
    screen.close()
    assert screen.exitstatus == 130
