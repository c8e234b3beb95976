"""`wireshark`: popnet's interfaces and dissector in the user's Wireshark, put there, looked at and removed.

Everything goes into the user's own directories, as tshark names them; nothing needs root. A file of somebody
else's at one of the places is never written over, nor removed: ours carry a mark.
"""

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from popnet.cli.output import Column, print_list
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.core.errors import PopnetError, Refused, Unavailable

MARK: Final = "popnet wireshark install"
"""In every file that this verb writes."""

_COLUMNS: Final = (
    Column("WHAT", lambda row: str(row["what"])),
    Column("STATE", lambda row: str(row["state"])),
    Column("FILE", lambda row: str(row["file"])),
)


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a user's Wireshark looks.

    Attributes:
        extcap: for plug-ins that capture.
        lua: for dissectors.
    """

    extcap: Path
    lua: Path


@verb("wireshark", lists=True)
@click.argument("action", type=click.Choice(("install", "uninstall", "status")))
@pass_settings
def wireshark_verb(settings: Settings, action: str) -> None:
    """Make Wireshark list this user's kernels as interfaces.

    install puts an extcap plug-in and a dissector into your own Wireshark directories; then start Wireshark
    again (or: tshark -D). It needs no root. uninstall removes them, status says what is there.
    """
    folders = find_folders()
    files = {
        "interfaces": (folders.extcap / "popnet", script(settings), 0o755),
        "dissector": (folders.lua / "popnet.lua", dissector(), 0o644),
    }
    for file, text, mode in files.values():
        if action == "install":
            _install(file, text, mode)
        elif action == "uninstall":
            _uninstall(file)
    rows = [
        {"what": what, "state": _state(file, text), "file": str(file)}
        for what, (file, text, _mode) in files.items()
    ]
    print_list(settings, "WiresharkFileList", rows, _COLUMNS)
    if action == "install":
        settings.say("start Wireshark again; its list of interfaces has those of machines that run")


def find_folders() -> Folders:
    """Those that this user's tshark names; without one, those of Wireshark's manual."""
    named = {}
    tshark = shutil.which("tshark")
    if tshark is not None:
        command = [tshark, "-G", "folders"]
        text = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
        named = {key: value for key, _, value in (line.partition(":") for line in text.splitlines())}
    home = Path.home()
    own = _path(named, "Personal configuration") or _config_home() / "wireshark"
    return Folders(
        extcap=_path(named, "Personal Extcap path") or own / "extcap",
        lua=_path(named, "Personal Lua Plugins") or home / ".local/lib/wireshark/plugins",
    )


def _path(named: dict[str, str], key: str) -> Path | None:
    value = named.get(key, "").strip()
    return Path(value) if value else None


def _config_home() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def script(settings: Settings) -> str:
    """What Wireshark starts. A run directory that is not the usual one is remembered."""
    run_dir = settings.run_dir or os.environ.get("POPNET_RUN_DIR")
    remembered = f"export POPNET_RUN_DIR={shlex.quote(str(Path(run_dir).absolute()))}\n" if run_dir else ""
    return (
        "#!/bin/sh\n"
        f"# Kernels of popnet's machines as interfaces of Wireshark; made by `{MARK}`.\n"
        f'{remembered}exec {shlex.quote(sys.executable)} -m popnet.cli.extcap "$@"\n'
    )


def dissector() -> str:
    """The text of popnet.lua, from the checkout or where the package has installed it."""
    places = (
        Path(__file__).parents[2] / "tools/wireshark/popnet.lua",
        Path(sys.prefix) / "share/popnet/wireshark/popnet.lua",
    )
    for place in places:
        if place.is_file():
            return f"-- Put here by `{MARK}`.\n{place.read_text()}"
    raise Unavailable(
        "popnet.lua is missing: this installation of popnet is not whole", f"looked for {places[1]}"
    )


def _state(file: Path, text: str) -> str:
    try:
        there = file.read_text(errors="replace")
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"unreadable: {error.strerror}"
    if there == text:
        return "installed"
    return "of another popnet" if MARK in there else "somebody else's"


def _install(file: Path, text: str, mode: int) -> None:
    if _state(file, text) == "somebody else's":
        raise Refused(f"{file} is there and not popnet's", "Move it away, then install again.")
    new = file.with_name(f".{file.name}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text)
        new.chmod(mode)
        new.replace(file)
    except OSError as error:
        raise PopnetError(f"{file}: {error.strerror}") from error


def _uninstall(file: Path) -> None:
    if _state(file, "") == "of another popnet":
        try:
            file.unlink()
        except OSError as error:
            raise PopnetError(f"{file}: {error.strerror}") from error
