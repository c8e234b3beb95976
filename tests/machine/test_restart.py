"""Restart policies: who is booted again, after how long, and when it is given up."""

import pytest

from popnet.machine.restart import FAILURES_MAX, STABLE_S, GiveUp, Record, RestartIn, failed, online

CLEAN = "init exited with status 0"
CRASH = "killed by SIGKILL"


@pytest.mark.parametrize(
    ("policy", "reason", "again"),
    [
        ("never", CRASH, False),
        ("never", CLEAN, False),
        ("on-failure", CRASH, True),
        ("on-failure", CLEAN, False),
        ("on-failure", "init exited with status 1", True),
        ("always", CRASH, True),
        ("always", CLEAN, True),
    ],
)
def test_policies(policy: str, reason: str, again: bool) -> None:
    _, decision = failed(Record(), policy, reason, 0.0)
    assert isinstance(decision, RestartIn) is again
    assert again or decision is None


def test_pauses_double_and_a_crash_loop_is_given_up_with_its_reason() -> None:
    record, pauses = Record(), []
    for now_s in range(FAILURES_MAX):
        record, decision = failed(online(record, float(now_s)), "always", CRASH, now_s + 0.5)
        assert isinstance(decision, RestartIn)
        pauses.append(decision.pause_s)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0]
    record, decision = failed(record, "always", CRASH, 99.0)
    assert decision == GiveUp(f"given up after 5 restarts in a row: {CRASH}")
    assert record == Record(), "whoever boots it by hand starts anew"


def test_a_kernel_that_was_online_for_long_fails_for_the_first_time_again() -> None:
    tired = Record(failures=4)
    record, _ = failed(online(tired, 0.0), "always", CRASH, STABLE_S)
    assert record.failures == 1
    record, _ = failed(online(tired, 0.0), "always", CRASH, STABLE_S - 1)
    assert record.failures == 5
