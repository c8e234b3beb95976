"""`run` and `service-unit`: what the process becomes, and the unit that runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from popnet.cli.main import cli
from popnet.cli.serviceunit import unit

OPTIONS = ["--log-format", "auto", "--log-level", "info"]


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the process would have become."""
    calls: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, words: calls.append([program, *words]))
    for name in list(os.environ):
        if name.startswith("POPNET_"):
            monkeypatch.delenv(name)
    return calls


def test_run_becomes_the_primary(become: list[list[str]], tmp_path: Path) -> None:
    assert CliRunner().invoke(cli, ["run", "demo"]).exit_code == 0
    primary = [sys.executable, sys.executable, "-m", "popnet.control.main", "--file"]
    assert become == [[*primary, "demo", "--foreground", *OPTIONS]]
    words = ["--run-dir", str(tmp_path), "run", "f.yaml", "--name", "x", "--metrics", "127.0.0.1:1"]
    CliRunner().invoke(cli, words)
    more = ["--name", "x", "--run-dir", str(tmp_path), "--foreground", *OPTIONS, "--metrics", "127.0.0.1:1"]
    assert become[1] == [*primary, "f.yaml", *more]


def test_settings_come_from_the_environment(become: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POPNET_METRICS", "[::1]:9464")
    monkeypatch.setenv("POPNET_LOG_LEVEL", "warning")
    CliRunner().invoke(cli, ["run", "demo"])
    assert become[0][-6:] == ["--log-format", "auto", "--log-level", "warning", "--metrics", "[::1]:9464"]


@pytest.mark.parametrize("user", [False, True])
def test_systemd_accepts_the_unit(tmp_path: Path, user: bool) -> None:
    words = ["service-unit", *(["--user"] if user else [])]
    text = CliRunner().invoke(cli, words).stdout
    assert f"ExecStart={Path(sys.executable).parent / 'popnet'} run --name %i" in text
    (tmp_path / "popnet@.service").write_text(text.replace("Documentation=", "#"))
    command = ["systemd-analyze", "verify", *words[1:], "--man=no", str(tmp_path / "popnet@x.service")]
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=env)
    ours = [line for line in done.stderr.splitlines() if "popnet@" in line]
    assert ours == []
    (tmp_path / "popnet@.service").write_text(text.replace("Type=notify", "Tpye=notify"))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=env)
    assert "Tpye" in done.stderr, "it does look"


def test_users_and_the_system_have_their_own_places() -> None:
    assert "/etc/popnet/%i.yaml" in unit("/usr/bin/popnet", user=False)
    assert "WantedBy=multi-user.target" in unit("/usr/bin/popnet", user=False)
    assert "%h/.config/popnet/%i.yaml" in unit("/usr/bin/popnet", user=True)
    assert "WantedBy=default.target" in unit("/usr/bin/popnet", user=True)
