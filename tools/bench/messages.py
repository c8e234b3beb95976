#!/usr/bin/env -S python3
"""Messages between two processes: popnet beside everything a user could pick instead, in interleaved rounds
of one run.

The same measurement as `popnet bench messages`, with rivals that popnet does not depend on: they are
installed into an environment of their own, .venv-bench. MPICH is taken from the system if it is there
(`apt install mpich libmpich-dev`: faster than the one on PyPI), else from PyPI.

    tools/bench/messages.py --install
    tools/bench/messages.py [--rounds 5] [--budget-ms 200] [--size 64 ...] [--wire ID ...]
                            [--json FILE] [--picture FILE] [--markdown]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any, Final

from popnet.bench.picture import size_text, svg
from popnet.bench.rounds import SIZES, Plan, measure
from popnet.bench.wires import WIRES, Host
from popnet.cli.bench import show
from popnet.cli.settings import Settings

ENVIRONMENT: Final = Path(__file__).resolve().parents[2] / ".venv-bench"
PACKAGES: Final = ("pyzmq", "posix_ipc", "iceoryx2", "mpi4py", "mpich")
ABI: Final = ENVIRONMENT / "mpich"
"""Where the system's MPICH has the name under which mpi4py looks for it."""


def install() -> None:
    """Make the rivals' environment, with the Python that runs this."""
    venv.create(ENVIRONMENT, with_pip=True)
    (ENVIRONMENT / ".gitignore").write_text("*\n")
    subprocess.run([ENVIRONMENT / "bin/pip", "install", "--quiet", *PACKAGES], check=True)
    ABI.mkdir(exist_ok=True)
    name = ABI / "libmpi.so.12"
    name.unlink(missing_ok=True)
    for library in Path("/usr/lib").glob("*/libmpich.so.12"):
        name.symlink_to(library)
        break


def host(build: Path) -> Host:
    """Where the rivals run: in their environment, if it was made."""
    python = ENVIRONMENT / "bin/python"
    if not python.exists():
        return Host(build)
    found = Host(build, str(python))
    if (ABI / "libmpi.so.12").exists():
        found.environment.update(MPI4PY_MPIABI="mpich", LD_LIBRARY_PATH=str(ABI))
    return found


def markdown(document: dict[str, Any]) -> str:
    """The tables of docs/performance.md: of each figure the median and, in brackets, the best round."""
    lines = []
    for size in sorted({item["size"] for item in document["items"]}):
        lines += [
            f"| {size_text(size)} | mode | one way, µs | p99 | noise | million/s | noise |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        items = [item for item in document["items"] if item["size"] == size]
        for item in sorted(items, key=lambda item: float(item["one_way_us"]["best"])):
            name = f"**{item['name']}**" if item["wire"].startswith("popnet") else item["name"]
            lines.append(f"| {name} | {item['mode']} | {' | '.join(_cells(item))} |")
        lines.append("")
    return "\n".join(lines)


def _cells(item: dict[str, Any]) -> list[str]:
    way, rate = item["one_way_us"], item["messages_per_s"]
    best = min(one["p99_us"] for one in item["rounds"])
    cells = [
        f"{way['p50']:.3g} ({way['best']:.3g})",
        f"{way['p99']:.3g} ({best:.3g})",
        f"{way['spread']:.0%}",
    ]
    if not rate:
        return [*cells, "", ""]
    return [*cells, f"{rate['median'] / 1e6:.2g} ({rate['best'] / 1e6:.2g})", f"{rate['spread']:.0%}"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ids = [kind.id for kind in WIRES]
    parser.add_argument("--install", action="store_true", help="make .venv-bench, and do nothing else")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget-ms", type=float, default=200.0)
    parser.add_argument("--size", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--wire", nargs="+", choices=ids, default=ids)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--markdown", action="store_true", help="print the table of the documentation")
    options = parser.parse_args()
    if options.install:
        install()
        return 0
    with tempfile.TemporaryDirectory(prefix="popnet-bench-") as build:
        wires = [kind for kind in WIRES if kind.id in options.wire]
        plan = Plan(wires, options.size, options.rounds, options.budget_ms / 1000)
        document = measure(plan, host(Path(build)), lambda text: print(text, file=sys.stderr))
    if options.json:
        options.json.write_text(json.dumps(document, indent=1))
    if options.picture:
        options.picture.write_text(svg(document))
    if options.markdown:
        print(markdown(document))
    else:
        show(Settings(), document)
    return 1 if document["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
