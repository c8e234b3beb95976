"""The virtual network: unmodified programs between any two kernels."""

import itertools
import json
import re
from typing import Any

import pytest

from tests.live.lab import Lab, wait_until

NAMES = ("primary", "k1", "k2")


@pytest.mark.parametrize(("a", "b"), list(itertools.permutations(NAMES, 2)))
@pytest.mark.parametrize("family", ["-4", "-6"])
def test_every_pair_pings_by_name(pair: Lab, a: str, b: str, family: str) -> None:
    pair.ping(a, b, family)


def test_addresses_follow_from_the_number(pair: Lab) -> None:
    shown = json.loads(pair.exec("k2", "ip", "-j", "addr", "show", "eth0").stdout)[0]
    assert (shown["address"], shown["mtu"]) == ("02:70:6f:70:6e:02", 1500)
    local = {address["local"] for address in shown["addr_info"]}
    assert {"10.1.2.3", "fd70:6f70:6e65:1::3"} <= local


def test_arp_and_neighbour_discovery_are_real(pair: Lab) -> None:
    pair.sh("k1", "ip neigh flush all")
    pair.ping("k1", "k2", "-4")
    pair.ping("k1", "k2", "-6")
    neighbours = pair.sh("k1", "ip neigh")
    assert re.search(r"10\.1\.2\.3 dev eth0 lladdr 02:70:6f:70:6e:02", neighbours)
    assert re.search(r"fd70:6f70:6e65:1::3 dev eth0 lladdr 02:70:6f:70:6e:02", neighbours)


def test_broadcast_and_multicast_reach_every_kernel(pair: Lab) -> None:
    for name in NAMES:
        pair.sh(name, "echo 0 > /proc/sys/net/ipv4/icmp_echo_ignore_broadcasts")
    everyone = {"10.1.2.1", "10.1.2.2", "10.1.2.3"}
    wait_until(lambda: pair.answers("k1", "-b", "10.1.2.255") == everyone, "all answer a broadcast")
    wait_until(lambda: len(pair.answers("k1", "-6", "ff02::1%eth0")) == 3, "all answer a multicast")


def test_tcp_and_udp_carry_a_flood_without_error(pair: Lab) -> None:
    report = _iperf(pair, "-n", "200M")
    assert report["end"]["sum_received"]["bytes"] > 100 << 20, "all but what was on its way at the end"


def test_udp(pair: Lab) -> None:
    report = _iperf(pair, "-u", "-b", "50M", "-n", "4M")
    assert report["end"]["sum"]["packets"] - report["end"]["sum"]["lost_packets"] > 1000


def _iperf(lab: Lab, *options: str) -> dict[str, Any]:
    """The report of a client in k1 about a server in k2."""
    with lab.start("exec", "k2", "--", "iperf3", "-s", "-1") as server:
        try:
            wait_until(lambda: "5201" in lab.sh("k2", "ss -ltn"), "iperf3 listens")
            report: dict[str, Any] = json.loads(
                lab.exec("k1", "iperf3", "-c", "10.1.2.3", "-J", *options).stdout
            )
            server.communicate(timeout=60)
        finally:
            server.kill()
    return report


JUMBO = """\
apiVersion: popnet/v1
name: {name}
machine: {{mtu: 9000}}
kernels:
  k1: {{image: full}}
  k2: {{image: full}}
  small: {{image: light, mtu: 576}}
"""


def test_mtu_is_honoured_end_to_end(lab: Lab) -> None:
    lab.up(JUMBO)
    lab.ping("k1", "k2", "-4", "-M", "do", "-s", str(9000 - 28))
    over = lab.exec("k1", "ping", "-4", "-c1", "-W1", "-M", "do", "-s", str(9000 - 27), "k2", check=False)
    assert "message too long" in (over.stdout + over.stderr).lower()
    assert "mtu 576" in lab.sh("small", "ip link show eth0")
    lab.ping("small", "k2")
    assert _transfer(lab, "k1", "k2", 20_000_000), "segments of a 9000 byte NIC arrive whole"


def test_an_mtu_that_a_guest_changes_is_followed(lab: Lab) -> None:
    lab.up()
    whole = ("ping", "-4", "-c1", "-W2", "-M", "do", "-s")
    lab.sh("k2", "ip link set eth0 mtu 9000")
    lab.sh("k1", "ip link set eth0 mtu 9000")
    wait_until(lambda: lab.exec("k1", *whole, str(9000 - 28), "k2", check=False).returncode == 0, "9000 pass")
    lab.sh("k2", "ip link set eth0 mtu 1400")  # the pump has to tell k1 so: k2's stack would take more
    wait_until(lambda: "mtu = 1400" in lab.exec("k1", *whole, "2000", "k2", check=False).stdout, "k1 is told")
    lab.sh("k2", "ip link set eth0 mtu 576")
    wait_until(lambda: "mtu = 576" in lab.exec("k1", *whole, "1000", "k2", check=False).stdout, "and again")
    cut = ("ping", "-4", "-c1", "-W2", "-M", "dont", "-s", "4000", "k2")
    wait_until(lambda: lab.exec("k1", *cut, check=False).returncode == 0, "what may be cut arrives")

    def told() -> list[str]:
        return re.findall("eth0: mtu ([0-9]+)", lab.popnet("dmesg", "k2").stdout)

    wait_until(lambda: told() == ["9000", "1400", "576"], "k2's log tells of each")


def _transfer(lab: Lab, source: str, target: str, size: int) -> bool:
    """Send *size* random bytes by TCP; whether both ends computed the same checksum."""
    server = lab.start("exec", target, "--", "python3", "-c", _SERVER)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"listening\n"
        sent = lab.exec(source, "python3", "-c", _CLIENT, target, str(size)).stdout
        received, _ = server.communicate(timeout=30)
        return received.decode() == sent
    finally:
        server.kill()
        server.communicate()


_SERVER = """
import hashlib, socket
with socket.create_server(("", 7000)) as listener:
    print("listening", flush=True)
    connection, _ = listener.accept()
    digest = hashlib.sha256()
    while data := connection.recv(1 << 16):
        digest.update(data)
print(digest.hexdigest())
"""
_CLIENT = """
import hashlib, os, socket, sys
data = os.urandom(int(sys.argv[2]))
with socket.create_connection((sys.argv[1], 7000)) as connection:
    connection.sendall(data)
print(hashlib.sha256(data).hexdigest())
"""


def test_interface_counters_and_named_drops(pair: Lab) -> None:
    before = json.loads(pair.exec("k1", "ip", "-j", "-s", "link", "show", "eth0").stdout)[0]["stats64"]
    pair.ping("k1", "k2", "-4")
    after = json.loads(pair.exec("k1", "ip", "-j", "-s", "link", "show", "eth0").stdout)[0]["stats64"]
    assert after["rx"]["packets"] >= before["rx"]["packets"] + 1
    assert after["tx"]["packets"] >= before["tx"]["packets"] + 1
    # A unicast frame for a kernel that does not exist finds no link: the drop has a name in the counters.
    pair.sh("k1", "ip neigh replace 10.1.2.77 lladdr 02:70:6f:70:6e:4c dev eth0 nud permanent")
    pair.exec("k1", "ping", "-c2", "-i0.05", "-W1", "10.1.2.77", check=False)

    def dropped() -> int:
        kernels = json.loads(pair.popnet("-o", "json", "counters").stdout)["kernels"].values()
        return sum(
            kernel["nic"].get(name, 0) for kernel in kernels for name in ("drop_no_link", "drop_unknown")
        )

    wait_until(lambda: dropped() >= 2, "both have been dropped")


def test_a_nic_that_is_down_is_silent_and_comes_back(pair: Lab) -> None:
    pair.sh("k1", "ip link set eth0 down")
    lost = pair.exec("k2", "ping", "-4", "-c1", "-W1", "k1", check=False)
    assert lost.returncode == 1
    assert pair.exec("k1", "echo", "exec needs no network").returncode == 0
    pair.sh("k1", "ip link set eth0 up")
    pair.ping("k2", "k1", "-4")


def test_the_guests_own_statistics_are_those_of_the_pump(pair: Lab) -> None:
    """`ip -s link` counts what TAP and pump handed each other; it cannot know the pump's own drops."""
    pair.exec("k1", "ping", "-q", "-c20", "-i0.01", "k2")

    def differences() -> list[int]:
        (link,) = json.loads(pair.sh("k1", "ip -j -s link show eth0"))
        shown = link["stats64"]
        (item,) = json.loads(pair.popnet("-o", "json", "stats", "net", "k1").stdout)["items"]
        nic = item["nic"]
        return [
            nic["tx_frames"] - nic["injected_frames"] - shown["tx"]["packets"],
            nic["tx_bytes"] - shown["tx"]["bytes"],
            nic["rx_frames"] - shown["rx"]["packets"],
            nic["rx_bytes"] - shown["rx"]["bytes"],
            shown["tx"]["dropped"],
        ]

    wait_until(lambda: differences() == [0] * 5, "both agree while nothing passes")
