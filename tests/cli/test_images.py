"""`popnet images`: what there is, and whether it is the same."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from popnet.cli.main import cli
from popnet.core.errors import InvalidMachineFile
from popnet.machine.file import loads
from popnet.machine.host import Host

KERNELS = Path(__file__).parents[2] / "kernels"


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["images", *words])


def rows(*words: str) -> dict[str, dict[str, object]]:
    return {row["name"]: row for row in json.loads(run(*words, "-o", "json").stdout)["items"]}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A copy of *light* under another name, with a file more."""
    copy = tmp_path / "mine"
    shutil.copytree(KERNELS / "light", copy)
    (copy / "image.yaml").write_text("apiVersion: popnet/v1\nroot: ramdisk\nprograms: [busybox]\n")
    (copy / "extra").write_bytes(b"x" * 5000)
    return copy


def test_those_that_we_bring() -> None:
    found = rows()
    assert {"full", "light"} <= set(found)
    assert (found["light"]["kind"], found["light"]["root"]) == ("native", "ramdisk")
    assert found["light"]["path"] == str(KERNELS / "light")
    table = run().stdout.splitlines()
    assert table[0].split() == ["NAME", "KIND", "ROOT", "SIZE", "SHA256", "ORIGIN"]


def test_the_digest_is_of_contents_and_names_not_of_the_place(mine: Path, tmp_path: Path) -> None:
    first = rows(str(mine))["mine"]
    assert first["size_bytes"] == sum(file.stat().st_size for file in mine.iterdir())
    shutil.copytree(mine, tmp_path / "other" / "mine")
    assert rows(str(tmp_path / "other/mine"))["mine"]["sha256"] == first["sha256"]
    (mine / "extra").write_bytes(b"x" * 4999 + b"y")
    changed = rows(str(mine))["mine"]["sha256"]
    (mine / "extra").rename(mine / "extrb")
    assert len({first["sha256"], changed, rows(str(mine))["mine"]["sha256"]}) == 3


def test_a_broken_image_is_named_with_its_place(mine: Path) -> None:
    (mine / "image.yaml").write_text("apiVersion: popnet/v1\nkind: nativ\n")
    result = run(str(mine))
    assert result.exit_code == 1
    assert f"{mine}/image.yaml:2:7: kind: got 'nativ'; did you mean 'native'?" in result.stderr
    missing = run("/no/such/image")
    assert missing.exit_code == 1
    assert "/no/such/image/image.yaml: cannot read this image manifest" in missing.stderr


def test_a_machine_file_names_an_image_by_its_path(mine: Path) -> None:
    text = "apiVersion: popnet/v1\nname: m\nkernels: {k1: {image: ./mine}}\n"
    host, file = Host((0,), 1 << 30), str(mine.parent / "m.yaml")
    spec = loads(text, host, [str(KERNELS)], file=file).by_name("k1")
    assert (spec.image, spec.image_path) == ("mine", str(mine))
    shutil.copytree(mine, mine.parent / "more" / "mine")
    twice = text.replace("}}", "}, k2: {image: ./more/mine}}")
    with pytest.raises(
        InvalidMachineFile, match=r"m\.yaml:3:44: kernels\.k2\.image: another image is called"
    ):
        loads(twice, host, [str(KERNELS)], file=file)
    with pytest.raises(InvalidMachineFile, match=r"nope/image\.yaml: cannot read"):
        loads(text.replace("mine", "nope"), host, [str(KERNELS)], file=file)
