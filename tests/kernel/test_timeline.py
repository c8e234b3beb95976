"""The steps of a boot, and those that a kernel tells."""

from typing import Any

import pytest

from popnet.core.errors import LinkViolation
from popnet.kernel.timeline import STEPS_MAX, Timeline, checked_rows


def test_each_step_starts_where_the_last_ended() -> None:
    timeline = Timeline(0.0)
    first, second = timeline.done("fork"), timeline.done("init")
    assert first.start_s == 0.0
    assert second.start_s == first.end_s <= second.end_s
    beside = timeline.done("root", start_s=first.end_s)
    assert beside.start_s == first.end_s
    rows = timeline.rows()
    assert [row["step"] for row in rows] == ["fork", "init", "root"]
    assert rows[0] == {"step": "fork", "start_ms": 0.0, "took_ms": round(first.end_s * 1e3, 3)}
    assert checked_rows(rows) == rows


def test_what_a_kernel_tells_is_bounded_and_nothing_else_is_kept() -> None:
    row = {"step": "s" * 1000, "start_ms": 1, "took_ms": 2.5, "more": "x"}
    rows = checked_rows([row] * 1000)
    assert len(rows) == STEPS_MAX
    assert rows[0] == {"step": "s" * 64, "start_ms": 1, "took_ms": 2.5}


@pytest.mark.parametrize("row", [None, 5, [], {}, {"step": 1, "start_ms": 0, "took_ms": 0}, {"step": "x"}])
def test_what_is_no_step(row: Any) -> None:
    with pytest.raises(LinkViolation, match="no step of a boot"):
        checked_rows([row])
