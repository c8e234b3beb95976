"""`doctor` and `gc`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from popnet.cli.host import check_lines
from popnet.cli.main import cli

OK = {"name": "python", "status": "ok", "detail": "3.11.7", "consequence": "", "fix": ""}
DEGRADED = {
    "name": "libpcap",
    "status": "degraded",
    "detail": "not installed",
    "consequence": "captures cannot be filtered",
    "fix": "Install libpcap0.8.",
}
MISSING = {**DEGRADED, "name": "tun", "status": "missing"}


def test_lines() -> None:
    assert [line.encode("ascii", "replace").decode() for line in check_lines([OK, DEGRADED], False)] == [
        "? python   3.11.7",
        "! libpcap  not installed",
        "           captures cannot be filtered",
        "           Install libpcap0.8.",
        "machines can run here: 1 ok, 1 degraded",
    ]
    assert check_lines([OK, MISSING], False)[-1] == "machines cannot run here: 1 missing"


def test_doctor_as_json(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["--run-dir", str(tmp_path), "doctor", "-o", "json"])
    document = json.loads(result.stdout)
    assert document["kind"] == "CheckList"
    assert set(document["items"][0]) == {"name", "status", "detail", "consequence", "fix"}
    assert result.exit_code == int(any(item["status"] == "missing" for item in document["items"]))


def test_gc_of_nothing(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["--run-dir", str(tmp_path / "none"), "gc"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "nothing is left behind\n")
    document = json.loads(CliRunner().invoke(cli, ["--run-dir", str(tmp_path), "gc", "-o", "json"]).stdout)
    assert document == {"apiVersion": "popnet/v1", "kind": "ResidueList", "items": []}


@pytest.mark.parametrize(
    ("done", "dry_run", "status"), [(True, False, 0), (False, False, 1), (False, True, 0)]
)
def test_gc_tells_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: bool, dry_run: bool, status: int
) -> None:
    asked = []

    def collect(run_dir: Path, dry: bool) -> list[dict[str, object]]:
        asked.append((run_dir, dry))
        reason = "" if done else "busy"
        return [{"machine": "demo", "kind": "cgroup", "what": "/x", "done": done, "reason": reason}]

    monkeypatch.setattr("popnet.kernel.gc.collect", collect)
    options = ["--dry-run"] if dry_run else []
    result = CliRunner().invoke(cli, ["--run-dir", str(tmp_path), "gc", *options])
    assert asked == [(tmp_path, dry_run)]
    assert result.exit_code == status
    assert ("removed" if done else "kept: busy") in result.stdout
