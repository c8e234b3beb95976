"""Producer and consumer in two threads, with real sleeps at real doorbells, under ThreadSanitizer."""

from pathlib import Path

import pytest

from tests.native.building import RACES, build, run

RECORDS = 10000


def test_no_race_and_no_lost_wake_up(tmp_path: Path) -> None:
    done = run(build(tmp_path / "threads", "threads", *RACES), RECORDS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{RECORDS} records")


@pytest.mark.parametrize("broken", ["PLAIN_WORD", "WEAKEN_ACQUIRE", "WEAKEN_RELEASE"])
def test_a_race_is_seen(tmp_path: Path, broken: str) -> None:
    """A word that is not atomic; loads that do not acquire; stores that do not release."""
    done = run(build(tmp_path / "broken", "threads", *RACES, f"-D{broken}"), 3000)
    assert done.returncode != 0
    assert "ThreadSanitizer: data race" in done.stderr
