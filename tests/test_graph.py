"""A machine as a graph, and its drawings."""

import json
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from popnet import graph
from popnet.cli.main import cli
from popnet.graphsvg import Room
from tests.cli.conftest import machine  # noqa: F401 - a fixture
from tests.cli.fake_machine import kernel_row

ROWS = [kernel_row(0, "primary"), kernel_row(1, "k1"), kernel_row(2, "k2", "offline")]
SVG = "{http://www.w3.org/2000/svg}"
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
            "a_to_b": {"frames": 2, "bytes": 200, "messages": 4, "state": "up", "impairment": {}},
            "b_to_a": {"frames": 5, "bytes": 1000, "messages": 7, "state": "up", "impairment": {}},
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
    for card in root.iter(f"{SVG}rect"):
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


def wire(source: str | None, target: str | None, state: str = "up", **impairment: Any) -> dict[str, Any]:
    return {"from": source, "to": target, "state": state, "impairment": impairment, "observed": {}}


WIRES = [
    wire("k1", "k2", delay="5ms", loss="1%", seed=7),
    wire("k2", "k1", delay="5ms", loss="1%", seed=8),
    wire("k1", "primary", "down", rate="10mbit", match='ether[0] < 2 or "a long filter"'),
    wire("primary", None, "down"),
    wire(None, "k2", jitter="2ms", delay="1.5ms"),
]


@pytest.fixture
def bad() -> dict[str, Any]:
    counters = {"kernels": {"primary": {"links": {"1": SENT}}}}
    return graph.build({"name": "m", "subnet": "10.1.2.0/24"}, ROWS, counters, WIRES)


def test_what_is_wrong_is_part_of_the_graph(bad: dict[str, Any]) -> None:
    used, unused = bad["links"]
    assert (used["a_to_b"]["state"], used["b_to_a"]["state"]) == ("up", "down")
    assert (unused["a"], unused["b"], unused["a_to_b"]["frames"]) == ("k1", "k2", 0), "impaired, never used"
    assert unused["b_to_a"]["impairment"] == {"delay": "5ms", "loss": "1%", "seed": 8}
    assert [kernel["nic"]["out"]["state"] for kernel in bad["kernels"]] == ["down", "up", "up"]


def test_what_is_wrong_is_told_in_short(bad: dict[str, Any]) -> None:
    lines = graph.text(bad).splitlines()
    assert [line[line.index("[") :] if "[" in line else "" for line in lines[1:]] == [
        "[NIC out: down]",
        '[to primary: down, rate 10 mbit on ether[0] < 2 or "a long…]',
        "",
        "[delay 5 ms, loss 1 %]",
        "[NIC in: delay 1.5 ms, jitter 2 ms]",
    ]


def test_what_is_wrong_is_drawn_in_a_colour_of_its_own(bad: dict[str, Any]) -> None:
    dot, mermaid = graph.dot(bad), graph.mermaid(bad)
    assert f'[label="0 / 0 frames\\ndelay 5 ms, loss 1 %", color="{graph.BAD}"' in dot
    assert f', style=dashed, color="{graph.CUT}", fontcolor="{graph.CUT}"];' in dot
    assert '\\"a long…"' in dot
    assert (
        '-.-|"2 / 0 frames<br/>to primary: down, rate 10 mbit on ether[0] &lt; 2 or &quot;a long…"|'
        in mermaid
    )
    assert re.findall(r"^  (?:style|linkStyle) (\w+) stroke:(#\w+)", mermaid, re.M) == [
        ("k0", graph.CUT),
        ("k2", graph.BAD),
        ("0", graph.CUT),
        ("1", graph.BAD),
    ]
    root = ElementTree.fromstring(graph.svg(bad))
    assert [path.get("class") for path in root.iter(f"{SVG}path")] == ["link cut", "link idle bad"]
    assert [text.text for text in root.iter(f"{SVG}text") if text.get("class") == "bad-text"] == [
        "delay 5\N{NO-BREAK SPACE}ms, loss 1\N{NO-BREAK SPACE}%",
        "NIC in: delay 1.5\N{NO-BREAK SPACE}ms,",
        "jitter 2\N{NO-BREAK SPACE}ms",
    ]


def test_a_machine_without_faults_has_no_colour_of_them(drawn: dict[str, Any]) -> None:
    assert graph.CUT not in graph.dot(drawn) + graph.mermaid(drawn)
    root = ElementTree.fromstring(graph.svg(drawn))
    assert {element.get("class") for element in root.iter()}.isdisjoint({"bad-text", "cut-text", "link bad"})


@pytest.mark.parametrize("number", [2, 3, 4, 7, 12, 20])
def test_labels_cover_neither_each_other_nor_a_kernel(number: int) -> None:
    rows = [kernel_row(kid, f"k{kid}") for kid in range(number)]
    links = {str(kid): SENT for kid in range(number)}
    wires = [wire("k0", "k1", delay="20ms", jitter="3ms", rate="10mbit"), wire("k1", "k0", "down")]
    wires += [wire(f"k{kid}", None, loss="gemodel 5% 30%", corrupt="1%") for kid in range(number)]
    counters = {"kernels": {row["name"]: {"links": links} for row in rows}}
    made = graph.build({"name": "m", "subnet": "10.1.2.0/24"}, rows, counters, wires)
    root = ElementTree.fromstring(graph.svg(made))
    boxes = [
        (x := float(rect.get("x", 0)), y := float(rect.get("y", 0)), x + float(rect.attrib["width"]),
         y + float(rect.attrib["height"]))
        for rect in root.iter(f"{SVG}rect") if rect.get("class") != "back"
    ]  # fmt: skip
    assert len(boxes) > number
    for place, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[:place]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
    words = "".join(root.itertext())
    assert "to k1: delay 20" in words.replace("\N{NO-BREAK SPACE}", " ")


def test_a_room_knows_what_is_taken() -> None:
    room = Room()
    room.take((0, 0, 300, 20))
    assert not room.is_free((290, 10, 400, 40)), "far from the corner where it began"
    assert room.is_free((300, 0, 400, 20))
    assert room.is_free((-50, -50, 0, 0))


def test_the_verb(machine: object, tmp_path: object) -> None:  # noqa: F811
    run = CliRunner().invoke
    assert run(cli, ["graph"]).output.startswith("machine demo, 10.1.2.0/24\nprimary  online")
    assert json.loads(run(cli, ["graph", "-o", "json"]).output)["kind"] == "Graph"
    file = f"{tmp_path}/x.svg"
    assert run(cli, ["graph", "-o", "svg", "-w", file]).exit_code == 0
    assert ElementTree.parse(file).getroot().tag.endswith("svg")
    assert run(cli, ["link", "set", "k1", "k2", "--delay", "5ms"]).exit_code == 0
    assert "└─ k2  → 0 frames 0 B, 0 messages" in (told := run(cli, ["graph"]).output)
    assert "[delay 5 ms]" in told
    nowhere = run(cli, ["graph", "-w", f"{tmp_path}/no/x"])
    assert nowhere.exit_code == 1
    assert "No such file" in nowhere.output
