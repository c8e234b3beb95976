"""A machine as a graph: its kernels, and the links that exist, with what went over them and is wrong with
them. Pure.

`build` makes it of what the control API tells; `text`, `dot`, `mermaid` and `svg` draw it. A link has two
sides that count for themselves; what went from a to b is told by a, or by b if a said nothing. A link that is
impaired or cut is shown even if it was never used.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from xml.sax.saxutils import escape

from popnet.graphsvg import svg
from popnet.graphwords import (
    PERFECT,
    bytes_text,
    count_text,
    link_faults,
    link_is_cut,
    memory_text,
    nic_faults,
    nic_is_cut,
)

VNET_HEADER: Final = 12
"""Bytes that ride before each frame on its ring, and are no part of it."""

BAD: Final = "#c05600"
CUT: Final = "#c62828"
"""The colours of what is impaired, and of what is cut."""


def build(
    machine: Mapping[str, Any],
    kernels: Sequence[Mapping[str, Any]],
    counters: Mapping[str, Any],
    wires: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The graph: {"machine", "subnet", "kernels": [...], "links": [{"a", "b", "a_to_b", "b_to_a"}]}.

    A kernel has a "nic" of "out" and "in"; these and the two ways of a link have "state" and "impairment".

    Args:
        machine, kernels, counters, wires: what /v1/machine, /v1/kernels, /v1/counters and /v1/links answer.
    """
    names = {str(row["kid"]): str(row["name"]) for row in kernels}
    sides: dict[tuple[str, str], Mapping[str, int]] = {}
    for kernel, told in counters["kernels"].items():
        for kid, counts in told.get("links", {}).items():
            if kid in names and names[kid] != kernel:
                sides[kernel, names[kid]] = counts
    faults = {
        (row["from"], row["to"]): {"state": row["state"], "impairment": dict(row["impairment"])}
        for row in wires
    }
    order = {name: number for number, name in enumerate(names.values())}
    between = {(a, b) for a, b in faults if a in order and b in order}
    pairs = sorted(
        {(a, b) if order[a] < order[b] else (b, a) for a, b in sides.keys() | between},
        key=lambda pair: (order[pair[0]], order[pair[1]]),
    )
    keys = ("name", "kid", "state", "cpus", "memory_bytes", "memory_used_bytes", "ipv4", "ipv6", "mac", "mtu")

    def way(a: str, b: str) -> dict[str, Any]:
        return {**_way(sides.get((a, b)), sides.get((b, a))), **faults.get((a, b), PERFECT)}

    return {
        "machine": machine["name"],
        "subnet": machine["subnet"],
        "kernels": [
            {
                **{key: row.get(key) for key in keys},
                "nic": {
                    "out": dict(faults.get((row["name"], None), PERFECT)),
                    "in": dict(faults.get((None, row["name"]), PERFECT)),
                },
            }
            for row in kernels
        ],
        "links": [{"a": a, "b": b, "a_to_b": way(a, b), "b_to_a": way(b, a)} for a, b in pairs],
    }


def _way(sender: Mapping[str, int] | None, receiver: Mapping[str, int] | None) -> dict[str, int]:
    counts, verb = (sender, "sent") if sender is not None else (receiver or {}, "received")

    def count(ring: str) -> int:
        return counts.get(f"{ring}_{verb}", 0)

    frames = count("frames")
    size = counts.get(f"frames_{verb}_bytes", 0) - VNET_HEADER * frames
    return {"frames": frames, "bytes": size, "messages": count("high") + count("normal")}


def _traffic(way: Mapping[str, int]) -> str:
    frames, messages = count_text(way["frames"]), count_text(way["messages"])
    return f"{frames} frames {bytes_text(way['bytes'])}, {messages} messages"


def _told(faults: Sequence[str]) -> str:
    return f"  [{'; '.join(faults)}]" if faults else ""


def text(graph: Mapping[str, Any]) -> str:
    """Lines for a terminal: each kernel, and below it its links to those that come later."""
    lines = [f"machine {graph['machine']}, {graph['subnet']}"]
    for kernel in graph["kernels"]:
        lines.append(
            f"{kernel['name']}  {kernel['state']}  {kernel['ipv4']}  CPUs {kernel['cpus']}"
            f"  {memory_text(kernel)}{_told(nic_faults(kernel))}"
        )
        links = [link for link in graph["links"] if link["a"] == kernel["name"]]
        for number, link in enumerate(links, 1):
            branch = "└" if number == len(links) else "├"
            lines.append(
                f"  {branch}─ {link['b']}  → {_traffic(link['a_to_b'])}  ← {_traffic(link['b_to_a'])}"
                f"{_told(link_faults(link))}"
            )
    return "\n".join(lines)


def _frames(link: Mapping[str, Any]) -> str:
    return f"{count_text(link['a_to_b']['frames'])} / {count_text(link['b_to_a']['frames'])} frames"


def _colour(faults: Sequence[str], cut: bool) -> str:
    return CUT if cut else BAD if faults else ""


def _quoted(words: str) -> str:
    escaped = words.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def dot(graph: Mapping[str, Any]) -> str:
    """For graphviz: `popnet graph -o dot | neato -Tsvg`."""
    lines = [
        f"graph {_quoted(graph['machine'])} {{",
        "  node [shape=box, style=rounded];",
        "  overlap=false;",
    ]
    for kernel in graph["kernels"]:
        faults = nic_faults(kernel)
        about = f"CPUs {kernel['cpus']}, {memory_text(kernel)}"
        label = "\n".join([kernel["name"], str(kernel["ipv4"]), about, *faults])
        style = "" if kernel["state"] == "online" else ', style="rounded,dashed"'
        colour = _dot_colour(_colour(faults, nic_is_cut(kernel)))
        lines.append(f"  {_quoted(kernel['name'])} [label={_quoted(label)}{style}{colour}];")
    for link in graph["links"]:
        faults = link_faults(link)
        label = "\n".join([_frames(link), *faults])
        style = ", style=dashed" if link_is_cut(link) else ""
        colour = _dot_colour(_colour(faults, link_is_cut(link)))
        lines.append(
            f"  {_quoted(link['a'])} -- {_quoted(link['b'])} [label={_quoted(label)}{style}{colour}];"
        )
    return "\n".join([*lines, "}"])


def _dot_colour(colour: str) -> str:
    return f', color="{colour}", fontcolor="{colour}"' if colour else ""


def mermaid(graph: Mapping[str, Any]) -> str:
    """For what renders mermaid, such as Markdown of many forges."""
    lines, styles = ["graph LR"], []
    for kernel in graph["kernels"]:
        faults = nic_faults(kernel)
        about = f"CPUs {kernel['cpus']}, {memory_text(kernel)}"
        label = "<br/>".join([f"<b>{kernel['name']}</b>", str(kernel["ipv4"]), about, *map(_html, faults)])
        lines.append(f'  k{kernel["kid"]}["{label}"]')
        if colour := _colour(faults, nic_is_cut(kernel)):
            styles.append(f"  style k{kernel['kid']} stroke:{colour}")
    kids = {kernel["name"]: kernel["kid"] for kernel in graph["kernels"]}
    for number, link in enumerate(graph["links"]):
        faults = link_faults(link)
        label = "<br/>".join([_frames(link), *map(_html, faults)])
        line = "-.-" if link_is_cut(link) else "---"
        lines.append(f'  k{kids[link["a"]]} {line}|"{label}"| k{kids[link["b"]]}')
        if colour := _colour(faults, link_is_cut(link)):
            styles.append(f"  linkStyle {number} stroke:{colour},color:{colour}")
    return "\n".join([*lines, *styles])


def _html(words: str) -> str:
    return escape(words, {'"': "&quot;"})


DRAWINGS: Final = {"text": text, "dot": dot, "mermaid": mermaid, "svg": svg}
