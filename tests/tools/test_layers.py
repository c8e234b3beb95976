"""The layer check: this checkout passes, and each rule finds the violation it is there for."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("layers", ROOT / "tools/layers.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


layers = tool()
MODULES = (
    "__init__ api scapy pytest_plugin core/errors core/limits transport/window message/codec machine/file "
    "machine/document machine/schema net/tap net/pump tty/hub tty/sshd kernel/primary kernel/doctor "
    "kernel/loop control/client control/wire control/server control/service cli/main cli/output"
)


def tree(directory: Path, name: str, text: str) -> Path:
    """A small popnet whose module *name* holds *text*."""
    for module in (*MODULES.split(), name):
        file = directory / "popnet" / f"{module}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.touch()
    (directory / "popnet" / f"{name}.py").write_text(text)
    return directory


def test_this_checkout() -> None:
    assert [str(violation) for violation in layers.check(ROOT)] == []


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("core/errors", "import popnet.net.tap", "core is below net"),
        ("message/codec", "from popnet.machine import file", "message is below machine"),
        ("kernel/primary", "from popnet.control.service import Service", "kernel is below control"),
        ("net/tap", "from popnet.tty import hub", "net and tty are neighbours"),
        ("tty/hub", "from ..net.tap import open_tap", "tty and net are neighbours"),
        ("tty/hub", "from .. import net", "tty and net are neighbours"),
        ("machine/file", "from popnet.transport import window", "machine is pure, and imports pure"),
        ("machine/file", "import time", "no descriptors, no loop, no clock"),
        ("core/limits", "from asyncio import sleep", "no descriptors, no loop, no clock"),
        (
            "transport/window",
            "from popnet import api",
            "only a user module (cli, scapy, or directly in popnet) may",
        ),
        ("transport/window", "from popnet import Machine", "only a user module"),
        ("transport/window", "import popnet.cli.main", "only a user module"),
        (
            "cli/main",
            "from popnet.kernel import primary",
            "a user module (cli, scapy, or directly in popnet) may only",
        ),
        (
            "api",
            "from popnet.control.server import serve",
            "may only import popnet.core, popnet.machine, popnet.c",
        ),
        ("control/client", "from popnet.control import server", "the client of the control API may only"),
        ("control/client", "from popnet.machine import file", "the client of the control API may only"),
        ("device/disk", "import popnet.core.errors", "package device has no place in the layers"),
        ("kernel/primary", "import popnet.device.disk", "package device has no place in the layers"),
        ("net/pump", "import pytun", "the door to pytun is popnet.net.tap"),
        ("kernel/primary", "import uvloop", "the door to uvloop is popnet.kernel.loop"),
        ("kernel/primary", "import asyncssh.misc", "the door to asyncssh is"),
        ("kernel/primary", "import aiohttp.web", "the door to aiohttp is popnet.control"),
        ("machine/file", "import yaml", "the door to yaml is popnet.machine.document"),
        ("machine/file", "import pydantic", "the door to pydantic is popnet.machine.schema"),
        ("cli/main", "from rich.table import Table", "the door to rich is popnet.cli.tables"),
        ("kernel/primary", "import click", "the door to click is popnet.cli"),
        ("api", "import scapy.all", "the door to scapy is popnet.scapy"),
        ("api", "import numpy", "no module is the door to this library"),
        ("net/tap", "def f():\n    import uvloop", "the door to uvloop"),
        ("net/tap", "if TYPE_CHECKING:\n    import uvloop", "the door to uvloop"),
        ("net/tap", "x = importlib.import_module('uvloop')", "the door to uvloop"),
        ("net/tap", "x = __import__('popnet.tty.hub')", "net and tty are neighbours"),
    ],
)
def test_violations(tmp_path: Path, name: str, text: str, reason: str) -> None:
    tree(tmp_path, "device/disk", "")
    (violation,) = layers.check(tree(tmp_path, name, text))
    assert str(violation).startswith(f"popnet/{name}.py:{text.count(chr(10)) + 1}: popnet.")
    assert reason in str(violation)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("net/tap", "import pytun, os\nfrom popnet.core.errors import Unavailable"),
        ("kernel/primary", "from popnet.net import tap\nfrom popnet.tty import hub\nfrom . import loop"),
        ("tty/hub", "from popnet.machine.file import load\nfrom popnet.message import codec"),
        (
            "cli/main",
            "import click\nfrom popnet.control.client import call\nfrom popnet import api, __version__",
        ),
        ("cli/main", "from popnet.kernel import doctor\nfrom popnet.machine import file"),
        (
            "control/server",
            "import aiohttp\nfrom popnet import __version__\nfrom popnet.kernel import primary",
        ),
        ("scapy", "from scapy.all import Ether"),
        ("machine/document", "import yaml, os"),
    ],
)
def test_what_is_allowed(tmp_path: Path, name: str, text: str) -> None:
    assert layers.check(tree(tmp_path, name, text)) == []


def test_what_is_not_python_is_a_violation(tmp_path: Path) -> None:
    (violation,) = layers.check(tree(tmp_path, "net/pump", "x = 1\ny = (\n"))
    assert str(violation) == "popnet/net/pump.py:2: not valid Python: '(' was never closed"


def test_exit_status_and_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert layers.main([str(tree(tmp_path, "net/pump", "import pytun"))]) == 1
    assert capsys.readouterr().out.startswith("popnet/net/pump.py:1: popnet.net.pump imports pytun; the door")
    assert layers.main([str(tree(tmp_path, "net/pump", ""))]) == 0
