"""Metrics: each counter once, with labels, in the format that Prometheus reads."""

import json
import re
import socket
import urllib.error
import urllib.request
from asyncio import to_thread
from pathlib import Path
from typing import Any

import pytest

from popnet.control import metricsserver
from popnet.control.metrics import CONTENT_TYPE, STATES, text
from popnet.core.errors import Refused
from popnet.machine.states import KernelState
from tests.control.fakes import FakeService

MACHINE = {"name": "demo", "file": 'a"b\\c\nd', "uptime_s": 12.5}
KERNELS = [
    {"kid": 0, "name": "primary", "state": "online", "generation": 1, "memory_bytes": None, "uptime_s": 12.0},
    {"kid": 1, "name": "k1", "state": "online", "generation": 3, "memory_bytes": 1 << 30, "uptime_s": 2.0},
    {"kid": 2, "name": "k2", "state": "failed", "generation": 2, "memory_bytes": None, "uptime_s": None},
]
TOLD: dict[str, dict[str, Any]] = {
    "primary": {"error": "it did not answer"},
    "k1": {
        "nic": {"tx_frames": 5, "drop_no_link": 2, "drop_bad-name": 1, "odd": "text"},
        "links": {"0": {"high_sent": 4, "normal_full": 1, "frames_sent_bytes": 99, "violations": 0}},
        "messages": {"sent": 16, "links": 2},
        "programs": {"connected": 1},
        "ttys": {"tty0": {"produced_bytes": 315, "viewers": 1}},
        "usage": {"cpu_s": 0.5, "memory_bytes": 4096},
        "modes": {"0": {"high": "adaptive"}},
    },
}
SAMPLE = re.compile(r'([a-z_]+)\{((?:[a-z]+="(?:[^"\\\n]|\\[\\n"])*",?)*)\} ([-0-9.e+]+)')


def samples(document: str) -> dict[str, str]:
    """Samples by `name{labels}`; asserts the format: TYPE before samples, families whole, nothing twice."""
    found: dict[str, str] = {}
    typed: list[str] = []
    for line in document.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in typed
            assert (kind == "counter") == name.endswith("_total")
            typed.append(name)
        elif line.startswith("# HELP "):
            assert len(line.split(" ")) > 4
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match[1] == typed[-1]
            assert line.rpartition(" ")[0] not in found
            found[line.rpartition(" ")[0]] = match[3]
    assert document.endswith("\n")
    return found


def test_each_counter_is_a_sample() -> None:
    found = samples(text("1.0", MACHINE, KERNELS, TOLD))
    of_k1 = 'machine="demo",kernel="k1"'
    assert found[r'popnet_info{machine="demo",version="1.0",file="a\"b\\c\nd"}'] == "1"
    assert found[f"popnet_nic_tx_frames_total{{{of_k1}}}"] == "5"
    assert found[f'popnet_nic_drops_total{{{of_k1},reason="no_link"}}'] == "2"
    assert found[f'popnet_ring_sent_total{{{of_k1},peer="primary",ring="high"}}'] == "4"
    assert found[f'popnet_ring_full_total{{{of_k1},peer="primary",ring="normal"}}'] == "1"
    assert found[f'popnet_ring_sent_bytes_total{{{of_k1},peer="primary",ring="frames"}}'] == "99"
    assert found[f'popnet_link_violations_total{{{of_k1},peer="primary"}}'] == "0"
    assert found[f"popnet_messages_sent_total{{{of_k1}}}"] == "16"
    assert found[f"popnet_messages_links{{{of_k1}}}"] == "2"
    assert found[f"popnet_programs_connected{{{of_k1}}}"] == "1"
    assert found[f'popnet_tty_produced_bytes_total{{{of_k1},tty="tty0"}}'] == "315"
    assert found[f'popnet_tty_viewers{{{of_k1},tty="tty0"}}'] == "1"
    assert found[f"popnet_kernel_cpu_seconds_total{{{of_k1}}}"] == "0.5"
    assert found[f"popnet_kernel_memory_limit_bytes{{{of_k1}}}"] == str(1 << 30)
    assert found[f'popnet_kernel_state{{{of_k1},state="online"}}'] == "1"
    assert found[f'popnet_kernel_state{{{of_k1},state="failed"}}'] == "0"


def test_who_did_not_answer_is_told() -> None:
    found = samples(text("1.0", MACHINE, KERNELS, TOLD))
    answered = {name: found[f'popnet_kernel_answered{{machine="demo",kernel="{name}"}}'] for name in TOLD}
    assert answered == {"primary": "0", "k1": "1"}
    assert 'popnet_kernel_uptime_seconds{machine="demo",kernel="k2"}' not in found


def test_what_a_kernel_makes_up_cannot_break_the_document() -> None:
    mad = {"nic": {"x\ny": 1, "x{": 2, "é": 3}, "links": {'"\n': {"violations": 1}}, "ttys": [1]}
    found = samples(text("1.0", MACHINE, KERNELS, {"k1": mad}))
    assert found[r'popnet_link_violations_total{machine="demo",kernel="k1",peer="\"\n"}'] == "1"


def test_states_are_those_of_kernels() -> None:
    assert set(STATES) == {state.value for state in KernelState}


async def test_a_port_serves_metrics_and_nothing_else() -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    server = metricsserver.MetricsServer(FakeService(), sock)
    await server.start()

    def get(path: str) -> tuple[int, str, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except urllib.error.HTTPError as error:
            error.close()
            return error.code, "", ""

    try:
        status, kind, document = await to_thread(get, "/metrics")
        assert (status, kind) == (200, CONTENT_TYPE)
        assert samples(document)['popnet_kernel_state{machine="m",kernel="k1",state="online"}'] == "1"
        assert (await to_thread(get, "/v1/machine"))[0] == 404
        with pytest.raises(Refused, match="cannot listen"):
            metricsserver.bind(f"127.0.0.1:{port}")
    finally:
        await server.close()


@pytest.mark.parametrize(
    "address", ["9464", "localhost:9464", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", ""]
)
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(Refused, match=f"--metrics: '{address}' is no address"):
        metricsserver.bind(address)


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads((Path(__file__).parents[2] / "tools/grafana/popnet.json").read_text())
    asked = set(re.findall(r"popnet_[a-z_]+", json.dumps(dashboard)))
    assert len(asked) > 8
    counters = json.loads((Path(__file__).parent / "counters.json").read_text())
    document = text("1.0", MACHINE, KERNELS, {"k1": counters})
    assert asked <= set(re.findall(r"(?m)^# TYPE (\S+)", document))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert all(expression.count("(") == expression.count(")") for expression in expressions)
