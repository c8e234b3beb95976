"""`popnet bench net`: networks are made, measured and gone; figures, search and pictures are right."""

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from popnet.bench import frames, netrounds, netscale
from popnet.bench.bed import Broken, cpu_s, last_line, spent_s
from popnet.bench.netloads import CLEAN_LOSS, METRICS, CleanRate, Load
from popnet.bench.netpicture import svg
from popnet.bench.netrounds import NetPlan, NetSeries, figures, helper, in_worker, items
from popnet.bench.netwires import NETS, REFERENCE, NetKind, veth
from popnet.cli.main import cli
from tests.live.lab import wait_until

ROOT = Path(__file__).parents[2]
KINDS = {kind.id: kind for kind in NETS}
SHORT: dict[str, Any] = {"tcp_s": 1, "udp_s": 0.02, "trips_s": 0.02, "tries": 1}


def quiet(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """frames.c, compiled."""
    found = helper(tmp_path_factory.mktemp("build"), quiet)
    assert len(found) == 1, "there is a C compiler"
    return found


def interfaces() -> list[str]:
    return sorted(path.name for path in Path("/sys/class/net").iterdir())


def test_two_networks_measured_live(program: list[str]) -> None:
    """Everything is carried, by veth and by popnet, and the host has what it had."""
    before = interfaces()
    plan = NetPlan(("veth", "popnet"), Load(program, **SHORT), (1500,), ("udp64", "tcp1", "trips"), 1)
    said: list[str] = []
    found = in_worker(plan, said.append)
    assert found["failed"] == [] and found["missing"] == []
    assert [item["wire"] for item in found["items"]] == ["veth", "popnet"]
    for item in found["items"]:
        assert set(item["figures"]) == {
            *("udp64_kpps", "udp64_loss", "udp64_clean_kpps"),
            *("tcp1_gbit", "tcp1_cpu_s_per_gb", "trip_p50_us", "trip_p99_us"),
        }
        assert item["figures"]["tcp1_gbit"]["median"] > 0 < item["figures"]["tcp1_cpu_s_per_gb"]["median"]
        assert item["figures"]["trip_p50_us"]["median"] <= item["figures"]["trip_p99_us"]["median"]
        assert 0 <= item["figures"]["udp64_loss"]["median"] < 1
    assert found["items"][0]["figures"]["tcp1_gbit"]["ratio"] == 1
    assert len(said) == 2 and interfaces() == before


def test_all_pairs_and_an_idle_machine_live(program: list[str]) -> None:
    plan = NetPlan(("popnet", "bridge"), Load(program, **SHORT), (1500,), rounds=1, kernels=(3,), idle_s=0.5)
    found = in_worker(plan, quiet)
    assert found["failed"] == []
    assert [(item["wire"], item["kernels"], item["flows"]) for item in found["items"]] == [
        ("popnet", 3, 3),
        ("bridge", 3, 3),
    ]
    assert all(item["figures"]["slowest_share"]["median"] > 0 for item in found["items"])
    assert found["idle"]["kernels"] == 3 and 0 < found["idle"]["cpu_share"] < 1


def test_an_ordinary_user_measures_as_well(program: list[str]) -> None:
    plan = NetPlan(("veth",), Load(program, **SHORT), (1500,), ("trips",), 1)
    command = [sys.executable, "-m", "tests.live.as_user", sys.executable, "-m", "popnet.bench.networker"]
    done = subprocess.run(
        [*command, plan.to_json()], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
    )
    document = json.loads(done.stdout.splitlines()[-1])["document"]
    assert document["failed"] == [] and document["items"][0]["rounds"][0]["trip_p50_us"] > 0


@pytest.fixture
def worker(program: list[str]) -> Iterator[subprocess.Popen[str]]:
    """One that has begun to measure popnet, for a minute."""
    long = Load(program, 50, 50, 50)
    plan = NetPlan(("popnet",), long, (1500,), ("trips",), 1)
    process = subprocess.Popen(
        [sys.executable, "-m", "popnet.bench.networker", plan.to_json()],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert "popnet" in process.stdout.readline()
        yield process
    if process.poll() is None:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_ends_early_leaves_nothing(worker: subprocess.Popen[str], number: signal.Signals) -> None:
    before = interfaces()
    group = f"{worker.pid}"
    assert session_of(group)
    if number == signal.SIGINT:
        os.killpg(worker.pid, number)  # as a terminal does
    else:
        worker.kill()
    wait_until(lambda: not session_of(group), "all of it ended", 60.0)
    assert worker.wait(60) == (130 if number == signal.SIGINT else -number)
    assert interfaces() == before


def session_of(leader: str) -> list[str]:
    """The processes whose session *leader* leads, the bed's pid 1 among them; zombies do not count."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, _group, session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if session == leader and state != "Z":
            found.append(stat.parent.name)
    return found


def test_a_network_that_cannot_be_made_is_listed_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(bed: Any, mtu: int) -> Any:
        raise Broken("no such thing")

    kinds = (
        NetKind("broken", "Broken", broken, taps=False),
        NetKind("absent", "Absent", veth, ("no-such-program-here",), "apt install absent"),
    )
    monkeypatch.setattr(netrounds, "NETS", kinds)
    found = netrounds.measure(NetPlan(("broken", "absent"), Load(["frames"]), (1500,), rounds=2), quiet)
    assert found["items"] == []
    assert [(one["wire"], one["metric"], one["reason"]) for one in found["failed"]] == [
        ("broken", "setup", "no such thing")
    ]
    assert found["missing"] == [
        {
            "wire": "absent",
            "name": "Absent",
            "reason": "not installed: no-such-program-here",
            "install": "apt install absent",
        }
    ]


def test_ratios_are_of_the_same_round() -> None:
    """The reference was slow in the second round, and so was the other: the ratio does not see it."""
    found = figures([{"x": 5.0}, {"x": 1.0}, {"x": 6.0}], [{"x": 10.0}, {"x": 2.0}, {"x": 12.0}])["x"]
    assert found["ratio"] == 0.5 and found["ratio_spread"] == 0
    assert (found["median"], found["best"], found["spread"]) == (5.0, 6.0, 1.0)
    assert figures([{"x_us": 5.0}, {"x_us": 4.0}], [])["x_us"]["best"] == 4.0
    assert figures([{"x": 5.0}], [])["x"]["ratio"] is None
    assert figures([{"x": 5.0}], [{"x": 5.0}])["x"]["spread"] is None, "one round knows no noise"
    assert figures([{}, {"x": 3.0}], [{"x": 1.0}, {"x": 2.0}])["x"]["ratio"] == 1.5


def test_items_are_compared_at_their_own_mtu() -> None:
    series = [
        NetSeries(KINDS[wire], mtu, [{"tcp1_gbit": value}])
        for wire, mtu, value in (("veth", 1500, 10.0), ("popnet", 1500, 5.0), ("veth", 9000, 40.0))
    ] + [NetSeries(KINDS["popnet"], 9000, [{"tcp1_gbit": 10.0}]), NetSeries(KINDS["vde"], 9000, [{}])]
    assert [(item["wire"], item["mtu"], item["figures"]["tcp1_gbit"]["ratio"]) for item in items(series)] == [
        ("veth", 1500, 1.0),
        ("popnet", 1500, 0.5),
        ("veth", 9000, 1.0),
        ("popnet", 9000, 0.25),
    ]


@pytest.mark.parametrize("limit", [50.0, 90.0, 99.0])
def test_the_clean_rate_is_found(limit: float) -> None:
    """A network that loses all above its limit: what is found is below it, and close."""
    search = CleanRate(100.0)
    for _ in range(12):
        rate = search.rate
        search.tell(min(rate, limit), max(0.0, 1 - limit / rate))
    assert 0.95 * limit < search.best <= limit * (1 + CLEAN_LOSS)


def test_nothing_is_clean_where_everything_loses() -> None:
    search = CleanRate(100.0)
    for _ in range(8):
        search.tell(search.rate / 2, 0.5)
    assert search.best == 0


def test_cpu_time_is_of_what_ran_throughout_and_of_the_ended() -> None:
    assert spent_s({"2/2": 1.0, "3/3": 5.0, "ended": 2.0}, {"2/2": 1.5, "9/9": 7.0, "ended": 2.25}) == 0.75
    assert cpu_s()["ended"] >= 0


def test_a_plan_survives_its_way_to_the_worker() -> None:
    plan = NetPlan(["veth"], Load(["frames"], cpus=[0, 1]), [1500], ["tcp1"], 2, [2, 4], 1.5)
    assert NetPlan.from_json(plan.to_json()) == plan


def test_python_measures_where_no_compiler_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    said: list[str] = []
    assert helper(tmp_path, said.append)[1:] == ["-m", "popnet.bench.frames"]
    assert "no C compiler" in said[0]


def test_the_helpers_agree(program: list[str], tmp_path: Path) -> None:
    """The one in C sends what the one in Python counts, in a namespace of their own."""
    python = f"{sys.executable} -m popnet.bench.frames"
    script = f"""
        set -e; ip link set lo up
        {program[0]} echo 7001 >/dev/null & {python} echo 7002 >/dev/null &
        {program[0]} trips 127.0.0.1 7002 64 0.02; {python} trips 127.0.0.1 7001 64 0.02
        mkfifo {tmp_path}/ready
        {python} sink 7003 >{tmp_path}/ready & exec 3<{tmp_path}/ready; read word <&3
        {program[0]} flood 127.0.0.1 7003 64 0.02 2000; cat <&3
    """
    flags = ["--net", "--pid", "--fork", "--kill-child"]
    done = subprocess.run(
        ["unshare", *flags, "sh", "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
        timeout=60,
        check=True,
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line != "ready"]
    one, other, sent, received = found
    assert set(one) == set(other) == {"trips", "lost", "p50_us", "p99_us"}
    assert one["trips"] > 0 < other["trips"] and one["lost"] == other["lost"] == 0
    assert 0 < received["received"] == sent["sent"]


def test_the_python_helper_says_how_it_is_used() -> None:
    with pytest.raises(SystemExit, match="usage"):
        frames.main(["bogus"])


def item(wire: str, key: str, number: int, **values: float) -> dict[str, Any]:
    return {
        "wire": wire,
        "name": f"<{wire}>",
        key: number,
        "flows": 1,
        "figures": {
            name: {"median": value, "best": value, "spread": 0.1, "ratio": None, "ratio_spread": None}
            for name, value in values.items()
        },
        "rounds": [values],
    }


HOST = {"cpu": "a & b", "linux": "6.1", "python": "3.11", "load": 0.5}


def test_the_picture_puts_the_best_first() -> None:
    rows = [
        item("veth", "mtu", 1500, tcp1_gbit=40.0, trip_p50_us=60.0),
        item("popnet", "mtu", 1500, tcp1_gbit=30.0, trip_p50_us=20.0),
        item("vde", "mtu", 1500, tcp1_gbit=1.0, trip_p50_us=0.0),
    ]
    root = xml.etree.ElementTree.fromstring(
        svg({"kind": "NetBench", "items": rows, "host": HOST, "rounds": 3})
    )
    space = {"s": "http://www.w3.org/2000/svg"}
    names = [text for text in map(str, root.itertext()) if text.startswith("<")]
    assert names == ["<veth>", "<popnet>", "<vde>", "<popnet>", "<veth>"], "a figure of 0 has no bar"
    widths = [float(rect.get("width", "0")) for rect in root.findall("s:rect", space)[1:]]
    assert widths[:3] == sorted(widths[:3], reverse=True) and widths[3] < widths[4]


def test_the_picture_of_scale() -> None:
    rows = [item("popnet", "kernels", count, total_gbit=10.0) for count in (2, 4)]
    drawn = svg({"kind": "NetScaleBench", "items": rows, "host": HOST, "rounds": 1})
    assert "2 kernels" in drawn and "4 kernels" in drawn


def test_scale_is_compared_with_the_fewest_kernels() -> None:
    found = netscale.items({("popnet", 2): [{"total_gbit": 10.0}], ("popnet", 8): [{"total_gbit": 9.0}]})
    assert [(row["flows"], row["figures"]["total_gbit"]["ratio"]) for row in found] == [(1, 1.0), (28, 0.9)]


def test_the_verb(tmp_path: Path) -> None:
    picture = tmp_path / "net.svg"
    words = ["bench", "net", "--quick", "--only", REFERENCE, "--metric", "trips", "-q"]
    result = CliRunner().invoke(cli, [*words, "-o", "json", "--picture", str(picture)])
    assert result.exit_code == 0, result.output
    assert [entry["wire"] for entry in json.loads(result.stdout)["items"]] == [REFERENCE]
    assert picture.read_text().startswith("<svg")
    table = CliRunner().invoke(cli, words)
    assert "veth pair" in table.stdout and "p99" in table.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["--only", "bogus"],
        ["--metric", "bogus"],
        ["--mtu", "9001"],
        ["--rounds", "0"],
        ["--kernels", "2"],
        ["--scale", "--metric", "tcp1"],
        ["--scale", "--kernels", "1"],
    ],
)
def test_wrong_usage(words: list[str]) -> None:
    result = CliRunner().invoke(cli, ["bench", "net", *words])
    assert result.exit_code == 2 and words[-2] in result.output


def test_everything_has_a_table_and_a_way_to_get_it() -> None:
    assert all(kind.install for kind in NETS if kind.programs)
    assert METRICS == ("tcp1", "tcp4", "udp64", "udp1472", "trips")
    assert last_line("a\nb\n") == "b" and last_line("") == ""
