"""Probes: an answer, a reason or silence comes back, and nothing of the host has changed."""

import os
from pathlib import Path

import pytest

from popnet.core.errors import Unavailable
from popnet.kernel import probe
from popnet.kernel.probe import ProbeFailed, in_child
from tests.children import Forks


def raises(error: BaseException) -> str:
    raise error


def test_answer_comes_from_another_process() -> None:
    assert int(in_child(lambda: str(os.getpid()))) != os.getpid()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(1, "Operation not permitted"), "Operation not permitted"),
        (OSError("changed"), "changed"),
        (Unavailable("no TAP", "buy one"), "no TAP"),
    ],
)
def test_reason_of_a_refusal(error: Exception, reason: str) -> None:
    with pytest.raises(ProbeFailed, match=f"^{reason}$"):
        in_child(lambda: raises(error))


def test_our_bug_in_a_child_is_an_error_and_no_answer(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ProbeFailed, match="without an answer"):
        in_child(lambda: raises(ZeroDivisionError()))


def test_child_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_TIMEOUT_S", 0.01)
    never, ends = os.pipe()
    forks = Forks(monkeypatch)
    with pytest.raises(ProbeFailed, match="too long"):
        in_child(lambda: str(os.read(never, 1)))
    os.close(never)
    os.close(ends)
    forks.assert_reaped()


@pytest.mark.parametrize(
    "action",
    [probe.user_namespace, probe.kinds_of_namespaces, probe.tap, probe.overlay, probe.overlay_of_user],
)
def test_nothing_of_the_host_changes(action: object) -> None:
    def host() -> list[str]:
        kinds = [str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("user", "mnt", "net", "pid")]
        mounts = Path("/proc/self/mountinfo").read_text()
        interfaces = sorted(entry.name for entry in Path("/sys/class/net").iterdir())
        return [*kinds, mounts, *interfaces, str(Path("/tmp/lower").exists())]

    before = host()
    try:
        in_child(action)  # type: ignore[arg-type]
    except ProbeFailed as error:
        assert str(error)
    assert host() == before
