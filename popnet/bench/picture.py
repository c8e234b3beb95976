"""A measurement as a picture: bars on a logarithmic axis, one panel a size; SVG, written by hand.

Left: microseconds one way, the bar up to the median and a whisker to the 99th percentile; shorter is better.
Right: messages a second; longer is better. Pure: a document in, text out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from xml.sax.saxutils import escape

ROW: Final = 20
LABEL: Final = 280
PLOT: Final = 380
NUMBER: Final = 95
"""Widths in pixels: of names, of an axis, and of the figure to the right of its bars."""

GAP: Final = 20
TOP: Final = 64
PANEL_TOP: Final = 56

OURS: Final = "#0b6e99"
OTHERS: Final = "#a9b2ba"
WHISKER: Final = "#33383d"
GRID: Final = "#e3e6e8"


def svg(document: Mapping[str, Any]) -> str:
    """The picture of what `rounds.measure` returned."""
    sizes = sorted({item["size"] for item in document["items"]})
    width = LABEL + 2 * (PLOT + NUMBER) + GAP
    parts: list[str] = []
    y = TOP
    for size in sizes:
        items = sorted(
            (item for item in document["items"] if item["size"] == size),
            key=lambda item: item["one_way_us"]["p50"],
        )
        parts += _panel(items, size, y)
        y += PANEL_TOP + ROW * len(items) + 32
    host = document["host"]
    where = f"{host['cpu']}, Linux {host['linux']}, Python {host['python']}; CPUs {host['cpus'] or 'any'}"
    how = f"medians of {document['rounds']} interleaved rounds; dark tick: 99th percentile"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" '
            f'viewBox="0 0 {width} {y}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" '
            'font-size="12">',
            f'<rect width="{width}" height="{y}" fill="white"/>',
            text_at(12, 26, "Messages between two processes", size=18, bold=True),
            text_at(12, 46, f"{where}; {how}", colour="#555b61"),
            *parts,
            "</svg>",
        ]
    )


def _panel(items: Sequence[Mapping[str, Any]], size: int, y: int) -> list[str]:
    rated = [item for item in items if item["messages_per_s"]]
    ways = Axis(
        LABEL, (value for item in items for value in (item["one_way_us"]["p50"], item["one_way_us"]["p99"]))
    )
    rates = Axis(LABEL + PLOT + NUMBER + GAP, (item["messages_per_s"]["median"] for item in rated))
    top = y + PANEL_TOP
    bottom = top + ROW * len(items)
    parts = [
        text_at(12, y + 24, size_text(size), size=15, bold=True),
        text_at(ways.left, y + 24, "one way, µs (shorter is better)", bold=True),
        text_at(rates.left, y + 24, "messages a second (longer is better)", bold=True),
        *ways.grid(top, bottom, lambda value: f"{value:g}"),
        *rates.grid(top, bottom, count_text),
    ]
    for row, item in enumerate(items):
        middle = top + row * ROW + ROW / 2
        ours = item["wire"].startswith("popnet")
        colour = OURS if ours else OTHERS
        mode = "" if item["mode"] == "blocking" else f" · {item['mode']}"
        parts.append(text_at(LABEL - 10, middle + 4, item["name"] + mode, anchor="end", bold=ours))
        way = item["one_way_us"]
        parts += ways.bar(way["p50"], middle, colour)
        parts += ways.whisker(way["p50"], way["p99"], middle)
        parts.append(text_at(ways.left + PLOT + 8, middle + 4, _way_text(way["p50"])))
        if item["messages_per_s"]:
            rate = item["messages_per_s"]["median"]
            parts += rates.bar(rate, middle, colour)
            parts.append(text_at(rates.left + PLOT + 8, middle + 4, count_text(rate)))
    return parts


class Axis:
    """A logarithmic axis over whole decades; bars begin at its left end."""

    def __init__(self, left: int, values: Iterable[float], width: int = PLOT) -> None:
        known = [value for value in values if value > 0] or [1.0]
        self.left, self.width = left, width
        self._low = math.floor(math.log10(min(known) * 0.8))
        self._high = max(math.ceil(math.log10(max(known))), self._low + 1)

    def at(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self.left + self.width * min(max(share, 0.0), 1.0)

    def grid(self, top: float, bottom: float, text: Any) -> list[str]:
        parts = []
        for power in range(self._low, self._high + 1):
            x = self.at(10.0**power)
            parts.append(f'<path d="M{x:.1f} {top}V{bottom}" stroke="{GRID}"/>')
            parts.append(text_at(x, top - 8, text(10.0**power), anchor="middle", colour="#555b61"))
        return parts

    def bar(self, value: float, middle: float, colour: str) -> list[str]:
        width = self.at(value) - self.left
        return [
            f'<rect x="{self.left}" y="{middle - 7:.1f}" width="{width:.1f}" height="14" fill="{colour}"/>'
        ]

    def whisker(self, low: float, high: float, middle: float) -> list[str]:
        one, other = self.at(low), self.at(high)
        path = f"M{one:.1f} {middle:.1f}H{other:.1f}M{other:.1f} {middle - 4:.1f}v8"
        return [f'<path d="{path}" stroke="{WHISKER}" fill="none"/>']


def size_text(size: int) -> str:
    """Bytes as people say them."""
    return f"{size // 1024} KiB" if size % 1024 == 0 else f"{size} B"


def _way_text(microseconds: float) -> str:
    return f"{microseconds:.3g}" if microseconds < 100 else f"{microseconds:.0f}"


def count_text(count: float) -> str:
    """Three digits, with k or M for thousands and millions."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g} {letter}"
    return f"{count:.3g}"


def text_at(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    bold: bool = False,
    anchor: str = "start",
    colour: str = "",
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    fill = f' fill="{colour}"' if colour else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{weight}{fill}>'
        f"{escape(text)}</text>"
    )
