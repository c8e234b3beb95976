"""What people and Wireshark's sshdump say over ssh to capture."""

import pytest

from popnet.cli.capturecommand import CaptureCommand, parse_command
from popnet.core.errors import Refused

KERNELS = ("primary", "k1", "k2")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("capture", CaptureCommand("k1")),
        ("capture eth0", CaptureCommand("k1")),
        ("capture eth0 icmp or port 22", CaptureCommand("k1", "icmp or port 22")),
        ("capture icmp", CaptureCommand("k1", "icmp")),
        ("capture any 'tcp[13] & 2 != 0'", CaptureCommand("any", "tcp[13] & 2 != 0")),
        ("capture k1-k2 arp", CaptureCommand("k1-k2", "arp")),
        ("capture k2", CaptureCommand("k2")),
        ("capture -s 96 -c4 eth0 arp", CaptureCommand("k1", "arp", 96, 4)),
        ("capture -- eth0", CaptureCommand("k1")),
        ("tcpdump -U -i eth0 -w -", CaptureCommand("k1")),
        ("tcpdump -i eth0 -w - -U -s 262144", CaptureCommand("k1")),
        ("sudo tcpdump -Uni any -w- 'not port 22'", CaptureCommand("any", "not port 22")),
        ("tcpdump -i k1-k2 -c 10 -p -w - eth0", CaptureCommand("k1-k2", "eth0", 0, 10)),
    ],
)
def test_captures(text: str, wanted: CaptureCommand) -> None:
    assert parse_command(text, "k1", KERNELS) == wanted


@pytest.mark.parametrize(
    "text", ["", "ls", "sudo ls", "tcpdump -i eth0 -n", "tcpdump -w /tmp/x", "echo 'unbalanced", "captured"]
)
def test_other_commands_are_the_kernels(text: str) -> None:
    assert parse_command(text, "k1", KERNELS) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("capture -i eth1", "kernel k1 has no interface 'eth1'"),
        ("capture -i -w", "no interface '-w'"),
        ("capture -x", "no option '-x'"),
        ("capture -s", "-s wants a value"),
        ("capture -s much", "-s wants a number, got 'much'"),
    ],
)
def test_what_cannot_be(text: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        parse_command(text, "k1", KERNELS)
