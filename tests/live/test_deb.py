"""The Debian package: installed, used, upgraded and removed, in a root of its own that sees this host's."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ISOLATED = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="dpkg needs root"),
    pytest.mark.timeout(400),
]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the package as old.deb, and as new.deb, whose version is higher."""
    to = tmp_path_factory.mktemp("packages")
    done = subprocess.run(
        [ROOT / "tools/packages/deb", to], capture_output=True, text=True, check=False, timeout=350
    )
    assert done.returncode == 0, done.stderr
    package = Path(done.stdout.strip())
    assert package.parent == to
    package.rename(to / "old.deb")
    renewed(to / "old.deb", to / "new.deb", to / "unpacked")
    return to


def renewed(old: Path, new: Path, unpacked: Path) -> None:
    """The same package with version 99, a file less and a file more."""
    subprocess.run(["dpkg-deb", "-R", old, unpacked], check=True, timeout=60)
    control = unpacked / "DEBIAN/control"
    lines = control.read_text().splitlines()
    control.write_text("\n".join("Version: 99" if x.startswith("Version:") else x for x in lines) + "\n")
    (unpacked / "usr/lib/popnet/share/popnet/wireshark/popnet.lua").unlink()
    (unpacked / "usr/lib/popnet/share/popnet/added").write_text("new\n")
    subprocess.run(["dpkg-deb", "-b", "-Znone", unpacked, new], check=True, capture_output=True, timeout=60)
    shutil.rmtree(unpacked)


def in_another_root(packages: Path, script: str) -> list[str]:
    """The lines that *script* writes, its errors included; it must succeed."""
    done = subprocess.run(
        [*ISOLATED, ROOT / "tests/live/another_root.sh", packages, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


def test_install_use_upgrade_and_remove(packages: Path) -> None:
    said = in_another_root(
        packages,
        """
        dpkg -i /mnt/old.deb >/dev/null
        popnet --version
        popnet up demo >/dev/null 2>&1
        popnet exec k1 -- uname -n
        popnet down 2>&1
        test -e /usr/share/man/man1/popnet.1 -a -e /usr/share/bash-completion/completions/popnet
        test -e /usr/lib/popnet/share/popnet/wireshark/popnet.lua
        grep ^ExecStart= /usr/lib/systemd/system/popnet@.service
        echo POPNET_LOG_LEVEL=err >/etc/default/popnet

        dpkg -i /mnt/new.deb >/dev/null
        dpkg-query -W popnet
        popnet --version
        test ! -e /usr/lib/popnet/share/popnet/wireshark/popnet.lua -a -e /usr/lib/popnet/share/popnet/added
        cat /etc/default/popnet

        echo mine >/etc/popnet/lab.yaml
        dpkg -r popnet >/dev/null
        for path in /usr/lib/popnet /usr/bin/popnet /usr/lib/systemd/system/popnet@.service; do
            test ! -e $path
        done
        cat /etc/default/popnet /etc/popnet/lab.yaml
        dpkg -P popnet 2>&1 | grep -c "not empty"
        test ! -e /etc/default/popnet
        cat /etc/popnet/lab.yaml
        """,
    )
    from popnet import __version__

    assert said == [
        f"popnet {__version__}",
        "k1",
        "machine demo: down",
        "ExecStart=/usr/bin/popnet run --name %i /etc/popnet/%i.yaml",
        "popnet\t99",
        f"popnet {__version__}",
        "POPNET_LOG_LEVEL=err",
        "POPNET_LOG_LEVEL=err",
        "mine",
        "1",
        "mine",
    ]


def test_it_wants_the_python_that_it_was_made_for(packages: Path) -> None:
    done = subprocess.run(
        ["dpkg-deb", "-f", packages / "old.deb", "Depends"], capture_output=True, text=True, check=True
    )
    assert "python3 (>= 3." in done.stdout
    assert "python3 (<< 3." in done.stdout
