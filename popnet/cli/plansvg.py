"""A split of a machine as a picture: SVG, written by hand. Pure: a plan in, text out.

A panel for each NUMA node: its cores as boxes of hardware threads, in the colour of the kernel that has
them, those that share a last cache close together; below, its memory by address, hatched where nobody
has it, and with a gap where there is none.
"""

import colorsys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from popnet.cli.plandraw import owners
from popnet.machine.memory import Memory, Range, common, total
from popnet.machine.topology import summary
from popnet.machine.units import approximate_size, format_cpus

if TYPE_CHECKING:
    from popnet.machine.planner import Plan, Share
    from popnet.machine.topology import Core

WIDTH: Final = 980
MARGIN: Final = 16
THREAD: Final = 26
"""Side of the square of a hardware thread, in pixels."""

BAR: Final = 30
INK: Final = "#23282d"
FAINT: Final = "#667078"
FREE: Final = "url(#free)"

_GOLDEN: Final = 0.6180339887
"""Steps of this part of the circle give hues that differ as much as can be, however many there are."""


def svg(plan: "Plan") -> str:
    """The picture of *plan*."""
    colours = {share.name: _colour(n) for n, share in enumerate(plan.shares)}
    parts: list[str] = []
    y = 74.0
    for node in plan.topology.nodes:
        cores = [core for core in plan.topology.in_order() if core.node == node.number]
        text = f"NUMA node {node.number}: {len(cores)} cores, {approximate_size(total(node.memory))}"
        parts.append(_text(MARGIN, y, text, size=14, bold=True))
        drawn, y = _cores(plan, cores, colours, y + 10)
        parts += drawn
        if node.memory:
            parts += _memory(node.memory, plan.shares, colours, y + 6)
            y += BAR + 26
        y += 30
    legend, y = _legend(plan, colours, y)
    size = f'width="{WIDTH}" height="{y:.0f}"'
    font = 'font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="12"'
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {WIDTH} {y:.0f}" {font}>',
        '<defs><pattern id="free" width="6" height="6" patternUnits="userSpaceOnUse">',
        '<rect width="6" height="6" fill="#f4f5f6"/><path d="M0 6L6 0" stroke="#c3c9ce"/></pattern></defs>',
        f'<rect {size} fill="white"/>',
        _text(MARGIN, 28, f"{plan.policy}: {len(plan.shares)} kernels", size=18, bold=True),
        _text(MARGIN, 48, summary(plan.topology), colour=FAINT),
    ]
    return "\n".join([*head, *parts, *legend, "</svg>"]) + "\n"


def _cores(
    plan: "Plan", cores: "Sequence[Core]", colours: dict[str, str], y: float
) -> tuple[list[str], float]:
    """The cores of a node, in rows, and where they end."""
    parts: list[str] = []
    x, height = float(MARGIN), THREAD + 8
    before = None
    for core in cores:
        cache = plan.topology.last_cache(core.cpus[0])
        width = THREAD * len(core.cpus) + 6
        x += 12 if before is not None and cache != before else 0
        if x + width > WIDTH - MARGIN:
            x, y = MARGIN, y + height + 4
        before = cache
        parts.append(_box(x, y, width, THREAD + 6, "white", stroke=FAINT, radius=3))
        for n, cpu in enumerate(core.cpus):
            parts += _thread(plan, cpu, colours, x + 3 + n * THREAD, y + 3)
        x += width + 4
    return parts, y + height


def _thread(plan: "Plan", cpu: int, colours: dict[str, str], x: float, y: float) -> Iterator[str]:
    """A hardware thread in the colours of those who have it, side by side, with its number."""
    having = owners(plan.shares, cpu)
    if not having:
        yield _box(x + 1, y + 1, THREAD - 2, THREAD - 2, FREE)
    for n, share in enumerate(having):
        part = (THREAD - 2) / len(having)
        yield _box(x + 1 + n * part, y + 1, part, THREAD - 2, colours[share.name])
    yield _text(x + THREAD / 2, y + THREAD / 2 + 4, str(cpu), size=10, middle=True)


def _memory(memory: Memory, shares: "Sequence[Share]", colours: dict[str, str], y: float) -> list[str]:
    first, last = memory[0].start, memory[-1].end
    scale = (WIDTH - 2 * MARGIN) / (last - first)

    def bar(one: Range, fill: str) -> str:
        left = MARGIN + (one.start - first) * scale
        return _box(left, y, one.size_bytes * scale, BAR, fill, stroke="white")

    parts = [bar(one, FREE) for one in memory]
    for share in shares:
        for one in common(share.memory, memory):
            parts.append(bar(one, colours[share.name]))
            middle = MARGIN + ((one.start + one.end) / 2 - first) * scale
            if one.size_bytes * scale > 8 * len(share.name) + 4:
                parts.append(_text(middle, y + BAR / 2 + 4, share.name, size=11, middle=True))
    for address, anchor in ((first, "start"), (last, "end")):
        x = MARGIN if anchor == "start" else WIDTH - MARGIN
        parts.append(_text(x, y + BAR + 14, approximate_size(address), size=10, colour=FAINT, anchor=anchor))
    for before, after in pairwise(memory):
        place = MARGIN + ((before.end + after.start) / 2 - first) * scale
        middle = min(max(place, MARGIN + 40), WIDTH - MARGIN - 60)  # beside the addresses at both ends
        parts.append(_text(middle, y + BAR + 14, "hole", size=10, colour=FAINT, middle=True))
    return parts


def _legend(plan: "Plan", colours: dict[str, str], y: float) -> tuple[list[str], float]:
    """Who has which colour, in columns, and where that ends."""
    columns, row = 3, 20
    width = (WIDTH - 2 * MARGIN) / columns
    parts = []
    for n, share in enumerate(plan.shares):
        x, top = MARGIN + n % columns * width, y + n // columns * row
        size = approximate_size(share.memory_bytes) if share.memory_bytes is not None else "no limit"
        parts.append(_box(x, top - 11, 14, 14, colours[share.name]))
        text = f"{share.name}: CPUs {format_cpus(share.cpus)}, {size}"
        limit = int(width / 7)
        parts.append(_text(x + 20, top, text if len(text) <= limit else text[: limit - 1] + "…"))
    y += -(-len(plan.shares) // columns) * row
    parts += [_box(MARGIN, y - 11, 14, 14, FREE), _text(MARGIN + 20, y, "the host's, or nobody's")]
    return parts, y + 20


def _colour(n: int) -> str:
    light = (0.72, 0.60, 0.80)[n % 3]
    red, green, blue = colorsys.hls_to_rgb((0.55 + n * _GOLDEN) % 1.0, light, 0.65)
    return f"#{int(red * 255):02x}{int(green * 255):02x}{int(blue * 255):02x}"


def _box(
    x: float, y: float, width: float, height: float, fill: str, stroke: str = "none", radius: float = 0
) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius}" '
        f'fill="{fill}" stroke="{stroke}"/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    size: int = 12,
    bold: bool = False,
    colour: str = INK,
    middle: bool = False,
    anchor: str = "start",
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    anchor = "middle" if middle else anchor
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}"{weight} fill="{colour}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )
