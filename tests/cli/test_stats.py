"""`stats`: rings and NICs as rows, and what they grew by."""

import json

import pexpect
import pytest
from click.testing import CliRunner

from popnet.cli.main import cli
from popnet.cli.stats import growth, nic_details, nic_rows, ring_rows
from tests.cli.conftest import Machine

KERNELS = {
    "k1": {
        "nic": {"tx_frames": 12, "drop_no_link": 3, "drop_stalled": 0},
        "links": {"0": {"high_kicks": 5, "normal_sent": 7, "normal_kicks_spurious": 1}},
        "modes": {"0": {"normal": "poll"}},
    },
    "k2": {"error": "k2 did not answer"},
}


def test_a_row_for_each_ring() -> None:
    rows = list(ring_rows(KERNELS, {"0": "primary", "1": "k1"}))
    assert [(row["kernel"], row["peer"], row["ring"]) for row in rows] == [
        ("k1", "primary", "high"),
        ("k1", "primary", "normal"),
        ("k1", "primary", "frames"),
    ]
    assert [row["kicks"] for row in rows] == [5, 0, 0]
    assert [(row["sent"], row["kicks_spurious"], row["mode"]) for row in rows][1] == (7, 1, "poll")


def test_a_row_for_each_nic() -> None:
    first, second = nic_rows(KERNELS, {})
    assert (first["kernel"], first["tx_frames"], first["drops"]) == ("k1", 12, {"no_link": 3})
    assert (second["kernel"], second["tx_frames"], second["drops"]) == ("k2", 0, {})


def test_growth_is_by_row_and_survives_a_reboot() -> None:
    def row(kernel: str, sent: int, lost: int) -> dict[str, object]:
        return {"kernel": kernel, "peer": "primary", "ring": "high", "sent": sent, "drops": {"lost": lost}}

    before = [row("k1", 100, 5), row("k2", 900, 0)]
    after = [row("k2", 40, 0), row("k1", 160, 5), row("k3", 8, 2)]
    grown = {str(r["kernel"]): (r["sent"], r["drops"]) for r in growth(before, after, 2.0)}
    assert grown == {"k1": (30, {}), "k2": (20, {}), "k3": (4, {"lost": 1})}


def test_tables_and_documents(machine: Machine) -> None:
    run = CliRunner().invoke
    assert run(cli, ["stats"]).output.split()[:3] == ["KERNEL", "PEER", "RING"]
    net = json.loads(run(cli, ["stats", "net", "-o", "json"]).output)
    assert net["kind"] == "NicStatistics"
    assert [(row["kernel"], row["tx_frames"]) for row in net["items"]] == [("k1", 12)]


@pytest.mark.parametrize("options", [["--interval", "0.1"], ["--watch", "-i", "0.1"]])
def test_elsewhere_than_at_a_terminal_each_look_is_its_own(machine: Machine, options: list[str]) -> None:
    watched = CliRunner().invoke(cli, ["stats", "net", *options, "--count", "2", "-o", "json"])
    assert watched.exit_code == 0
    assert watched.output.count('"tx_frames": 0') == 2
    plain = CliRunner().invoke(cli, ["stats", "net", *options, "-n", "2"]).output
    assert plain.count("KERNEL") == 2
    assert "\x1b" not in plain


def test_a_count_needs_something_to_count(machine: Machine) -> None:
    result = CliRunner().invoke(cli, ["stats", "-n", "2"])
    assert result.exit_code == 2
    assert "--interval or --watch" in result.output


def test_watched_in_place(machine: Machine) -> None:
    screen = machine.spawn("stats", "net", "-w", "-i", "0.1", dimensions=(5, 60))
    screen.expect_exact("\x1b[?1049h")
    screen.expect_exact("machine demo, growth a second")
    screen.expect("KERNEL.*TX.*k1 +0")
    screen.expect_exact("\x1b[Hmachine demo")
    screen.send("q")
    screen.expect_exact("\x1b[?1049l")
    screen.expect(pexpect.EOF)
    screen.close()
    assert screen.exitstatus == 0


def test_an_interval_appends_at_a_terminal_too(machine: Machine) -> None:
    lines = machine.spawn("stats", "net", "-i", "0.1", "-n", "2")
    assert lines.read().count("KERNEL") == 2
    lines.close()
    assert lines.exitstatus == 0


def test_an_unknown_kernel_is_told(machine: Machine) -> None:
    result = machine.run("stats", "-k", "k9")
    assert result.returncode == 1
    assert b"no kernel 'k9'" in result.stderr


def test_every_counter_of_a_nic(machine: Machine) -> None:
    run = CliRunner().invoke
    assert run(cli, ["stats", "net", "k1"]).output.splitlines() == [
        "k1/eth0",
        "    tx_frames: 12",
        "    drop_no_link: 0",
    ]
    (item,) = json.loads(run(cli, ["stats", "net", "k1", "-o", "json"]).output)["items"]
    assert item["nic"]["drop_no_link"] == 0
    assert run(cli, ["stats", "net", "k9"]).exit_code == 1


def test_frames_by_peer() -> None:
    kernels = {"k1": {"links": {"0": {"frames_sent": 3, "normal_sent": 9}, "1": {"frames_sent": 1}}}}
    (item,) = nic_details(kernels, {"0": "primary", "1": "k1"})
    assert item["peers"] == {"primary": {"sent": 3}}, "the link to itself carries no frames"
