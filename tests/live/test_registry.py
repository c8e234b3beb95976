"""The registry across real kernels: what they are told when another is killed, and when it boots again."""

import json
from typing import Any

from popnet.control import blocking, wire
from tests.live.lab import PAIR, Lab, wait_until

TRIO = PAIR + "  k3: {{image: light}}\n"


def lines_until(stream: blocking.BlockingStream, last: dict[str, Any], got: list[dict[str, Any]]) -> None:
    """Receive notices into *got* until one has all of *last*."""
    while True:
        received = stream.receive()
        assert received is not None, got
        got += [json.loads(line) for line in received[1].splitlines()]
        if any(last.items() <= row.items() for row in got):
            return


def of_k2(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """What happened to k2 and its `exec`."""
    rows = [row for row in rows if row["kid"] == 2 and row.get("service", "exec") == "exec"]
    return [(row["change"], row["generation"]) for row in rows]


def test_others_see_a_kernel_go_and_come_back_each_once(lab: Lab) -> None:
    lab.up(TRIO)

    def services() -> list[tuple[str, str, int]]:
        rows = json.loads(lab.popnet("services", "-o", "json").stdout)["items"]
        return [(row["kernel"], row["service"], row["generation"]) for row in rows]

    expected = {
        (k, s, 1) for k in ("primary", "k1", "k2", "k3") for s in ("exec", "dial", "capture", "inject")
    }
    wait_until(lambda: expected | {("primary", "tty", 1)} <= set(services()), "all services are listed")
    socket = lab.run_dir / "lab" / "control.sock"
    streams = {
        name: blocking.connect(socket, wire.stream_path(name, "watch")) for name in ("primary", "k1", "k3")
    }
    try:
        seen: dict[str, list[dict[str, Any]]] = {name: [] for name in streams}
        back = {"change": "service-up", "service": "exec", "kid": 2}
        for name, stream in streams.items():
            lines_until(stream, back, seen[name])
        lab.popnet("kill", "k2")
        lab.popnet("boot", "k2")
        for name, stream in streams.items():
            lines_until(stream, {**back, "generation": 2}, seen[name])
        for got in seen.values():
            assert of_k2(got) == [
                ("kernel-up", 1),
                ("service-up", 1),
                ("service-down", 1),
                ("kernel-down", 1),
                ("kernel-up", 2),
                ("service-up", 2),
            ]
            assert [row["reason"] for row in got if row["change"] == "kernel-down"] == ["killed"]
        assert ("k2", "exec", 2) in services() and ("k2", "exec", 1) not in services()
    finally:
        for stream in streams.values():
            stream.close()
