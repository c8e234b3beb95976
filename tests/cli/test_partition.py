"""`popnet partition` and `popnet topology`: a valid machine file, errors with advice, and the pictures."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import click.testing
import pytest
import yaml

from popnet.cli.main import cli
from popnet.cli.plandraw import drawing
from popnet.cli.plansvg import svg
from popnet.machine.planner import plan
from popnet.machine.policies import POLICIES, Wish
from popnet.machine.topology import to_data
from popnet.machine.topologyfile import loads_topology
from tests.machine.topologies import ALL, BIG, EIGHT

SVG = "{http://www.w3.org/2000/svg}"


def popnet(*words: str) -> click.testing.Result:
    """popnet with *words*, in this process."""
    return click.testing.CliRunner().invoke(cli, words, standalone_mode=True)


@pytest.fixture
def eight(tmp_path: Path) -> str:
    file = tmp_path / "eight.json"
    file.write_text(json.dumps(to_data(EIGHT)))
    return str(file)


def test_every_policy_is_in_the_help() -> None:
    text = popnet("partition", "--help").stdout
    assert all(f"{name} " in text and POLICIES[name][1] in text for name in POLICIES)


def test_a_machine_file_that_validate_takes(tmp_path: Path) -> None:
    result = popnet("partition", "equal", "--kernels", "1", "--name", "mine", "--image", "light")
    assert result.exit_code == 0, result.output
    file = tmp_path / "mine.yaml"
    file.write_text(result.stdout)
    assert popnet("validate", str(file)).exit_code == 0
    data = yaml.safe_load(result.stdout)
    assert (data["name"], list(data["kernels"]), data["kernels"]["primary"]["image"]) == (
        "mine",
        ["primary"],
        "light",
    )


def test_with_the_topology_of_another_computer(eight: str, tmp_path: Path) -> None:
    picture = tmp_path / "p.svg"
    options = ("--topology", eight, "--explain", "--draw", "--svg", str(picture))
    result = popnet("partition", "real-time", *options)
    assert result.exit_code == 0, result.output
    assert "# CPUs 3,7: the core whose threads are CPUs 3,7, farthest from CPU 0" in result.stdout
    assert list(yaml.safe_load(result.stdout)["kernels"]) == ["primary", "rt"]
    assert "cores  [AA][AA][AA][BB]" in result.stderr
    assert ET.parse(picture).getroot().tag == f"{SVG}svg"


def test_given_by_name(eight: str) -> None:
    result = popnet("partition", "--topology", eight, "--give", "db=0,4:2G@4G", "--cpus", "0-2,4-6")
    assert yaml.safe_load(result.stdout)["kernels"] == {
        "primary": {
            "cpus": "1-2,5-6",
            "memmap": yaml.safe_load(result.stdout)["kernels"]["primary"]["memmap"],
        },
        "db": {"cpus": "0,4", "memmap": "2G@4G"},
    }


@pytest.mark.parametrize(
    ("words", "reason", "hint"),
    [
        ([], "nothing says how to split", "Name a policy"),
        (["eqal"], "no policy 'eqal'; did you mean 'equal'?", ""),
        (["equal"], "equal needs a number of kernels", "--kernels 4"),
        (["per-core", "--kernels", "2"], "per-core finds the number of kernels itself", "use equal"),
        (["equal", "--kernels", "9"], "9 kernels cannot have a CPU each", "--kernels 8"),
        (["per-core", "--memory", "9G"], "4 kernels with 9G each want 36G", "--memory 3600M"),
        (["per-core", "--memory", "x"], "--memory: got 'x'; allowed: a size", ""),
        (["per-core", "--cpus", "0,9"], "--cpus: there is no CPU 9; there are 0-7", "--cpus 0"),
        (["--give", "k1=0:2G@2G"], "the machine has a hole there (1G@3G)", "--give k1=0:2G@1G"),
        (["--give", "k1=0", "--give", "k2=0"], "CPU 0 belongs to k1", "--give k1=0 --give k2=1"),
        (["--give", "x"], "--give: got 'x'; allowed: NAME=CPUS", ""),
        (["per-core", "--name", "X"], "--name: got 'X'; allowed", ""),
        (["per-core", "--svg", "/no/such/p.svg"], "--svg /no/such/p.svg: no such file or directory", ""),
    ],
)
def test_errors(eight: str, words: list[str], reason: str, hint: str) -> None:
    result = popnet("partition", "--topology", eight, *words)
    assert result.exit_code == 1
    assert reason in result.stderr
    assert hint in result.stderr
    assert "Traceback" not in result.stderr


def test_topology_prints_what_partition_reads() -> None:
    for words in ((), ("-o", "json")):
        result = popnet("topology", *words)
        assert result.exit_code == 0
        assert loads_topology(result.stdout).cpus


def test_a_topology_that_cannot_be_read() -> None:
    result = popnet("partition", "per-core", "--topology", "/no/such/file")
    assert result.exit_code == 1
    assert "/no/such/file: cannot read this topology" in result.stderr


def test_the_drawing_shows_who_has_what() -> None:
    lines = drawing(plan(EIGHT, "equal", Wish(2), reserve=1 << 30))
    assert lines[1].strip() == "cores  [AA][AA][BB][BB]"
    bar = lines[2].strip().removeprefix("memory ")
    assert bar.startswith(".")
    assert " " in bar, "the hole"
    assert 28 < bar.count("A") < 34
    assert lines[-2:] == ["A primary  CPUs 0-1,4-5, 7G", "B k1       CPUs 2-3,6-7, 7G"]


def test_shared_and_idle_cpus_in_the_drawing() -> None:
    shared = drawing(plan(ALL["two"], "equal", Wish(3, overcommit=True)))
    assert shared[1].strip() == "cores  [*][B]"


@pytest.mark.parametrize("policy", POLICIES)
def test_the_picture_has_each_cpu_once_and_stays_inside(policy: str) -> None:
    split = plan(BIG, policy, Wish(kernels=8 if policy == "equal" else None))
    root = ET.fromstring(svg(split))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert all(texts.count(str(cpu)) >= 1 for cpu in BIG.cpus)
    for share in split.shares:
        assert any(text is not None and text.startswith(f"{share.name}: ") for text in texts)
    for box in root.findall(f"{SVG}rect"):
        x, y, wide, high = (float(box.attrib.get(key, 0)) for key in ("x", "y", "width", "height"))
        assert 0 <= x <= x + wide <= width
        assert 0 <= y <= y + high <= height
