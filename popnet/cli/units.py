"""Numbers as people read them: bytes, durations, clock times."""

from datetime import datetime


def size_text(size_bytes: int | None) -> str:
    """`512M`, `1.5G`, `900K`; `-` for None."""
    if size_bytes is None:
        return "-"
    value = float(size_bytes)
    unit = "B"
    for larger in "KMGT":
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f}{unit}" if value >= 10 or value == int(value) else f"{value:.1f}{unit}"


def duration_text(seconds: float | None) -> str:
    """`12ms`, `3.2s`, `2m10s`, `1h02m`, `3d4h`; `-` for None."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"


def milliseconds_text(milliseconds: float) -> str:
    """`0.42 ms`, `8.1 ms`, `41 ms`: three digits say enough."""
    digits = 2 if milliseconds < 0.995 else 1 if milliseconds < 9.95 else 0
    return f"{milliseconds:.{digits}f} ms"


def clock_text(time_s: float) -> str:
    """A point in time (seconds since 1970) as local `HH:MM:SS.mmm`."""
    return datetime.fromtimestamp(time_s).strftime("%H:%M:%S.%f")[:-3]
