"""The figures of boots, and their picture, from figures made up here; nothing is booted."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from popnet.bench.bed import Broken
from popnet.bench.bootpeers import PEERS, boot_s
from popnet.bench.bootpicture import svg
from popnet.bench.bootrounds import BootPlan, pss_bytes, row


def _event(kid: int, state: str, time_s: float) -> dict[str, Any]:
    return {"kind": "kernel.state", "kid": kid, "state": state, "time_s": time_s}


def test_a_boot_lasts_from_the_first_secondarys_start_to_the_last_ones_being_online() -> None:
    events = [
        _event(0, "starting", 1.0),
        _event(0, "online", 2.0),
        _event(1, "starting", 3.0),
        _event(2, "starting", 3.1),
        _event(2, "online", 3.5),
        {"kind": "machine.up", "time_s": 9.0},
        _event(1, "online", 4.0),
    ]
    assert boot_s(events) == 1.0
    with pytest.raises(Broken, match="1 of 2 kernels came online"):
        boot_s(events[:-1])


def test_medians_best_and_spread() -> None:
    rounds = [
        dict.fromkeys(("ready_ms", "each_ms", "cpu_ms", "pss_mib", "down_ms"), value)
        for value in (10.0, 40.0, 20.0)
    ]
    figure = row(PEERS[0], 2, rounds)["figures"]["ready_ms"]
    assert figure == {"median": 20.0, "best": 10.0, "spread": 1.5}
    assert BootPlan.from_json(BootPlan(["unshare"], [1, 8], 2).to_json()) == BootPlan(["unshare"], [1, 8], 2)


def test_memory_is_that_of_all_but_the_bench(tmp_path: Path) -> None:
    for pid, kib in ((1, 1000), (7, 3), (8, 4)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "smaps_rollup").write_text(f"Rss: 9 kB\nPss:  {kib} kB\nPss_Anon: 1 kB\n")
    assert pss_bytes(tmp_path) == 7 * 1024


def test_the_picture_has_a_bar_for_each() -> None:
    rounds = [{"ready_ms": 12.0, "each_ms": 12.0, "cpu_ms": 1.0, "pss_mib": 0.5, "down_ms": 3.0}]
    host = {"cpu": "CPU", "linux": "6", "python": "3", "load": 0.1}
    document = {
        "host": host, "rounds": 1, "items": [row(peer, n, rounds) for n in (1, 8) for peer in PEERS]
    }  # fmt: skip
    picture = ElementTree.fromstring(svg(document))
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"1 kernel", "8 kernels", *(peer.name for peer in PEERS)} <= set(texts)
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}rect"))) == 1 + 2 * 2 * len(PEERS)
