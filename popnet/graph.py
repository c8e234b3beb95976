"""A machine as a graph: its kernels, and the links that exist, with what went over them. Pure.

`build` makes it of what the control API tells; `text`, `dot`, `mermaid` and `svg` draw it. A link has two
sides that count for themselves; what went from a to b is told by a, or by b if a said nothing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final
from xml.sax.saxutils import escape

VNET_HEADER: Final = 12
"""Bytes that ride before each frame on its ring, and are no part of it."""

CARD_WIDTH: Final = 176
CARD_HEIGHT: Final = 84

_STYLE: Final = """
text{font-family:"DejaVu Sans",Helvetica,Arial,sans-serif;font-size:11px;fill:#333a40}
.title{font-size:18px;font-weight:bold}.name{font-size:14px;font-weight:bold}.small{font-size:10px;fill:#667079}
.back{fill:#ffffff}.card{fill:#f6f8f9;stroke:#c3cad0}.plate{fill:#ffffff;fill-opacity:.88}
.link{stroke:#0b6e99;fill:none;stroke-linecap:round}.idle{stroke:#b4bcc3}
.online{fill:#2a9d5c}.busy{fill:#e0a100}.off{fill:#9aa3ab}.failed{fill:#d1453b}
@media (prefers-color-scheme:dark){text{fill:#dfe5ea}.small{fill:#93a0ab}.back{fill:#14181c}
.card{fill:#1f262c;stroke:#3d4851}.plate{fill:#14181c}.link{stroke:#4fb3de}.idle{stroke:#4b5660}}
"""


def build(
    machine: Mapping[str, Any], kernels: Sequence[Mapping[str, Any]], counters: Mapping[str, Any]
) -> dict[str, Any]:
    """The graph: {"machine", "subnet", "kernels": [...], "links": [{"a", "b", "a_to_b", "b_to_a"}]}.

    Args:
        machine, kernels, counters: what /v1/machine, /v1/kernels and /v1/counters answer.
    """
    names = {str(row["kid"]): str(row["name"]) for row in kernels}
    sides: dict[tuple[str, str], Mapping[str, int]] = {}
    for kernel, told in counters["kernels"].items():
        for kid, counts in told.get("links", {}).items():
            if kid in names and names[kid] != kernel:
                sides[kernel, names[kid]] = counts
    order = list(names.values())
    pairs = sorted(
        {(a, b) if order.index(a) < order.index(b) else (b, a) for a, b in sides},
        key=lambda pair: (order.index(pair[0]), order.index(pair[1])),
    )
    keys = ("name", "kid", "state", "cpus", "memory_bytes", "memory_used_bytes", "ipv4", "ipv6", "mac", "mtu")
    return {
        "machine": machine["name"],
        "subnet": machine["subnet"],
        "kernels": [{key: row.get(key) for key in keys} for row in kernels],
        "links": [
            {
                "a": a,
                "b": b,
                "a_to_b": _way(sides.get((a, b)), sides.get((b, a))),
                "b_to_a": _way(sides.get((b, a)), sides.get((a, b))),
            }
            for a, b in pairs
        ],
    }


def _way(sender: Mapping[str, int] | None, receiver: Mapping[str, int] | None) -> dict[str, int]:
    counts, verb = (sender, "sent") if sender is not None else (receiver or {}, "received")

    def count(ring: str) -> int:
        return counts.get(f"{ring}_{verb}", 0)

    frames = count("frames")
    size = counts.get(f"frames_{verb}_bytes", 0) - VNET_HEADER * frames
    return {"frames": frames, "bytes": size, "messages": count("high") + count("normal")}


def count_text(count: float) -> str:
    """A number as people say it: 12, 3.4 k, 5.6 M."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g} {letter}"
    return f"{count:.3g}" if count % 1 else f"{count:.0f}"


def bytes_text(count: float) -> str:
    """Bytes, likewise: 590 B, 2.26 kB."""
    said = count_text(count)
    return f"{said}B" if said[-1].isalpha() else f"{said} B"


def _traffic(way: Mapping[str, int]) -> str:
    frames, messages = count_text(way["frames"]), count_text(way["messages"])
    return f"{frames} frames {bytes_text(way['bytes'])}, {messages} messages"


def _memory(kernel: Mapping[str, Any]) -> str:
    limit = kernel["memory_bytes"]
    return f"{limit >> 20} MiB" if limit else "no memory limit"


def text(graph: Mapping[str, Any]) -> str:
    """Lines for a terminal: each kernel, and below it its links to those that come later."""
    lines = [f"machine {graph['machine']}, {graph['subnet']}"]
    for kernel in graph["kernels"]:
        lines.append(
            f"{kernel['name']}  {kernel['state']}  {kernel['ipv4']}  CPUs {kernel['cpus']}  {_memory(kernel)}"
        )
        links = [link for link in graph["links"] if link["a"] == kernel["name"]]
        for number, link in enumerate(links, 1):
            branch = "└" if number == len(links) else "├"
            lines.append(
                f"  {branch}─ {link['b']}  → {_traffic(link['a_to_b'])}  ← {_traffic(link['b_to_a'])}"
            )
    return "\n".join(lines)


def _quoted(words: str) -> str:
    return '"' + words.replace("\\", "\\\\").replace('"', '\\"') + '"'


def dot(graph: Mapping[str, Any]) -> str:
    """For graphviz: `popnet graph -o dot | neato -Tsvg`."""
    lines = [
        f"graph {_quoted(graph['machine'])} {{",
        "  node [shape=box, style=rounded];",
        "  overlap=false;",
    ]
    for kernel in graph["kernels"]:
        label = f"{kernel['name']}\n{kernel['ipv4']}\nCPUs {kernel['cpus']}, {_memory(kernel)}"
        style = "" if kernel["state"] == "online" else ', style="rounded,dashed"'
        quoted = _quoted(label).replace("\n", "\\n")
        lines.append(f"  {_quoted(kernel['name'])} [label={quoted}{style}];")
    for link in graph["links"]:
        frames = f"{count_text(link['a_to_b']['frames'])} / {count_text(link['b_to_a']['frames'])} frames"
        lines.append(f"  {_quoted(link['a'])} -- {_quoted(link['b'])} [label={_quoted(frames)}];")
    return "\n".join([*lines, "}"])


def mermaid(graph: Mapping[str, Any]) -> str:
    """For what renders mermaid, such as Markdown of many forges."""
    lines = ["graph LR"]
    for kernel in graph["kernels"]:
        label = f"<b>{kernel['name']}</b><br/>{kernel['ipv4']}<br/>CPUs {kernel['cpus']}, {_memory(kernel)}"
        lines.append(f'  k{kernel["kid"]}["{label}"]')
    kids = {kernel["name"]: kernel["kid"] for kernel in graph["kernels"]}
    for link in graph["links"]:
        frames = f"{count_text(link['a_to_b']['frames'])} / {count_text(link['b_to_a']['frames'])} frames"
        lines.append(f'  k{kids[link["a"]]} ---|"{frames}"| k{kids[link["b"]]}')
    return "\n".join(lines)


def svg(graph: Mapping[str, Any]) -> str:
    """A picture, the kernels on an ellipse, for light and dark backgrounds; a busy link is wide."""
    kernels = graph["kernels"]
    across = max(300.0, len(kernels) * 68.0)
    high = max(190.0, across * 0.62)
    width, height = 2 * across + CARD_WIDTH + 60, 2 * high + CARD_HEIGHT + 120
    places = {
        kernel["name"]: (
            width / 2 + across * math.sin(turn := 2 * math.pi * n / max(len(kernels), 1)),
            height / 2 + 24 - high * math.cos(turn) * (0 if len(kernels) == 1 else 1),
        )
        for n, kernel in enumerate(kernels)
    }
    online = sum(kernel["state"] == "online" for kernel in kernels)
    about = f"{graph['subnet']} · {online} of {len(kernels)} kernels online · {len(graph['links'])} links"
    drawn = [_link(link, places) for link in graph["links"]]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}">',
            f"<style>{_STYLE}</style>",
            f'<rect class="back" width="{width:.0f}" height="{height:.0f}"/>',
            _text(24, 34, f"machine {graph['machine']}", "title", "start"),
            _text(24, 54, about, "small", "start"),
            *(line for line, _ in drawn),
            *(label for _, label in drawn),
            *(_card(kernel, *places[kernel["name"]]) for kernel in kernels),
            "</svg>",
        ]
    )


def _link(link: Mapping[str, Any], places: Mapping[str, tuple[float, float]]) -> tuple[str, str]:
    (x1, y1), (x2, y2) = places[link["a"]], places[link["b"]]
    there, back = link["a_to_b"], link["b_to_a"]
    frames = there["frames"] + back["frames"]
    stroke = 1.5 + min(math.log10(1 + frames), 6)
    line = (
        f'<path class="link{"" if frames else " idle"}" stroke-width="{stroke:.1f}" '
        f'd="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'
    )
    # not in the middle, where the diagonals of a full mesh meet
    x, y = x1 + (x2 - x1) * 0.3, y1 + (y2 - y1) * 0.3
    words = f"{count_text(frames)} frames · {bytes_text(there['bytes'] + back['bytes'])}"
    half = len(words) * 3.2 + 6
    plate = (
        f'<rect class="plate" x="{x - half:.1f}" y="{y - 9:.1f}" width="{2 * half:.1f}" height="17" rx="4"/>'
    )
    return line, plate + _text(x, y + 4, words, "small", "middle")


def _card(kernel: Mapping[str, Any], x: float, y: float) -> str:
    left, top = x - CARD_WIDTH / 2, y - CARD_HEIGHT / 2
    lights = {"online": "online", "starting": "busy", "stopping": "busy", "failed": "failed"}
    light = lights.get(kernel["state"], "off")
    used = kernel["memory_used_bytes"]
    memory = (
        f"{used / (1 << 20):.1f} of {_memory(kernel)}" if used and kernel["memory_bytes"] else _memory(kernel)
    )
    return "\n".join(
        [
            f'<rect class="card" x="{left:.1f}" y="{top:.1f}" width="{CARD_WIDTH}" '
            f'height="{CARD_HEIGHT}" rx="9"/>',
            f'<circle class="{light}" cx="{left + 17:.1f}" cy="{top + 19:.1f}" r="5"/>',
            _text(left + 30, top + 24, kernel["name"], "name", "start"),
            _text(left + CARD_WIDTH - 12, top + 24, kernel["state"], "small", "end"),
            _text(left + 14, top + 43, str(kernel["ipv4"]), "", "start"),
            _text(left + 14, top + 58, f"CPUs {kernel['cpus']} · {memory}", "small", "start"),
            _text(left + 14, top + 73, f"{kernel['mac']} · MTU {kernel['mtu']}", "small", "start"),
        ]
    )


def _text(x: float, y: float, words: str, style: str, anchor: str) -> str:
    chosen = f' class="{style}"' if style else ""
    return f'<text{chosen} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


DRAWINGS: Final = {"text": text, "dot": dot, "mermaid": mermaid, "svg": svg}
