"""A machine as a graph, and its drawings."""

import json
import re
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from popnet import graph
from popnet.cli.main import cli
from tests.cli.conftest import machine  # noqa: F401 - a fixture
from tests.cli.fake_machine import kernel_row

ROWS = [kernel_row(0, "primary"), kernel_row(1, "k1"), kernel_row(2, "k2", "offline")]
SENT = {"frames_sent": 2, "frames_sent_bytes": 224, "high_sent": 1, "normal_sent": 3}
RECEIVED = {"frames_received": 5, "frames_received_bytes": 1060, "normal_received": 7}
COUNTERS = {"kernels": {"primary": {"links": {"0": SENT, "1": SENT, "9": SENT}}, "k1": {"error": "silent"}}}


@pytest.fixture
def drawn() -> dict[str, object]:
    counters = {"kernels": {**COUNTERS["kernels"]}}
    counters["kernels"]["primary"] = {"links": {"1": {**SENT, **RECEIVED}}}
    return graph.build({"name": 'a"b', "subnet": "10.1.2.0/24"}, ROWS, counters)


def test_links_are_told_once_without_headers_of_the_ring(drawn: dict[str, object]) -> None:
    assert drawn["links"] == [
        {
            "a": "primary",
            "b": "k1",
            "a_to_b": {"frames": 2, "bytes": 200, "messages": 4},
            "b_to_a": {"frames": 5, "bytes": 1000, "messages": 7},
        }
    ], "k1 is silent: the primary tells what it got"


def test_what_is_no_link_between_kernels_is_left_out() -> None:
    made = graph.build({"name": "m", "subnet": ""}, ROWS, COUNTERS)
    assert [(link["a"], link["b"]) for link in made["links"]] == [("primary", "k1")]


def test_both_sides_count_for_themselves() -> None:
    counters = {"kernels": {"k2": {"links": {"1": SENT}}, "k1": {"links": {"2": {"frames_sent": 9}}}}}
    (link,) = graph.build({"name": "m", "subnet": ""}, ROWS, counters)["links"]
    assert (link["a"], link["a_to_b"]["frames"], link["b_to_a"]["frames"]) == ("k1", 9, 2)


def test_the_picture_is_whole_and_names_everything(drawn: dict[str, object]) -> None:
    root = ElementTree.fromstring(graph.svg(drawn))
    words = " ".join(root.itertext())
    for name in ("primary", "k1", "k2", "10.1.2.2", 'a"b', "7 frames", "1.2 kB", "offline"):
        assert name in words
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for card in root.iter("{http://www.w3.org/2000/svg}rect"):
        x, y = float(card.get("x", 0)), float(card.get("y", 0))
        assert x >= 0 and y >= 0
        assert x + float(card.attrib["width"]) <= width + 0.5
        assert y + float(card.attrib["height"]) <= height + 0.5


def test_dot_and_mermaid_name_each_kernel_and_link_once(drawn: dict[str, object]) -> None:
    dot, mermaid = graph.dot(drawn), graph.mermaid(drawn)
    assert dot.startswith('graph "a\\"b" {\n')
    assert dot.endswith("\n}")
    assert re.findall(r'^  "(\w+)" \[label="[^"\n]*"', dot, re.M) == ["primary", "k1", "k2"]
    assert re.findall(r'^  "(\w+)" -- "(\w+)" \[label="[^"]*"\];$', dot, re.M) == [("primary", "k1")]
    assert re.findall(r'^  (k\d)\["', mermaid, re.M) == ["k0", "k1", "k2"]
    assert re.findall(r'^  (k\d) ---\|"2 / 5 frames"\| (k\d)$', mermaid, re.M) == [("k0", "k1")]
    assert graph.text(drawn).splitlines()[2] == (
        "  └─ k1  → 2 frames 200 B, 4 messages  ← 5 frames 1 kB, 7 messages"
    )


def test_the_verb(machine: object, tmp_path: object) -> None:  # noqa: F811
    run = CliRunner().invoke
    assert run(cli, ["graph"]).output.startswith("machine demo, 10.1.2.0/24\nprimary  online")
    assert json.loads(run(cli, ["graph", "-o", "json"]).output)["kind"] == "Graph"
    file = f"{tmp_path}/x.svg"
    assert run(cli, ["graph", "-o", "svg", "-w", file]).exit_code == 0
    assert ElementTree.parse(file).getroot().tag.endswith("svg")
    nowhere = run(cli, ["graph", "-w", f"{tmp_path}/no/x"])
    assert nowhere.exit_code == 1
    assert "No such file" in nowhere.output
