"""A measurement of networks as a picture: SVG, bars on logarithmic axes as in `picture`.

One panel for each figure and MTU, or of scale one for each number of kernels; popnet's bars are coloured.
Pure: a document in, text out.
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
    count_text,
    text_at,
)

PANELS: Final = {
    "tcp1_gbit": "TCP, one stream, Gbit/s (longer is better)",
    "tcp4_gbit": "TCP, four streams, Gbit/s (longer is better)",
    "tcp1_cpu_s_per_gb": "CPU seconds a gigabyte, one stream (shorter is better)",
    "udp64_clean_kpps": "64-byte datagrams, 1000/s, < 0.1 % lost (longer is better)",
    "udp1472_clean_kpps": "1472-byte datagrams, 1000/s, < 0.1 % lost (longer is better)",
    "trip_p50_us": "request and answer, µs, p50 (shorter is better)",
    "trip_p99_us": "request and answer, µs, p99 (shorter is better)",
    "total_gbit": "all pairs at once, Gbit/s in total (longer is better)",
    "total_cpu_s_per_gb": "CPU seconds a gigabyte (shorter is better)",
}
SHORTER_FIRST: Final = ("_us", "_cpu_s_per_gb")
WIDTH: Final = LABEL + 2 * (PLOT + NUMBER) + GAP


def svg(document: Mapping[str, Any]) -> str:
    """The picture of what `netrounds.measure` or `netscale.measure` returned: two columns of panels a row."""
    scale = document["kind"] == "NetScaleBench"
    parts: list[str] = []
    y = TOP
    for key in sorted({item["kernels" if scale else "mtu"] for item in document["items"]}):
        items = [item for item in document["items"] if item["kernels" if scale else "mtu"] == key]
        title = f"{key} kernels" if scale else f"MTU {key}"
        names = [name for name in PANELS if any(name in item["figures"] for item in items)]
        for pair in (names[i : i + 2] for i in range(0, len(names), 2)):
            heights = []
            for column, name in enumerate(pair):
                panel, height = _panel(items, name, title, column, y)
                parts += panel
                heights.append(height)
            y += max(heights)
    host = document["host"]
    where = f"{host['cpu']}, Linux {host['linux']}, load {host['load']:.1f}"
    how = f"medians of {document['rounds']} interleaved rounds; dark line: all rounds"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" '
            f'viewBox="0 0 {WIDTH} {y}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" '
            'font-size="12">',
            f'<rect width="{WIDTH}" height="{y}" fill="white"/>',
            text_at(12, 26, "Networks between namespaces", size=18, bold=True),
            text_at(12, 46, f"{where}; {how}", colour="#555b61"),
            *parts,
            "</svg>",
        ]
    )


def _panel(
    items: Sequence[Mapping[str, Any]], name: str, title: str, column: int, y: int
) -> tuple[list[str], int]:
    """The parts of a panel, best first, and its height. A figure of 0 has no place on its axis."""
    shown = [item for item in items if item["figures"].get(name, {}).get("median")]
    shown.sort(key=lambda item: item["figures"][name]["median"], reverse=not name.endswith(SHORTER_FIRST))
    left = column * (WIDTH // 2)
    rounds = {item["wire"]: [one[name] for one in item["rounds"] if one.get(name)] for item in shown}
    axis = Axis(left + LABEL // 2, (value for values in rounds.values() for value in values), PLOT - 60)
    top, height = y + PANEL_TOP, PANEL_TOP + ROW * len(shown) + 32
    parts = [
        text_at(left + 12, y + 24, f"{title}: {PANELS[name]}", bold=True),
        *axis.grid(top, top + ROW * len(shown), count_text),
    ]
    for row, item in enumerate(shown):
        middle = top + row * ROW + ROW / 2
        ours, median = item["wire"] == "popnet", item["figures"][name]["median"]
        parts.append(text_at(axis.left - 8, middle + 4, item["name"], anchor="end", bold=ours))
        parts += axis.bar(median, middle, OURS if ours else OTHERS)
        parts += axis.whisker(min(rounds[item["wire"]]), max(rounds[item["wire"]]), middle)
        parts.append(text_at(axis.left + axis.width + 8, middle + 4, count_text(median)))
    return parts, height
