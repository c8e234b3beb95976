"""The generated configuration, read back by the OpenSSH client that will use it."""

import shlex
import subprocess
from pathlib import Path

import pytest

from popnet.tty import sshconfig
from popnet.tty.sshconfig import SshHost

HOSTS = (SshHost("primary", "10.1.2.1"), SshHost("k1", "10.1.2.2"), SshHost("k2", "10.1.2.3", user="ada"))


def build(
    known_hosts_file: str = "/run/popnet/demo/known_hosts",
    identity_file: str = "/run/popnet/demo/id",
    popnet: tuple[str, ...] = ("/opt/popnet/bin/python", "-m", "popnet.cli.main"),
    run_dir: str = "/run/popnet",
) -> str:
    return sshconfig.ssh_config(
        "demo",
        HOSTS,
        known_hosts_file=known_hosts_file,
        identity_file=identity_file,
        popnet=popnet,
        run_dir=run_dir,
    )


def read_back(config: str, host: str, directory: Path) -> dict[str, list[str]]:
    """What the client makes of *config* for *host*: option (lower case) to its values."""
    file = directory / "config"
    file.write_text(config)
    answer = subprocess.run(["ssh", "-G", "-F", file, host], capture_output=True, text=True, check=True)
    options: dict[str, list[str]] = {}
    for line in answer.stdout.splitlines():
        name, _, value = line.partition(" ")
        options.setdefault(name, []).append(value)
    return options


@pytest.mark.parametrize("host", ["k1", "k1.demo"])
def test_a_client_reads_what_was_meant(host: str, tmp_path: Path) -> None:
    options = read_back(build(), host, tmp_path)
    expected = {
        "hostname": "10.1.2.2",
        "user": "root",
        "port": "22",
        "hostkeyalias": "k1.demo",
        "userknownhostsfile": "/run/popnet/demo/known_hosts",
        "globalknownhostsfile": "none",
        "identityfile": "/run/popnet/demo/id",
        "identitiesonly": "no",
        "stricthostkeychecking": "true",
        "preferredauthentications": "publickey",
        "proxycommand": "/opt/popnet/bin/python -m popnet.cli.main --run-dir /run/popnet -m demo proxy k1 %p",
    }
    assert {name: options[name] for name in expected} == {name: [value] for name, value in expected.items()}


def test_each_kernel_has_its_own(tmp_path: Path) -> None:
    options = read_back(build(), "k2", tmp_path)
    assert (options["hostname"], options["user"], options["hostkeyalias"]) == (
        ["10.1.2.3"],
        ["ada"],
        ["k2.demo"],
    )


def test_other_hosts_are_left_alone(tmp_path: Path) -> None:
    assert "proxycommand" not in read_back(build(), "example.org", tmp_path)


def test_odd_paths_reach_the_client_and_the_shell_unchanged(tmp_path: Path) -> None:
    odd = """/tmp/it's 100% "odd" # $HOME \\x"""
    config = build(odd + "/known", odd + "/id", (odd + "/popnet",), odd)
    options = read_back(config, "k1", tmp_path)
    assert options["userknownhostsfile"] == [odd + "/known"]
    assert options["identityfile"] == [odd.replace("%", "%%") + "/id"]  # expanded when it is read
    command = options["proxycommand"][0].replace("%%", "%").replace("%p", "22")
    assert shlex.split(command) == [odd + "/popnet", "--run-dir", odd, "-m", "demo", "proxy", "k1", "22"]


def test_the_client_runs_the_proxy_command_with_odd_arguments(tmp_path: Path) -> None:
    directory = tmp_path / "it's 100% odd"
    directory.mkdir()
    proxy = directory / "popnet"
    proxy.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >"$(dirname "$0")/arguments"\n')
    proxy.chmod(0o700)
    config = tmp_path / "config"
    config.write_text(build(str(directory / "known"), str(directory / "id"), (str(proxy),), str(directory)))
    subprocess.run(["ssh", "-F", config, "k1"], capture_output=True, check=False, timeout=30)
    arguments = (directory / "arguments").read_text().splitlines()
    assert arguments == ["--run-dir", str(directory), "-m", "demo", "proxy", "k1", "22"]


@pytest.mark.parametrize("path", ["/tmp/a\nb", "/tmp/${HOME}"])
def test_a_path_that_no_such_file_can_hold_is_an_error(path: str) -> None:
    with pytest.raises(ValueError, match="tmp"):
        build(known_hosts_file=path)


def test_known_hosts_has_each_kernel_under_its_alias() -> None:
    keys = [("k1", "ssh-ed25519 AAAA1 host of k1"), ("k2", "ssh-ed25519 AAAA2")]
    assert sshconfig.known_hosts("demo", keys) == "k1.demo ssh-ed25519 AAAA1\nk2.demo ssh-ed25519 AAAA2\n"


def test_the_gateway_has_a_host_for_each_kernel_and_terminal(tmp_path: Path) -> None:
    config = build() + sshconfig.gateway_config(
        "demo",
        {"k1": 2, "k2": 0},
        known_hosts_file="/run/popnet/demo/known_hosts",
        identity_file="/run/popnet/demo/id",
        popnet=("popnet",),
        run_dir="/run/popnet",
    )
    for host, user in (("k1.gw", "k1"), ("k2.gw", "k2"), ("k1.tty1", "k1.tty1")):
        options = read_back(config, host, tmp_path)
        assert options["user"] == [user]
        assert options["hostkeyalias"] == ["gw.demo"]
        assert options["stricthostkeychecking"] == ["true"]
        assert options["proxycommand"] == ["popnet --run-dir /run/popnet -m demo gateway --stdio"]
        assert options["requesttty"] == ["true" if ".tty" in host else "auto"]
    assert "proxycommand" not in read_back(config, "k2.tty0", tmp_path)
    assert read_back(config, "k1", tmp_path)["hostkeyalias"] == ["k1.demo"]
