"""Receive modes of running kernels: shown, switched, and what the counters then say."""

import json
import os

from tests.live.lab import Lab

CORES = len(os.sched_getaffinity(0))

SHARED = """\
apiVersion: popnet/v1
name: {name}
machine: {{overcommit: true}}
kernels:
  k1: {{image: light, cpus: "0"}}
  k2: {{image: light, cpus: "0"}}
"""


def modes(lab: Lab, *words: str) -> dict[str, dict[str, str]]:
    rows = json.loads(lab.popnet("mode", *words, "-o", "json").stdout)["items"]
    return {row["peer"]: {ring: row[ring] for ring in ("high", "normal", "frames")} for row in rows}


def ring(lab: Lab, kernel: str, peer: str, name: str) -> dict[str, int]:
    """The counters of one ring, by `popnet stats`."""
    rows = json.loads(lab.popnet("stats", "-o", "json").stdout)["items"]
    [row] = [row for row in rows if (row["kernel"], row["peer"], row["ring"]) == (kernel, peer, name)]
    return dict(row)


def test_a_ring_that_is_polled_gets_no_kicks(lab: Lab) -> None:
    if CORES < 2:
        lab.up(SHARED)
        assert lab.popnet("mode", "k1", "poll", check=False).returncode == 1
        return
    lab.up()
    assert modes(lab, "k1")["primary"] == {"high": "adaptive", "normal": "adaptive", "frames": "adaptive"}
    assert modes(lab, "k1", "interrupt")["primary"]["normal"] == "interrupt"
    lab.exec("k1", "true")
    interrupted = ring(lab, "primary", "k1", "normal")
    lab.exec("k1", "true")
    assert ring(lab, "primary", "k1", "normal")["kicks"] > interrupted["kicks"]

    assert modes(lab, "k1", "poll", "--peer", "primary")["primary"]["normal"] == "poll"
    lab.exec("k1", "true")  # what was armed before may be kicked for
    polled = ring(lab, "primary", "k1", "normal")
    for _ in range(5):
        assert lab.exec("k1", "echo", "still here").stdout == "still here\n"
    after = ring(lab, "primary", "k1", "normal")
    assert after["kicks"] == polled["kicks"]
    assert after["sent"] > polled["sent"]

    assert modes(lab, "k1", "adaptive")["primary"]["normal"] == "adaptive"
    assert lab.exec("k1", "echo", "and asleep").stdout == "and asleep\n"


def test_modes_outlive_a_generation_of_the_peer(lab: Lab) -> None:
    lab.up()
    lab.ping("k1", "k2")  # a link of their own
    assert modes(lab, "k1", "interrupt", "--peer", "k2", "--ring", "high")["k2"]["high"] == "interrupt"
    lab.popnet("kill", "k2")
    assert "k2" not in modes(lab, "k1")
    lab.popnet("boot", "k2")
    lab.ping("k1", "k2")
    assert modes(lab, "k1")["k2"] == {"high": "interrupt", "normal": "adaptive", "frames": "adaptive"}


def test_a_kernel_that_shares_its_core_may_not_poll(lab: Lab) -> None:
    lab.up(SHARED)
    refused = lab.popnet("mode", "k1", "poll", check=False)
    assert refused.returncode == 1
    assert "less than a core may not poll" in refused.stderr
    assert modes(lab, "k1", "interrupt")["primary"]["normal"] == "interrupt"
