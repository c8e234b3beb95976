"""What is shown of a real machine: a graph with an impaired link and a NIC that is cut, and rates."""

import json
from xml.etree import ElementTree

from tests.live.lab import Lab, wait_until


def busy(pair: Lab) -> dict[str, dict[str, float]] | None:
    """The rates of a window, by kernel, if k1 and k2 sent, got and, of those to k2, lost frames in it."""
    shown = json.loads(pair.popnet("top", "--once", "-i", "0.5", "-o", "json").stdout)
    rows = {row["kernel"]: row for row in shown["items"]}
    moved = min(rows[kernel][rate] for kernel in ("k1", "k2") for rate in ("tx_frames_s", "rx_frames_s"))
    return rows if moved > 0 and rows["k2"]["drops_s"] > 0 else None


def test_graph_and_top_of_an_impaired_link(pair: Lab) -> None:
    # Each knows the other before anything is lost: a first ARP lost would be a second of silence.
    pair.ping("k1", "k2")
    pair.popnet("link", "k1", "k2", "--loss", "50%", "--seed", "7", "-d", "out")
    pinging = pair.start("exec", "k1", "--", "ping", "-n", "-i", "0.01", "k2")
    assert pinging.stdout is not None and pinging.stdout.readline().startswith(b"PING")
    try:
        rows = wait_until(lambda: busy(pair), "frames both ways and lost ones in one window")
    finally:
        pinging.terminate()
        pinging.communicate(timeout=20)
    assert rows["k1"]["drops_s"] == 0, "who would have got a frame counts its loss"
    assert rows["k1"]["memory_bytes"] > 0
    pair.popnet("link", "down", "primary")

    shown = pair.popnet("graph").stdout.splitlines()
    (link,) = (line for line in shown if "─ k2" in line and "[" in line)
    assert link.endswith("[to k2: loss 50 %]")
    assert shown[1].endswith("[NIC: down]")
    graph = json.loads(pair.popnet("graph", "-o", "json").stdout)
    (link,) = (link for link in graph["links"] if (link["a"], link["b"]) == ("k1", "k2"))
    assert link["a_to_b"]["impairment"] == {"loss": "50%", "seed": 7}
    assert link["b_to_a"]["impairment"] == {}
    assert min(link["a_to_b"]["frames"], link["b_to_a"]["frames"]) > 0
    picture = ElementTree.fromstring(pair.popnet("graph", "-o", "svg").stdout)
    assert "to k2: loss 50" in "".join(picture.itertext())
