"""The boots of a machine's kernels as a picture: SVG, written by hand. Pure: timelines in, text out.

A row for each kernel, on one axis of milliseconds since its boot was asked for. Each step is a box in its own
colour, wide enough to read its length off the axis; hovering over one shows its name and its length.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from xml.sax.saxutils import escape

from popnet.cli.bars import span
from popnet.cli.units import milliseconds_text

LABEL: Final = 120
PLOT: Final = 780
NUMBER: Final = 80
"""Widths in pixels: of kernels' names, of the axis, and of the figure to its right."""

ROW: Final = 22
TOP: Final = 76
LEGEND_ROW: Final = 20
LEGEND_COLUMN: Final = 150

COLOURS: Final = (
    *("#0b6e99", "#e0902b", "#5a9e46", "#b5483a", "#7a62a8", "#3aa6a0"),
    *("#c46a9b", "#8a7550", "#5c6f7f", "#b3ad3a", "#2f4f8a", "#8fbf8a"),
)
GRID: Final = "#e3e6e8"
FAINT: Final = "#555b61"


def svg(timelines: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The picture of *timelines*, a row a kernel in their order; those without a timeline are left out."""
    known = {name: timeline for name, timeline in timelines.items() if timeline}
    names = list(dict.fromkeys(step["step"] for timeline in known.values() for step in timeline))
    colours = {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(names)}
    whole = max((span(timeline)[1] for timeline in known.values()), default=1.0) or 1.0
    bottom = TOP + ROW * len(known)
    legend_rows = -(-len(names) // (PLOT // LEGEND_COLUMN))
    width, height = LABEL + PLOT + NUMBER, bottom + 20 + LEGEND_ROW * (legend_rows + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" '
        'font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="12" y="26" font-size="18" font-weight="bold">Boot of {len(known)} kernels</text>',
        f'<text x="12" y="46" fill="{FAINT}">milliseconds since each boot was asked for</text>',
    ]
    for value in _ticks(whole):
        x = LABEL + value / whole * PLOT
        parts.append(f'<path d="M{x:.1f} {TOP - 4}V{bottom}" stroke="{GRID}"/>')
        parts.append(f'<text x="{x:.1f}" y="{TOP - 10}" text-anchor="middle" fill="{FAINT}">{value:g}</text>')
    for row, (name, timeline) in enumerate(known.items()):
        parts += _row(name, timeline, TOP + row * ROW, whole, colours)
    per_row = PLOT // LEGEND_COLUMN
    for n, name in enumerate(names):
        x, y = LABEL + n % per_row * LEGEND_COLUMN, bottom + 24 + n // per_row * LEGEND_ROW
        parts.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colours[name]}"/>')
        parts.append(f'<text x="{x + 18}" y="{y + 10}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _row(
    name: str, timeline: Sequence[Mapping[str, Any]], y: float, whole: float, colours: Mapping[str, str]
) -> list[str]:
    middle = y + ROW / 2
    parts = [f'<text x="{LABEL - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>']
    for step in timeline:
        x, width = LABEL + step["start_ms"] / whole * PLOT, max(step["took_ms"] / whole * PLOT, 0.5)
        title = escape(f"{step['step']}: {milliseconds_text(step['took_ms'])}")
        parts.append(
            f'<rect x="{x:.1f}" y="{y + 3:.1f}" width="{width:.1f}" height="{ROW - 6}" '
            f'fill="{colours[step["step"]]}"><title>{title}</title></rect>'
        )
    last = span(timeline)[1]
    x = LABEL + last / whole * PLOT + 6
    parts.append(f'<text x="{x:.1f}" y="{middle + 4:.1f}">{milliseconds_text(last)}</text>')
    return parts


def _ticks(whole: float) -> list[float]:
    """Four to ten round values from 0 up to *whole*."""
    step = 1e-3
    while True:
        for factor in (1, 2, 5):
            if whole / (step * factor) <= 10:
                return [n * step * factor for n in range(int(whole / (step * factor)) + 1)]
        step *= 10
