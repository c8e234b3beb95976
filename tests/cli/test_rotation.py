"""When a file of a ring is full, and what files are called."""

import pytest

from popnet.cli.rotation import Rotation, file_name, parse_rotation


@pytest.mark.parametrize(
    ("words", "rotation"),
    [
        (("100M",), Rotation(100 << 20)),
        (("60s",), Rotation(None, 60 * 10**9)),
        (("2m", "1G"), Rotation(1 << 30, 120 * 10**9)),
        (("1h",), Rotation(None, 3600 * 10**9)),
        (("256K",), Rotation(256 << 10)),
    ],
)
def test_sizes_and_durations(words: tuple[str, ...], rotation: Rotation) -> None:
    assert parse_rotation(words, None) == rotation


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("100",), "'100'; allowed: a size such as 100M"),
        (("255K",), "at least 256K"),
        (("500ms",), "at least 1s"),
        (("often",), "'often'"),
        (("1G", "2G"), "two sizes, '2G' last"),
        (("1s", "2s"), "two durations, '2s' last"),
    ],
)
def test_what_is_neither(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_rotation(words, None)


def test_room() -> None:
    assert Rotation(1000).room(400, 10**18) == 600
    assert Rotation(1000).room(1400, 0) == 0
    assert Rotation(None, 60).room(10**9, 59) is None
    assert Rotation(1000, 60).room(10, 60) == 0


def test_names_are_those_of_dumpcap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    import time

    time.tzset()
    assert file_name("/tmp/x/k1.pcapng", 7, 1_700_000_000.9) == "/tmp/x/k1_00007_20231114221320.pcapng"
    assert file_name("k1", 100_000, 1_700_000_000) == "k1_100000_20231114221320"
