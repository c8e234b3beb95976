"""The doctor: every check tells what it found, and one that is not well, what it means and how to mend it."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from popnet.core.errors import Unavailable
from popnet.kernel import doctor, probe
from popnet.kernel.doctor import Check, run_checks
from popnet.kernel.host import ControlGroups
from popnet.machine.host import Host


def fails(*_: object) -> str:
    raise probe.ProbeFailed("Operation not permitted")


def complete(check: Check) -> bool:
    return bool(check.name and check.detail) and (check.status == "ok") == (
        not check.consequence and not check.fix
    )


def test_every_check_is_complete(tmp_path: Path) -> None:
    checks = run_checks(tmp_path)
    assert all(complete(check) for check in checks)
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    assert {"python", "user namespaces", "TAP offloads", "control groups", "ssh", "left behind"} <= set(names)


def test_main_prints_json() -> None:
    run = subprocess.run([sys.executable, "-m", "popnet.kernel.doctor"], capture_output=True, check=True)
    rows = json.loads(run.stdout)
    assert {"name", "status", "detail", "consequence", "fix"} == set(rows[0])
    assert run.stderr == b""


@pytest.mark.parametrize(
    ("check", "status"),
    [
        (doctor._tap, "missing"),
        (doctor._user_namespaces, "missing"),
        (doctor._namespaces, "missing"),
        (doctor._overlay, "degraded"),
    ],
)
def test_probes_that_fail(check: Callable[[], Check], status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "in_child", fails)
    found = check()
    assert (found.status, found.detail) == (status, "Operation not permitted")
    assert complete(found)


@pytest.mark.parametrize("check", [doctor._user_namespaces, doctor._overlay])
def test_what_only_root_can_do(check: Callable[[], Check], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    ordinary = (probe.user_namespace_of_nobody, probe.overlay_of_user)
    monkeypatch.setattr(probe, "in_child", lambda action: fails() if action in ordinary else "")
    found = check()
    assert found.status == "degraded"
    assert "an ordinary user cannot: Operation not permitted" in found.detail
    assert complete(found)


@pytest.mark.parametrize(
    ("offloads", "status"), [("csum tso4 uso4", "ok"), ("csum tso4", "degraded"), ("", "degraded")]
)
def test_offloads(offloads: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "in_child", lambda _: offloads)
    assert doctor._tap().status == status
    assert complete(doctor._tap())


def test_missing_kinds_of_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "in_child", lambda _: "ipc (Invalid argument)")
    assert doctor._namespaces().detail == "not available: ipc (Invalid argument)"


@pytest.mark.parametrize(
    ("error", "words"), [(FileNotFoundError(), "modprobe"), (PermissionError(), "chmod")]
)
def test_no_tun(error: OSError, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise error

    monkeypatch.setattr(os, "open", refuse)
    found = doctor._tun()
    assert found.status == "missing"
    assert words in found.fix


@pytest.mark.parametrize(
    ("delegated", "words"),
    [({"cpuset"}, "memory is not limited"), ({"memory"}, "affinity"), (set(), "affinity")],
)
def test_control_groups_that_are_not_ours(
    delegated: set[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "control_groups", lambda: ControlGroups(2, {}, frozenset(delegated)))
    found = doctor._control_groups()
    assert found.status == "degraded"
    assert words in found.consequence
    assert complete(found)


def test_small_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "read_host", lambda: Host((0,), 1 << 20))
    assert doctor._resources().status == "degraded"


def test_few_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 4096))
    assert doctor._open_files().status == "degraded"


def test_no_busybox(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> object:
        raise Unavailable("image light needs the program 'busybox'", "install it")

    monkeypatch.setattr(doctor.ramdisk, "find_program", refuse)
    assert doctor._light_image() == Check(
        "image light",
        "degraded",
        "image light needs the program 'busybox'",
        "light kernels do not boot",
        "install it",
    )


def test_no_program() -> None:
    found = doctor._program("popnet-no-such-program", "nothing", "nothing is lost")
    assert (found.status, found.fix) == ("degraded", "Install nothing (apt install nothing).")


def test_dead_machine_is_named(tmp_path: Path) -> None:
    assert doctor._left_behind(tmp_path).status == "ok"
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "lock").touch()
    found = doctor._left_behind(tmp_path)
    assert (found.status, found.fix) == ("degraded", "Run `popnet gc`.")
    assert "lab" in found.detail
    assert (tmp_path / "lab" / "lock").exists()


def test_setting_that_forbids_user_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: "userns_clone" in str(self))
    monkeypatch.setattr(Path, "read_text", lambda _: "0\n")
    assert doctor._allow_user_namespaces() == "Run, as root: sysctl -w kernel.unprivileged_userns_clone=1"


def test_views_without_fuse_are_degraded_and_say_how_to_mend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "in_child", fails)
    found = doctor._views()
    assert (found.status, found.detail) == ("degraded", "no FUSE: Operation not permitted")
    assert complete(found)
    assert "modprobe fuse" in found.fix
    monkeypatch.setattr(probe, "in_child", lambda action: "")
    assert complete(doctor._views())
