"""Users, homes and environments of logins."""

import os
import pwd
from pathlib import Path

from popnet.tty import login


def test_only_names_of_this_user_are_us() -> None:
    us = pwd.getpwuid(os.getuid()).pw_name
    others = [entry.pw_name for entry in pwd.getpwall() if entry.pw_uid != os.getuid()]
    assert login.is_us(us)
    assert not any(map(login.is_us, others))
    assert not login.is_us("nobody-at-all")


def test_a_home_that_does_not_exist_is_the_root(tmp_path: Path) -> None:
    assert login.home({"HOME": str(tmp_path)}) == str(tmp_path)
    assert login.home({"HOME": str(tmp_path / "nowhere")}) == "/"
    assert login.home({}) == pwd.getpwuid(os.getuid()).pw_dir


def test_a_client_chooses_its_locale_and_nothing_else(tmp_path: Path) -> None:
    environment = login.environment(
        {"PATH": "/bin", "LANG": "C", "HOME": str(tmp_path)},
        {"LANG": "de_DE.UTF-8", "LC_TIME": "C", "PATH": "/evil", "LD_PRELOAD": "/evil.so"},
        user="root",
        shell="/bin/sh",
        client=("10.1.2.1", 40000),
        server=("10.1.2.2", 22),
    )
    assert environment == {
        "PATH": "/bin",
        "LANG": "de_DE.UTF-8",
        "LC_TIME": "C",
        "USER": "root",
        "LOGNAME": "root",
        "HOME": str(tmp_path),
        "SHELL": "/bin/sh",
        "SSH_CLIENT": "10.1.2.1 40000 22",
        "SSH_CONNECTION": "10.1.2.1 40000 10.1.2.2 22",
    }
