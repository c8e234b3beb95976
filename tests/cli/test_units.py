"""Numbers as people read them."""

import pytest

from popnet.cli.units import duration_text, milliseconds_text, size_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "-"),
        (0, "0B"),
        (1023, "1023B"),
        (512 << 20, "512M"),
        (1536 << 20, "1.5G"),
        (900 << 10, "900K"),
        (3 << 40, "3T"),
    ],
)
def test_size(size: int | None, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.012, "12ms"),
        (0.9999, "1.0s"),
        (3.21, "3.2s"),
        (59.99, "1m00s"),
        (130, "2m10s"),
        (3720, "1h02m"),
        (273600, "3d4h"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0.42, "0.42 ms"),
        (9.96, "10 ms"),
        (0.999, "1.0 ms"),
        (8.14, "8.1 ms"),
        (41.4, "41 ms"),
        (1234.5, "1234 ms"),
    ],
)
def test_milliseconds(ms: float, text: str) -> None:
    assert milliseconds_text(ms) == text
