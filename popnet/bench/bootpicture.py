"""A measurement of boots as a picture: SVG, bars on logarithmic axes as in `picture`, a row for each count.

Left: milliseconds until all are ready. Right: memory of each. Shorter is better. Pure: document in, text out.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from popnet.bench.picture import (
    GAP,
    LABEL,
    NUMBER,
    OTHERS,
    OURS,
    PANEL_TOP,
    PLOT,
    ROW,
    TOP,
    Axis,
    text_at,
)

PANELS: Final = (("ready_ms", "until all are ready, ms"), ("pss_mib", "memory of each, MiB (PSS)"))
WIDTH: Final = LABEL + len(PANELS) * (PLOT + NUMBER) + GAP


def svg(document: Mapping[str, Any]) -> str:
    """The picture of what `bootrounds.measure` returned."""
    parts: list[str] = []
    y = TOP
    for count in sorted({item["kernels"] for item in document["items"]}):
        items = [item for item in document["items"] if item["kernels"] == count]
        items.sort(key=lambda item: item["figures"]["ready_ms"]["median"])
        parts += _panels(items, count, y)
        y += PANEL_TOP + ROW * len(items) + 32
    host = document["host"]
    where = f"{host['cpu']}, Linux {host['linux']}, load {host['load']:.1f}"
    how = f"medians of {document['rounds']} interleaved rounds; shorter is better"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" '
            f'viewBox="0 0 {WIDTH} {y}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" '
            'font-size="12">',
            f'<rect width="{WIDTH}" height="{y}" fill="white"/>',
            text_at(12, 26, "Boots", size=18, bold=True),
            text_at(12, 46, f"{where}; {how}", colour="#555b61"),
            *parts,
            "</svg>",
        ]
    )


def _panels(items: Sequence[Mapping[str, Any]], count: int, y: int) -> list[str]:
    top = y + PANEL_TOP
    parts = [text_at(12, y + 24, f"{count} kernel{'s' * (count > 1)}", size=15, bold=True)]
    for column, (figure, title) in enumerate(PANELS):
        left = LABEL + column * (PLOT + NUMBER + GAP)
        axis = Axis(left, (item["figures"][figure]["median"] for item in items))
        parts.append(text_at(left, y + 24, title, bold=True))
        parts += axis.grid(top, top + ROW * len(items), lambda value: f"{value:g}")
        for number, item in enumerate(items):
            value = item["figures"][figure]["median"]
            middle = top + number * ROW + ROW / 2
            ours = item["peer"].startswith("popnet")
            if not column:
                parts.append(text_at(LABEL - 10, middle + 4, item["name"], anchor="end", bold=ours))
            if value > 0:
                parts += axis.bar(value, middle, OURS if ours else OTHERS)
            parts.append(text_at(left + PLOT + 8, middle + 4, f"{value:.3g}"))
    return parts
