"""Checks that imports point downward only, and that each third-party library has one door.

    python tools/layers.py [directory]      the directory that holds popnet/; by default this checkout

Reads every import of every module, also inside functions, under TYPE_CHECKING, and through importlib with a
literal name. Prints one line a violation, `file:line: what; why`, and exits with 1 if there is one.
"""

import ast
import sys
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = "popnet"
VERSION: Final = "popnet.__version__"
"""What every module may import from the top."""

LAYERS: Final = (
    {"core"},
    {"transport"},
    {"message"},
    {"program"},
    {"machine"},
    {"image"},
    {"net", "tty"},
    {"kernel"},
    {"control", "bench"},
    {"cli"},
)
"""The packages from the ground up: each may import those of the sets before its own."""

CLIENT: Final = tuple(
    f"popnet.control.{name}"
    for name in (
        "blocking",
        "capturefeeds",
        "capturemerge",
        "capturetargets",
        "capturing",
        "client",
        "http1",
        "launch",
        "pcapng_reader",
        "rundir",
        "running",
        "spoolreader",
        "stream",
        "wire",
    )
)
CLIENT_MAY_IMPORT: Final = ("popnet.core", "popnet.net.pcapng", *CLIENT)
"""The client side of the control API is part of users' programs, so it brings nothing else along."""

USER_PACKAGES: Final = ("cli", "scapy")

USER: Final = "a user module (cli, scapy, or directly in popnet)"
USER_MAY_IMPORT: Final = {
    "popnet.core": "pure",
    "popnet.machine": "pure",
    **dict.fromkeys(CLIENT, "the client side of the control API"),
    "popnet.image": "reads images; there is no machine to ask",
    "popnet.bench": "measures this host; there is no machine to ask",
    "popnet.program": "what a program inside a kernel uses",
    "popnet.net.decode": "pure: a frame as a line",
    "popnet.net.filter": "checks filters of machine files before anything starts",
    "popnet.net.pcapng": "pure: the blocks of a file",
    "popnet.message.kinds": "pure: names of numbers",
    "popnet.transport.headers": "pure: a path",
    "popnet.message.tracehalf": "pure: what one end of a link saw of a message",
    "popnet.message.tracejoin": "pure: both halves of it as one",
    "popnet.tty.authorized": "whose keys let in at a gateway",
    "popnet.tty.keys": "keys, told by their fingerprints",
    "popnet.tty.hostkeys": "the key of a gateway",
    "popnet.tty.listening": "where a gateway listens",
    "popnet.tty.gateway": "the ssh server of a gateway, which is a client of its machine",
    "popnet.tty.promptness": "one system call about this process",
    "popnet.kernel.doctor": "looks at the host; there is no machine to ask",
    "popnet.kernel.gc": "cleans up where no machine runs any more",
    "popnet.kernel.host": "what a machine file is checked against, before there is a machine",
    "popnet.kernel.topology": "looks at the host; there is no machine to ask",
}
"""What user modules may import beside each other: they start fast, and reach a machine by its control API."""

PURE: Final = ("core", "machine")
IMPURE: Final = frozenset(
    {"asyncio", "concurrent", "ctypes", "fcntl", "mmap", "multiprocessing", "random", "select", "selectors"}
    | {"signal", "socket", "subprocess", "tempfile", "threading", "time"}
)
"""Pure packages decide; they have no file descriptors, no loop, no clock and no dice."""

DOORS: Final = {
    "pytun": ("popnet.net.tap",),
    "uvloop": ("popnet.kernel.loop",),
    "asyncssh": ("popnet.tty.sshd", "popnet.tty.keys", "popnet.tty.gateway"),
    "aiohttp": ("popnet.control",),
    "pydantic": ("popnet.machine.schema",),
    "yaml": ("popnet.machine.document",),
    "compression": ("popnet.image.compression",),  # Python's own, from 3.14 on
    "rich": ("popnet.cli.tables",),
    "click": ("popnet.cli",),
    "scapy": ("popnet.scapy",),
    "zmq": ("popnet.bench.foreign",),
    "posix_ipc": ("popnet.bench.foreign",),
    "iceoryx2": ("popnet.bench.foreign",),
    "mpi4py": ("popnet.bench.foreign",),
    "pytest": ("popnet.pytest_plugin",),
    "pytest_asyncio": ("popnet.pytest_plugin",),
}
"""The modules, or packages, that may import a third-party library."""


@dataclass(frozen=True, slots=True)
class Violation:
    file: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


def check(directory: Path) -> list[Violation]:
    """Every violation in the modules of *directory*/popnet, in the order of files and lines."""
    modules = {_module_name(file, directory): file for file in sorted((directory / ROOT).rglob("*.py"))}
    packages = frozenset(path.parent.name for path in (directory / ROOT).glob("*/*.py"))
    violations = []
    for module, file in modules.items():
        shown = file.relative_to(directory)
        try:
            found = sorted(set(_imports(module, file, modules)))
        except SyntaxError as error:
            violations.append(Violation(shown, error.lineno or 1, f"not valid Python: {error.msg}"))
            continue
        for line, target in found:
            reason = _judge(module, target, packages)
            if reason:
                violations.append(Violation(shown, line, f"{module} imports {target}; {reason}"))
    return violations


def _judge(module: str, target: str, packages: frozenset[str]) -> str | None:
    """Why *module* may not import *target*, or None if it may; *packages* names those directly in popnet."""
    library = target.partition(".")[0]
    if library != ROOT:
        return _judge_foreign(module, library)
    if module in CLIENT and not _within(target, CLIENT_MAY_IMPORT):
        return f"the client of the control API may only import {', '.join(CLIENT_MAY_IMPORT)}"
    if _is_user(module, packages):
        if _is_user(target, packages) or _within(target, tuple(USER_MAY_IMPORT)):
            return None
        return f"{USER} may only import {', '.join(USER_MAY_IMPORT)}"
    if _is_user(target, packages):
        return None if target == VERSION else f"only {USER} may import that"
    return _judge_packages(module.split(".")[1], target.split(".")[1])


def _judge_packages(own: str, other: str) -> str | None:
    own_height, other_height = _height(own), _height(other)
    if own_height is None or other_height is None:
        return f"package {own if own_height is None else other} has no place in the layers"
    if own_height < other_height:
        return f"{own} is below {other}, and imports point downward"
    if own_height == other_height and own != other:
        return f"{own} and {other} are neighbours, and never import each other"
    if own in PURE and other not in PURE:
        return f"{own} is pure, and imports pure packages only"
    return None


def _judge_foreign(module: str, library: str) -> str | None:
    if library in sys.stdlib_module_names:
        if library in IMPURE and _within(module, tuple(f"{ROOT}.{package}" for package in PURE)):
            return "pure packages have no descriptors, no loop, no clock and no dice"
        return None
    doors = DOORS.get(library)
    if doors is None:
        return "no module is the door to this library"
    return None if _within(module, doors) else f"the door to {library} is {' or '.join(doors)}"


def _within(name: str, places: tuple[str, ...]) -> bool:
    """Whether *name* is one of *places*, or in one of them."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def _is_user(module: str, packages: frozenset[str]) -> bool:
    parts = module.split(".")
    return len(parts) == 1 or parts[1] in USER_PACKAGES or parts[1] not in packages


def _height(package: str) -> int | None:
    return next((height for height, packages in enumerate(LAYERS) if package in packages), None)


def _module_name(file: Path, directory: Path) -> str:
    parts = file.relative_to(directory).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(module: str, file: Path, modules: Container[str]) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that *file* imports, however it does."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, name.name) for name in names)
            case ast.ImportFrom(module=source, names=names, level=level):
                base = package.rsplit(".", level - 1)[0] if level else ""
                base = ".".join(part for part in (base, source) if part)
                for name in names:
                    full = f"{base}.{name.name}"
                    yield node.lineno, full if full in modules or base == ROOT else base
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
                called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                if called in ("import_module", "__import__"):
                    yield node.lineno, name


def main(arguments: list[str]) -> int:
    directory = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    violations = check(directory)
    for violation in violations:
        print(violation)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
