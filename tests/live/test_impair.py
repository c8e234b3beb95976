"""Impairments and faults on a real machine: what frames suffer, and that nothing else does."""

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import popnet
from popnet.control.client import Client
from popnet.core import addresses
from popnet.net.impairment import seed_of
from tests.live.lab import Lab, wait_until
from tests.transport.impair_model import ONE, Config, Wire

COUNT = 300

RECEIVER = """
import select, socket
data, end = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
data.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
data.bind(("", 7777)), end.bind(("", 7778))
print("ready", flush=True)
end.recv(10)
data.setblocking(False)
numbers = []
try:
    while True:
        numbers.append(int(data.recv(100)))
except BlockingIOError:
    print(*numbers, flush=True)
"""

SENDER = """
import socket, sys
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(int(sys.argv[2])):
    out.sendto(b"%05d" % number, (sys.argv[1], 7777))
out.sendto(b"end", (sys.argv[1], 7778))
"""


def numbers_that_arrive(lab: Lab, sender: str, receiver: str, address: str) -> list[int]:
    """Numbers of the datagrams of *sender* that came to *receiver*, in the order in which they came."""
    receiving = lab.start("exec", receiver, "--", sys.executable, "-c", RECEIVER)
    assert receiving.stdout is not None and receiving.stdout.readline() == b"ready\n"
    lab.exec(sender, sys.executable, "-c", SENDER, address, str(COUNT))
    out, errors = receiving.communicate(timeout=60)
    assert receiving.returncode == 0, errors
    return [int(number) for number in out.split()]


def links(lab: Lab) -> dict[tuple[str | None, str | None], dict[str, Any]]:
    """The rows of `popnet link`, asked of the control API: a command takes much longer."""
    return {(row["from"], row["to"]): row for row in client(lab).get("/v1/links")}


def client(lab: Lab) -> Client:
    return Client("lab", run_dir=lab.run_dir)


def link(
    lab: Lab, op: str, kernel: str, peer: str | None = None, direction: str = "both", **words: Any
) -> None:
    """What `popnet link OP KERNEL PEER` asks of the control API."""
    body = {"kernel": kernel, "peer": peer, "direction": direction}
    more = {"flap": words} if op == "flap" else {"impairment": words} if op == "set" else {}
    client(lab).post(f"/v1/links/{op}", {**body, **more})


def ping(lab: Lab, kernel: str, peer: str, *options: str) -> tuple[int, list[float]]:
    """Exit status, and the times of the answers in ms."""
    result = lab.exec(kernel, "ping", "-n", "-i", "0.02", *options, peer, check=False)
    return result.returncode, [float(time) for time in re.findall(r"time=([0-9.]+)", result.stdout)]


@pytest.fixture
def clean(pair: Lab) -> Iterator[Lab]:
    """The shared pair, its link made and perfect before and after; no ARP is lost: both know each other."""
    for kid, kernel in ((2, "k1"), (1, "k2")):
        for address in (addresses.ipv4(kid), addresses.ipv6(kid)):
            words = f"{address} lladdr {addresses.mac_text(kid)} dev eth0 nud permanent"
            pair.exec(kernel, "ip", "neigh", "replace", *words.split())
    pair.ping("k1", "k2")
    yield pair
    for source, target in links(pair):
        kernel, peer, direction = (source, target, "out") if source else (target, None, "in")
        assert kernel is not None
        for op in ("clear", "up"):
            link(pair, op, kernel, peer, direction)
    assert links(pair) == {}


@pytest.mark.parametrize("loss", ["10%", "gemodel 5% 30%"])
def test_the_same_seed_loses_the_same_datagrams(clean: Lab, loss: str) -> None:
    outcomes = []
    for seed in (7, 7, 8):
        link(clean, "set", "k1", "k2", "out", loss=loss, match="udp port 7777", seed=seed)
        outcomes.append(numbers_that_arrive(clean, "k1", "k2", "10.1.2.3"))
    again, other = outcomes[1:]
    assert outcomes[0] == again != other
    seed = seed_of(7, "k1 -> k2")
    bursts = Config(seed, to_bad=round(0.05 * ONE), to_good=round(0.3 * ONE), loss_bad=ONE)
    wire = Wire(Config(seed, loss_good=round(0.1 * ONE)) if loss == "10%" else bursts)
    assert again == [number for number in range(COUNT) if wire.decide(0, 47)[2]], "as the twin says"
    told = links(clean)["k1", "k2"]["observed"]
    assert told["frames"] == COUNT
    assert told["passed"] == len(other) == COUNT - told["drop_loss"]


def test_every_answer_is_late_by_both_delays(clean: Lab) -> None:
    clean.popnet("link", "k1", "k2", "--delay", "10ms", "-d", "out")
    link(clean, "set", "k1", "k2", "in", delay="5ms")
    status, times = ping(clean, "k1", "k2", "-c", "20")
    assert status == 0
    assert len(times) == 20
    assert min(times) >= 15
    link(clean, "set", "k2", direction="in", delay="20ms")
    assert min(ping(clean, "k1", "k2", "-c", "5")[1]) >= 35
    wait_until(lambda: min(ping(clean, "k1", "primary", "-c", "5")[1]) < 10, "nobody else suffers")
    observed = links(clean)["k1", "k2"]["observed"]
    assert observed["delay_mean_s"] >= 0.010


def test_duplicates_corruption_and_reordering_are_seen(clean: Lab) -> None:
    link(clean, "set", "k1", "k2", "out", duplicate="100%", match="udp port 7777")
    assert numbers_that_arrive(clean, "k1", "k2", "10.1.2.3") == [n // 2 for n in range(2 * COUNT)]
    link(clean, "set", "k1", "k2", "out", corrupt="100%", match="udp port 7777")
    assert numbers_that_arrive(clean, "k1", "k2", "10.1.2.3") == [], "the stack sees that they are damaged"
    both = "udp port 7777 or udp port 7778"
    link(clean, "set", "k1", "k2", "out", delay="20ms", reorder="20%", seed=3, match=both)
    arrived = numbers_that_arrive(clean, "k1", "k2", "10.1.2.3")
    assert len(arrived) > 10
    assert arrived != sorted(arrived)


def test_tcp_gets_the_rate_and_no_more(clean: Lab) -> None:
    link(clean, "set", "k1", "k2", "out", rate="20mbit", limit="32K")
    server = clean.start("exec", "k2", "--", "iperf3", "-s", "-1")
    wait_until(lambda: "5201" in clean.sh("k2", "ss -ltn"), "iperf3 listens")
    began = time.monotonic()
    result = json.loads(clean.exec("k1", "iperf3", "-c", "10.1.2.3", "-n", "4M", "-J", timeout_s=110).stdout)
    took_s = time.monotonic() - began
    server.communicate(timeout=60)
    received = result["end"]["sum_received"]["bytes"]
    assert received > 2 << 20, "all but what was on its way at the end"
    assert took_s >= (received - (32 << 10)) * 8 / 20e6, "all but what the queue holds took its time"
    told = links(clean)["k1", "k2"]["observed"]
    assert told["drop_limit"] > 0, "TCP finds the end of the queue"
    assert told["bytes"] / told["frames"] <= 1514, "super-frames are cut to what a wire carries"


def test_a_one_way_cut(clean: Lab) -> None:
    link(clean, "down", "k1", "k2", "out")
    assert numbers_that_arrive(clean, "k2", "k1", "10.1.2.2") == list(range(COUNT))
    assert ping(clean, "k1", "k2", "-c", "2", "-W", "0.2")[0] == 1
    assert links(clean)["k1", "k2"]["observed"]["drop_down"] > 0
    link(clean, "up", "k1", "k2")
    clean.ping("k1", "k2")


def test_multicast_by_way_of_the_relay_suffers_too(clean: Lab) -> None:
    everyone = {f"fe80::70:6fff:fe70:6e{kid:02x}" for kid in range(3)}
    wait_until(lambda: clean.answers("k1", "ff02::1%eth0") == everyone, "all answer")
    link(clean, "down", "k1", "k2", "out")
    others = everyone - {"fe80::70:6fff:fe70:6e02"}
    heard: set[str] = set()
    wait_until(lambda: heard.update(clean.answers("k1", "ff02::1%eth0")) or heard >= others, "they do still")
    assert heard == others, "k1 itself and the primary"


def test_an_isolated_kernel_keeps_its_messages_and_consoles(clean: Lab) -> None:
    link(clean, "down", "k1")
    assert ping(clean, "k1", "primary", "-c", "2", "-W", "0.2")[0] == 1
    assert ping(clean, "k2", "k1", "-c", "2", "-W", "0.2")[0] == 1
    clean.ping("k2", "primary")
    assert clean.sh("k1", "uname -n") == "k1\n"
    link(clean, "up", "k1")
    clean.ping("k2", "k1")


def test_a_flap_is_seen_in_the_events(clean: Lab) -> None:
    before = client(clean).get("/v1/events")[-1]["seq"]
    link(clean, "flap", "k1", "k2", "in", down="20ms", up="20ms", times=3)

    def told() -> list[str]:
        events = client(clean).get(f"/v1/events?since={before}")
        return [event["text"] for event in events if event["kind"].startswith("link.")]

    expected = ["k2 -> k1: down", "k2 -> k1: up"] * 3
    assert wait_until(lambda: len(told()) == 6 and told(), "three flaps") == expected


def test_a_reboot_keeps_what_is_set(clean: Lab) -> None:
    link(clean, "set", "k1", "k2", "out", delay="30ms", seed=1)
    link(clean, "down", "k2", direction="out")
    client(clean).post("/v1/kernels/k2/kill")
    client(clean).post("/v1/kernels/k2/boot")
    assert links(clean)["k1", "k2"]["impairment"] == {"delay": "30ms", "seed": 1}
    assert ping(clean, "k1", "k2", "-c", "2", "-W", "0.2")[0] == 1
    link(clean, "up", "k2")
    times = wait_until(lambda: ping(clean, "k1", "k2", "-c", "3")[1], "k2 answers")
    assert min(times) >= 30


def test_a_nic_that_is_down_has_no_carrier(clean: Lab) -> None:
    def flags() -> str:
        return clean.sh("k1", "ip link show eth0").partition("mtu")[0]

    clean.popnet("link", "down", "k1", "-d", "out")
    assert "LOWER_UP" in flags(), "one direction cut cannot be seen on a wire"
    clean.popnet("link", "down", "k1")
    assert "LOWER_UP" not in flags()
    wait_until(
        lambda: "NO-CARRIER" in flags(), "the guest's stack has heard of it, too"
    )  # up to a second later
    clean.popnet("link", "up", "k1", "-d", "in")
    assert "LOWER_UP" in flags()
    clean.popnet("link", "down", "k1")
    clean.popnet("reboot", "k1")
    assert "LOWER_UP" not in flags(), "it is down in its next life, too"
    clean.popnet("link", "up", "k1")
    assert "LOWER_UP" in flags()
    answered = ("ping", "-4", "-c", "1", "-W", "2", "k2")
    wait_until(lambda: clean.exec("k1", *answered, check=False).returncode == 0, "k1 is heard again")


PLAN = """\
apiVersion: popnet/v1
name: {name}
kernels: {{k1: {{}}, k2: {{image: light}}}}
links:
  - {{link: [k1, k2], delay: 10ms, jitter: 2ms, distribution: pareto, seed: 5}}
nics:
  - {{nic: k2, direction: out, duplicate: 0.1%}}
faults:
  - {{at: 10ms, link: [k1, k2], direction: out, down: true}}
  - {{at: 30ms, link: [k1, k2], down: false}}
  - {{at: 40ms, nic: primary, flap: {{down: 10ms, up: 10ms, times: 2}}}}
  - {{at: 90ms, link: [k1, k2], clear: true}}
"""


def plan_is_done(lab: Lab, times: int) -> bool:
    return [event["text"] for event in lab.events()].count("the machine's plan: done") == times


def check_plan(lab: Lab) -> None:
    lab.up(PLAN)
    wait_until(lambda: plan_is_done(lab, 1), "the plan of the machine file")
    told = [(e["kind"], e["text"]) for e in lab.events() if e["kind"].startswith(("link.", "nic.", "fault."))]
    flap = [("nic.down", "primary, out: down"), ("nic.down", "primary, in: down")]
    flap += [(kind.replace("down", "up"), text.replace("down", "up")) for kind, text in flap]
    assert told == [
        ("fault.plan", "the machine's plan: started, 7 steps"),
        ("link.down", "k1 -> k2: down"),
        ("link.up", "k1 -> k2: up"),
        ("link.up", "k2 -> k1: up"),
        *flap,
        *flap,
        ("link.cleared", "k1 -> k2: no impairments"),
        ("link.cleared", "k2 -> k1: no impairments"),
        ("fault.plan", "the machine's plan: done"),
    ]
    assert set(links(lab)) == {("k2", None)}, "the NIC was not touched"
    lab.popnet("link", "k1", "k2", "--delay", "7ms")
    assert min(ping(lab, "k1", "k2", "-c", "3")[1]) >= 14
    lab.popnet("fault", "run")
    wait_until(lambda: plan_is_done(lab, 2), "the plan again")
    assert set(links(lab)) == {("k2", None)}


def test_the_plan_of_a_machine_file(lab: Lab) -> None:
    check_plan(lab)


def test_all_of_it_as_an_ordinary_user(lab: Lab) -> None:
    if os.geteuid() == 0:
        lab.prefix = (sys.executable, "-m", "tests.live.as_user")
        lab.environ = {"HOME": str(lab.tmp), "PYTHONPATH": str(Path(__file__).parents[2])}
    check_plan(lab)


async def test_the_python_api(clean: Lab) -> None:
    machine = popnet.Machine.attach("lab", run_dir=clean.run_dir)
    link = machine.link("k1", "k2")
    rows = await link.impair(delay_s=0.005, loss=0.25, rate_bps=10**9, limit_bytes=1 << 20, seed=7)
    assert rows == await link.rows()
    words = {"delay": "5ms", "loss": "25%", "rate": "1gbit", "limit": "1M", "seed": 7}
    assert [row["impairment"] for row in rows] == [words, words]
    await link.down(direction="out")
    assert [row["state"] for row in await link.rows()] == ["down", "up"]
    await link.up()
    await link.clear()
    await machine["k1"].nic.down()
    assert {(row["from"], row["to"]) for row in await machine.links()} == {("k1", None), (None, "k1")}
    await machine["k1"].nic.up()
    plan = await machine.run_faults([{"at": "1h", "nic": "k1", "down": True}])
    assert plan["running"]
    assert not (await machine.stop_faults())["running"]
    assert not (await machine.faults())["steps"][0]["done"]
    with pytest.raises(popnet.PopnetError, match="loss: got '200%'"):
        await link.impair(loss=2)
