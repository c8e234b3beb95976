"""The boot of kernels drawn as bars: pure, timelines in, lines out.

A timeline is what the primary measured: [{"step": text, "start_ms": x, "took_ms": y}, …]. Bars are made of
eighths of a letter where the terminal can show them; where it cannot, of `#`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from popnet.cli.units import milliseconds_text

WIDTH: Final = 40
"""Letters of the widest bar."""

_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"


def span(timeline: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Start of the first and end of the last step, in ms; (0, 0) for an empty timeline."""
    if not timeline:
        return 0.0, 0.0
    return (
        min(step["start_ms"] for step in timeline),
        max(step["start_ms"] + step["took_ms"] for step in timeline),
    )


def bar(start: float, took: float, whole: float, width: int = WIDTH, fancy: bool = True) -> str:
    """A bar from *start*, *took* long, on an axis of *whole* (in one unit), padded to *width* letters."""
    if whole <= 0:
        return " " * width
    left = min(int(start / whole * width), width - 1)
    if not fancy:
        length = max(1, round(took / whole * width))
        return (" " * left + "#" * min(length, width - left)).ljust(width)
    eighths = max(1, min(round(took / whole * width * 8), (width - left) * 8))
    full, rest = divmod(eighths, 8)
    return (" " * left + "█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


def timeline_lines(timeline: Sequence[Mapping[str, Any]], fancy: bool = True) -> list[str]:
    """One line a step of one kernel's boot: name, bar on the axis of the whole boot, duration."""
    first, last = span(timeline)
    name_width = max((len(step["step"]) for step in timeline), default=0)
    return [
        f"{step['step']:<{name_width}}  "
        f"{bar(step['start_ms'] - first, step['took_ms'], last - first, fancy=fancy)}  "
        f"{milliseconds_text(step['took_ms']):>8}"
        for step in timeline
    ]


def machine_lines(timelines: Mapping[str, Sequence[Mapping[str, Any]]], fancy: bool = True) -> list[str]:
    """Each kernel's name, its steps as bars on an axis that all kernels share, from the moment that its boot
    was asked for, and a total; an empty line between two kernels."""
    known = {name: timeline for name, timeline in timelines.items() if timeline}
    whole = max((span(timeline)[1] for timeline in known.values()), default=0)
    width = max((len(step["step"]) for timeline in known.values() for step in timeline), default=0)
    lines: list[str] = []
    for name, timeline in known.items():
        lines += [""] if lines else []
        lines.append(f"{name}: online after {milliseconds_text(span(timeline)[1])}")
        for step in timeline:
            drawn = bar(step["start_ms"], step["took_ms"], whole, fancy=fancy)
            lines.append(f"  {step['step']:<{width}}  {drawn}  {milliseconds_text(step['took_ms']):>8}")
    return lines


def summary_line(timeline: Sequence[Mapping[str, Any]], most: int = 3) -> str:
    """The *most* expensive steps in words: `namespaces 8.1 ms, root 6.0 ms, …`."""
    slowest = sorted(timeline, key=lambda step: -float(step["took_ms"]))[:most]
    return ", ".join(f"{step['step']} {milliseconds_text(step['took_ms'])}" for step in slowest)


def boot_lines(timelines: Mapping[str, Sequence[Mapping[str, Any]]], fancy: bool = True) -> list[str]:
    """One line a kernel that booted: its name, its time as a bar on a common axis, and its slowest steps."""
    took = {name: span(timeline)[1] - span(timeline)[0] for name, timeline in timelines.items() if timeline}
    longest = max(took.values(), default=0)
    width = max(map(len, took), default=0)
    lines = []
    for name, took_ms in took.items():
        drawn = bar(0, took_ms, longest, WIDTH // 2, fancy)
        slowest = summary_line(timelines[name])
        lines.append(f"{name:<{width}}  {drawn}  {milliseconds_text(took_ms):>8}  {slowest}")
    return lines


def fancy_ok(encoding: str | None) -> bool:
    """Whether a stream of this encoding can show the block letters."""
    try:
        "█✓".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
