"""A graph as a picture: the kernels on an ellipse, for light and dark backgrounds; a busy link is wide. Pure.

Labels lie on their links where they cover neither a kernel nor another label. What is wrong with a link is
placed first, and always told; what went over one is left to its tooltip if there is no room for it.
"""

import math
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final
from xml.sax.saxutils import escape

from popnet.graphwords import (
    bytes_text,
    count_text,
    link_faults,
    link_is_cut,
    memory_text,
    nic_faults,
    nic_is_cut,
)

CARD_WIDTH: Final = 176
CARD_HEIGHT: Final = 84
LINE_HEIGHT: Final = 14
LETTER_WIDTH: Final = 6.4
"""At most, on average, of small text."""

_CARD_LETTERS: Final = 24
_LABEL_LETTERS: Final = 30
_CELL: Final = 96.0
_UNIT: Final = re.compile(r"(?<=\d) (?=[a-zµ%])")

_STYLE: Final = """
text{font-family:"DejaVu Sans",Helvetica,Arial,sans-serif;font-size:11px;fill:#333a40}
.title{font-size:18px;font-weight:bold}.name{font-size:14px;font-weight:bold}.small{font-size:10px;fill:#667079}
.back{fill:#ffffff}.card{fill:#f6f8f9;stroke:#c3cad0}.plate{fill:#ffffff;fill-opacity:.88}
.link{stroke:#0b6e99;fill:none;stroke-linecap:round}.idle{stroke:#b4bcc3}
.online{fill:#2a9d5c}.busy{fill:#e0a100}.off{fill:#9aa3ab}.failed{fill:#d1453b}
.link.bad,.card.bad{stroke:#c05600}.bad-text{font-size:10px;font-weight:bold;fill:#b04e00}
.link.cut,.card.cut{stroke:#c62828;stroke-dasharray:7 6}
.link.cut{stroke-linecap:butt}.cut-text{font-size:10px;font-weight:bold;fill:#c62828}
@media (prefers-color-scheme:dark){text{fill:#dfe5ea}.small{fill:#93a0ab}.back{fill:#14181c}
.card{fill:#1f262c;stroke:#3d4851}.plate{fill:#14181c}.link{stroke:#4fb3de}.idle{stroke:#4b5660}
.link.bad,.card.bad{stroke:#f0913c}.bad-text{fill:#ffa95c}.link.cut,.card.cut{stroke:#ff6b60}
.cut-text{fill:#ff8a80}}
"""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def svg(graph: Mapping[str, Any]) -> str:
    """The picture, of what `popnet.graph.build` made."""
    kernels, links = graph["kernels"], graph["links"]
    across = max(300.0, len(kernels) * 68.0)
    high = max(190.0, across * 0.62)
    tallest = max((_height(kernel) for kernel in kernels), default=CARD_HEIGHT)
    width, height = 2 * across + CARD_WIDTH + 60, 2 * high + tallest + 120
    places = {
        kernel["name"]: (
            width / 2 + across * math.sin(turn := 2 * math.pi * n / max(len(kernels), 1)),
            height / 2 + 24 - high * math.cos(turn) * (0 if len(kernels) == 1 else 1),
        )
        for n, kernel in enumerate(kernels)
    }
    online = sum(kernel["state"] == "online" for kernel in kernels)
    ties = f"{len(links)} link{'s' * (len(links) != 1)}"
    about = f"{graph['subnet']} · {online} of {len(kernels)} kernels online · {ties}"
    room = Room()
    room.take((0, 0, 24 + max(len(about), 2 * len(graph["machine"]) + 16) * LETTER_WIDTH, 64))  # the title
    for kernel in kernels:
        x, y = places[kernel["name"]]
        half = _height(kernel) / 2
        room.take((x - CARD_WIDTH / 2, y - half, x + CARD_WIDTH / 2, y + half))
    bad = [link for link in links if link_faults(link)]
    good = [link for link in links if not link_faults(link)]
    labels = [_label(link, places, room) for link in (*bad, *good)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}">',
            f"<style>{_STYLE}</style>",
            f'<rect class="back" width="{width:.0f}" height="{height:.0f}"/>',
            _text(24, 34, f"machine {graph['machine']}", "title", "start"),
            _text(24, 54, about, "small", "start"),
            *(_line(link, places) for link in (*good, *bad)),  # later ones lie on top
            *filter(None, labels),
            *(_card(kernel, *places[kernel["name"]]) for kernel in kernels),
            "</svg>",
        ]
    )


class Room:
    """Boxes that are taken, found by the cells of a grid that they touch."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, int], list[Box]] = {}

    def take(self, box: Box) -> None:
        for cell in _cells(box):
            self._cells.setdefault(cell, []).append(box)

    def is_free(self, box: Box) -> bool:
        left, top, right, bottom = box
        return not any(
            left < other[2] and other[0] < right and top < other[3] and other[1] < bottom
            for cell in _cells(box)
            for other in self._cells.get(cell, ())
        )


def _cells(box: Box) -> Iterator[tuple[int, int]]:
    left, top, right, bottom = (math.floor(edge / _CELL) for edge in box)
    return ((x, y) for x in range(left, right + 1) for y in range(top, bottom + 1))


def _traffic(link: Mapping[str, Any]) -> str:
    there, back = link["a_to_b"], link["b_to_a"]
    frames = count_text(there["frames"] + back["frames"])
    return f"{frames} frames · {bytes_text(there['bytes'] + back['bytes'])}"


def _line(link: Mapping[str, Any], places: Mapping[str, tuple[float, float]]) -> str:
    (x1, y1), (x2, y2) = places[link["a"]], places[link["b"]]
    frames = link["a_to_b"]["frames"] + link["b_to_a"]["frames"]
    stroke = 1.5 + min(math.log10(1 + frames), 6)
    faults = link_faults(link)
    style = ("" if frames else " idle") + (" cut" if link_is_cut(link) else " bad" if faults else "")
    title = escape("\n".join([f"{link['a']} - {link['b']}: {_traffic(link)}", *faults]))
    return (
        f'<path class="link{style}" stroke-width="{stroke:.1f}" '
        f'd="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"><title>{title}</title></path>'
    )


def _label(link: Mapping[str, Any], places: Mapping[str, tuple[float, float]], room: Room) -> str:
    """What is said on a link, where there is room; empty if there is none and nothing is wrong with it."""
    faults = _wrapped(link_faults(link), _LABEL_LETTERS)
    lines = [_traffic(link), *faults]
    wide = max(map(len, lines)) * LETTER_WIDTH + 12
    tall = LINE_HEIGHT * len(lines) + 3
    (x1, y1), (x2, y2) = places[link["a"]], places[link["b"]]
    boxes = []
    # not in the middle, where the diagonals of a full mesh meet, unless the rest is taken
    for part in (30, 70, 35, 65, 40, 60, 45, 55, 50, 25, 75, 20, 80):
        x, y = x1 + (x2 - x1) * part / 100, y1 + (y2 - y1) * part / 100
        boxes.append((x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2))
    free = next(filter(room.is_free, boxes), None)
    if free is None and not faults:
        return ""
    box = free or boxes[0]
    room.take(box)
    left, top, right, _ = box
    style = "cut-text" if link_is_cut(link) else "bad-text"
    return "".join(
        [
            f'<rect class="plate" x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{tall}" rx="4"/>',
            *(
                _text((left + right) / 2, top + 12 + LINE_HEIGHT * n, line, style if n else "small", "middle")
                for n, line in enumerate(lines)
            ),
        ]
    )


def _wrapped(texts: list[str], letters: int) -> list[str]:
    """Lines of so many letters; a number and its unit stay together."""
    whole = (_UNIT.sub("\N{NO-BREAK SPACE}", text) for text in texts)
    return [line for text in whole for line in textwrap.wrap(text, letters)]


def _height(kernel: Mapping[str, Any]) -> int:
    return CARD_HEIGHT + LINE_HEIGHT * len(_wrapped(nic_faults(kernel), _CARD_LETTERS))


def _card(kernel: Mapping[str, Any], x: float, y: float) -> str:
    faults = _wrapped(nic_faults(kernel), _CARD_LETTERS)
    cut = nic_is_cut(kernel)
    height = _height(kernel)
    left, top = x - CARD_WIDTH / 2, y - height / 2
    lights = {"online": "online", "starting": "busy", "stopping": "busy", "failed": "failed"}
    light = lights.get(kernel["state"], "off")
    used, limit = kernel["memory_used_bytes"], memory_text(kernel)
    memory = f"{used / (1 << 20):.1f} of {limit}" if used and kernel["memory_bytes"] else limit
    return "\n".join(
        [
            f'<rect class="card{" cut" if cut else " bad" if faults else ""}" x="{left:.1f}" y="{top:.1f}" '
            f'width="{CARD_WIDTH}" height="{height}" rx="9"/>',
            f'<circle class="{light}" cx="{left + 17:.1f}" cy="{top + 19:.1f}" r="5"/>',
            _text(left + 30, top + 24, kernel["name"], "name", "start"),
            _text(left + CARD_WIDTH - 12, top + 24, kernel["state"], "small", "end"),
            _text(left + 14, top + 43, str(kernel["ipv4"]), "", "start"),
            _text(left + 14, top + 58, f"CPUs {kernel['cpus']} · {memory}", "small", "start"),
            _text(left + 14, top + 73, f"{kernel['mac']} · MTU {kernel['mtu']}", "small", "start"),
            *(
                _text(left + 14, top + 88 + LINE_HEIGHT * n, line, "cut-text" if cut else "bad-text", "start")
                for n, line in enumerate(faults)
            ),
        ]
    )


def _text(x: float, y: float, words: str, style: str, anchor: str) -> str:
    chosen = f' class="{style}"' if style else ""
    return f'<text{chosen} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
