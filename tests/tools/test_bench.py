"""`popnet bench messages`: every wire carries its bytes, the document has its shape, what lacks is named."""

import dataclasses
import json
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from popnet.bench.picture import svg
from popnet.bench.rounds import Plan, fastest, measure, spread
from popnet.bench.wires import CARRIES_NOTHING, MPI_LAUNCHERS, WIRES, Host, WireKind
from popnet.cli.bench import rows_of
from popnet.cli.main import cli

ROOT = Path(__file__).parents[2]
KINDS = {kind.id: kind for kind in WIRES}
CASES = [(kind.id, mode) for kind in WIRES for mode in kind.modes]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    return Host(tmp_path_factory.mktemp("build"), cpus=())


def quiet(text: str) -> None:
    pass


@pytest.mark.parametrize(("wire", "mode"), CASES)
@pytest.mark.parametrize("size", [64, 65536])
def test_every_wire_carries_its_bytes(wire: str, mode: str, size: int, host: Host) -> None:
    """The worker itself compares every echo and every stream; one that differs is an error."""
    if reason := host.missing(KINDS[wire]):
        pytest.skip(reason)
    kind = dataclasses.replace(KINDS[wire], modes=(mode,))
    found = measure(Plan([kind], [size], rounds=1, budget_s=0.004), host, quiet)
    assert found["failed"] == [] and found["missing"] == []
    (item,) = found["items"]
    assert item["size"] == size and item["wire"] == wire
    assert item["rounds"][0]["trips"] >= 50
    if wire in CARRIES_NOTHING:
        assert item["messages_per_s"] is None
    else:
        assert item["rounds"][0]["streamed"] >= 64 and item["messages_per_s"]["median"] > 0


@pytest.mark.parametrize("wire", ["popnet-messages", "memcpy", "unix-stream"])
def test_messages_of_several_records(wire: str, host: Host) -> None:
    """They go in fragments; wires whose messages are single records are not measured with them."""
    kinds = [dataclasses.replace(KINDS[wire], modes=KINDS[wire].modes[:1]), KINDS["popnet-python"]]
    found = measure(Plan(kinds, [1 << 20], rounds=1, budget_s=0.004), host, quiet)
    assert found["failed"] == []
    assert [item["wire"] for item in found["items"]] == [wire]


def test_what_is_not_installed_is_named(host: Host) -> None:
    kinds = [
        WireKind("absent", "Absent", modules=("no_such_module_here",), install="pip install absent"),
        WireKind("unbuilt", "Unbuilt", programs=("no-such-program-here",), install="apt install unbuilt"),
        KINDS["pipe"],
    ]
    found = measure(Plan(kinds, [64], rounds=1, budget_s=0.004), host, quiet)
    assert found["missing"] == [
        {
            "wire": "absent",
            "name": "Absent",
            "reason": "not installed: no_such_module_here",
            "install": "pip install absent",
        },
        {
            "wire": "unbuilt",
            "name": "Unbuilt",
            "reason": "not installed: no-such-program-here",
            "install": "apt install unbuilt",
        },
    ]
    assert [item["wire"] for item in found["items"]] == ["pipe"]


def test_a_wire_that_fails_is_listed_and_the_others_go_on(host: Host) -> None:
    kinds = [WireKind("bogus", "Bogus"), KINDS["pipe"]]
    found = measure(Plan(kinds, [64], rounds=2, budget_s=0.004), host, quiet)
    assert [(entry["wire"], entry["reason"]) for entry in found["failed"]] == [("bogus", "KeyError: 'bogus'")]
    assert [len(item["rounds"]) for item in found["items"]] == [2]


def test_the_document(host: Host) -> None:
    said: list[str] = []
    kinds = [KINDS["pipe"], KINDS["unix-stream"]]
    found = measure(Plan(kinds, [64, 1024], rounds=2, budget_s=0.004), host, said.append)
    assert found["apiVersion"] == "popnet/v1" and found["kind"] == "MessageBench"
    assert set(found["host"]) == {"cpu", "cpus", "linux", "python"}
    assert [(item["wire"], item["mode"], item["size"]) for item in found["items"]] == [
        ("pipe", "blocking", 64),
        ("unix-stream", "blocking", 64),
        ("pipe", "blocking", 1024),
        ("unix-stream", "blocking", 1024),
    ]
    for item in found["items"]:
        assert set(item["one_way_us"]) == {"p50", "p99", "best", "spread"}
        assert set(item["messages_per_s"]) == {"median", "best", "spread"}
        assert [set(one) for one in item["rounds"]] == [
            {"p50_us", "p99_us", "rate", "trips", "streamed"},
        ] * 2
        medians = [one["p50_us"] for one in item["rounds"]]
        assert item["one_way_us"]["p50"] == sum(medians) / 2
        assert item["one_way_us"]["best"] == min(medians)
        assert item["messages_per_s"]["best"] == max(one["rate"] for one in item["rounds"])
        assert item["one_way_us"]["spread"] == spread(medians)
    assert json.loads(json.dumps(found)) == found
    assert len(said) == 2
    best = fastest(found["items"], "pipe", 64)
    assert best is not None and best["wire"] == "pipe"
    assert fastest(found["items"], "tcp", 64) is None


def item(wire: str, size: int, p50: float, rate: float | None) -> dict[str, Any]:
    return {
        "wire": wire,
        "name": f"<{wire}>",
        "mode": "poll",
        "size": size,
        "one_way_us": {"p50": p50, "p99": 3 * p50, "best": p50, "spread": 0.1},
        "messages_per_s": {"median": rate, "best": rate, "spread": 0.2} if rate else None,
    }


def test_rows_are_compared_with_unix_sockets() -> None:
    rows = rows_of([item("unix-stream", 64, 20.0, 1e6), item("popnet-python", 64, 0.2, 3e6)])
    assert [(row["wire"], row["ratio"]) for row in rows] == [("popnet-python", 0.01), ("unix-stream", 1.0)]
    assert rows_of([item("pipe", 64, 20.0, None)])[0]["ratio"] is None


def test_the_picture_is_svg_and_longer_bars_are_larger_figures() -> None:
    host = {"cpu": "a & b", "cpus": [0, 1], "linux": "6.1", "python": "3.11"}
    items = [
        item("popnet-c", 64, 0.2, 3e6),
        item("pipe", 64, 20.0, 2e5),
        item("eventfd-asyncio", 64, 25.0, None),
    ]
    root = xml.etree.ElementTree.fromstring(svg({"items": items, "host": host, "rounds": 3}))
    space = {"s": "http://www.w3.org/2000/svg"}
    widths = [float(rect.get("width", "0")) for rect in root.findall("s:rect", space)[1:]]
    ways, rates = [widths[0], widths[2], widths[4]], [widths[1], widths[3]]
    assert ways == sorted(ways) and rates == sorted(rates, reverse=True)
    assert len(widths) == 5, "a wire without a rate has no bar for it"
    assert "<popnet-c>" in "".join(root.itertext())


def test_the_verb(tmp_path: Path) -> None:
    picture = tmp_path / "bench.svg"
    words = ["bench", "messages", "--wire", "pipe", "--size", "64", "--rounds", "1", "--budget-ms", "4"]
    result = CliRunner().invoke(cli, [*words, "-q", "-o", "json", "--picture", str(picture)])
    assert result.exit_code == 0, result.output
    assert [entry["wire"] for entry in json.loads(result.stdout)["items"]] == ["pipe"]
    assert picture.read_text().startswith("<svg")
    table = CliRunner().invoke(cli, [*words, "-q"])
    assert "multiprocessing.Pipe" in table.stdout and "ONE WAY" in table.stdout


@pytest.mark.parametrize(
    "words", [["--wire", "bogus"], ["--size", "3"], ["--size", "16777217"], ["--rounds", "0"]]
)
def test_wrong_usage(words: list[str]) -> None:
    assert CliRunner().invoke(cli, ["bench", "messages", *words]).exit_code == 2


def test_the_full_table_names_its_rivals() -> None:
    tool = ROOT / "tools/bench/messages.py"
    shown = subprocess.run(
        [sys.executable, tool, "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "--install" in shown and all(kind.id in shown for kind in WIRES)


def test_one_half_of_mpi_may_be_missing(tmp_path: Path) -> None:
    """An interpreter without the modules, but with the programs beside it."""
    for name in ("python", "mpicc", "mpiexec"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    host = Host(tmp_path, str(tmp_path / "python"), cpus=())
    assert host.missing(KINDS["mpi"]) == "not installed: mpi4py"
    assert host.missing(KINDS["mpi-c"]) is None
    assert host.program(MPI_LAUNCHERS) == str(tmp_path / "mpiexec"), "one MPI's, whatever else there is"
