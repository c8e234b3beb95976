"""Kernels whose roots come as files: each kind boots, is shared and not changed; broken ones boot nothing."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from popnet.control.client import Client
from tests.live.conftest import _lab
from tests.live.lab import Lab

KINDS = ("directory", "tar", "squashfs", "cpio")


def make(directory: Path, kind: str, more: str = "") -> Path:
    """An image of that kind in *directory*, called as its kind: busybox, and a file that says what it is."""
    image = directory / kind
    image.mkdir(parents=True)
    names = {"directory": "rootfs", "tar": "root.tar.gz", "squashfs": "root.squashfs", "cpio": "root.cpio.gz"}
    source = image / names[kind]
    if kind == "cpio":
        (image / "kind").write_text(kind)
        command = [sys.executable, "-m", "popnet.cli.main", "ramdisk", str(source)]
        subprocess.run([*command, "--file", f"{image}/kind:/etc/kind"], check=True, capture_output=True)
    else:
        tree = image / "rootfs"
        (tree / "bin").mkdir(parents=True)
        (tree / "etc").mkdir()
        (tree / "etc/kind").write_text(kind)
        busybox = shutil.which("busybox")
        assert busybox is not None
        shutil.copy(Path(busybox).resolve(), tree / "bin/busybox")
        for name in ("sh", "cat", "uname", "rm", "ls"):
            (tree / "bin" / name).symlink_to("busybox")
        if kind == "tar":
            with tarfile.open(source, "w:gz") as archive:
                archive.add(tree, ".")
        elif kind == "squashfs":
            subprocess.run(["mksquashfs", tree, source, "-quiet"], check=True, capture_output=True)
    manifest = f"apiVersion: popnet/v1\nroot: {kind}\nsource: {names[kind]}\norigin: made here\n{more}"
    (image / "image.yaml").write_text(manifest)
    return image


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A machine with a kernel of each kind, called as its kind, and a second one of the tar."""
    for lab in _lab(tmp_path_factory.mktemp("images")):
        text = "apiVersion: popnet/v1\nname: lab\nkernels:\n"
        for kind in KINDS:
            make(lab.tmp, kind)
            text += f"  {kind}: {{image: ./{kind}}}\n"
        lab.popnet("up", lab.file(text + "  second: {image: ./tar}\n"))
        yield lab


@pytest.mark.parametrize("kind", KINDS)
def test_a_kernel_shows_it_and_changes_only_its_own(machine: Lab, kind: str) -> None:
    said = machine.sh(kind, "cat /etc/kind; echo; uname -n; rm /etc/kind; ls /etc; cat /etc/hostname").split()
    assert said[:2] == [kind, kind]
    assert "kind" not in said[2:]
    assert said[-1] == kind
    machine.popnet("reboot", kind)
    assert machine.sh(kind, "cat /etc/kind") == kind, "what it changed ended with it"


def test_an_archive_is_unpacked_once_and_removed_only_when_nobody_shows_it(machine: Lab) -> None:
    assert machine.sh("second", "cat /etc/kind") == "tar"
    unpacked = [event for event in machine.events() if event["kind"] == "image.unpacked"]
    assert sum("image tar:" in event["text"] for event in unpacked) == 1
    kept = json.loads(machine.popnet("-o", "json", "images", "--kept").stdout)["items"]
    assert {"tar", "cpio"} <= {Path(row["origin"]).parent.name for row in kept}
    assert json.loads(machine.popnet("-o", "json", "images", "--prune").stdout)["items"] == []


def test_images_are_listed_with_size_digest_and_origin(machine: Lab) -> None:
    places = [str(machine.tmp / kind) for kind in KINDS]
    rows = json.loads(machine.popnet("-o", "json", "images", *places).stdout)["items"]
    assert [row["name"] for row in rows] == list(KINDS)
    for row in rows:
        assert (row["origin"], row["error"], row["root"]) == ("made here", None, row["name"])
        assert row["size_bytes"] > 100_000
        assert len(row["sha256"]) == 64
    assert "made here" in machine.popnet("images", *places).stdout
    told = Client("lab", run_dir=machine.run_dir).get("/v1/images")
    by_name = {row["name"]: row for row in told}
    assert {*KINDS, "full", "light"} <= set(by_name)
    assert {by_name[kind]["sha256"] for kind in KINDS} == {row["sha256"] for row in rows}
    assert (by_name["tar"]["found"], by_name["full"]["found"]) == ("path", "name")


def test_an_ordinary_user_has_them_all(lab: Lab) -> None:
    if os.geteuid() == 0:
        lab.prefix = (sys.executable, "-m", "tests.live.as_user")
        lab.environ = {"HOME": str(lab.tmp), "PYTHONPATH": str(Path(__file__).parents[2])}
    text = "apiVersion: popnet/v1\nname: lab\nkernels:\n"
    for kind in KINDS:
        make(lab.tmp, kind)
        text += f"  {kind}: {{image: ./{kind}}}\n"
    lab.popnet("up", lab.file(text))
    for kind in KINDS:
        assert lab.sh(kind, "rm /etc/kind; echo new > /etc/kind; cat /etc/kind; uname -n").split() == [
            "new",
            kind,
        ]


def test_one_that_was_cut_off_boots_nothing_and_nothing_is_kept(lab: Lab) -> None:
    source = make(lab.tmp, "tar") / "root.tar.gz"
    os.truncate(source, source.stat().st_size // 2)
    file = lab.file("apiVersion: popnet/v1\nname: lab\nkernels:\n  k1: {image: ./tar}\n")
    result = lab.popnet("up", file, check=False)
    assert result.returncode == 1
    said = f"kernel k1: image: image tar: {source}: the gzip data ends too early: it was cut off"
    assert said in result.stderr
    assert lab.machines() == []
    assert not list((lab.tmp / "cache/roots").glob("*/root"))


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (f"sha256: {'0' * 64}\n", "its SHA-256 is"),
        ("init: /sbin/init\n", "init /sbin/init is not in the root"),
        ("init: /etc/kind\n", "init /etc/kind is no file that may be executed"),
    ],
)
def test_one_that_cannot_boot_fails_alone(machine: Lab, tmp_path: Path, more: str, what: str) -> None:
    image = make(tmp_path, "tar", more).rename(tmp_path / "broken")
    machine.popnet("load", "k9", "--image", str(image))
    result = machine.popnet("boot", "k9", check=False)
    assert result.returncode == 1
    assert f"kernel k9: image: image broken: {image}/root.tar.gz: {what}" in result.stderr
    assert "Traceback" not in result.stderr
    rows = machine.kernels()
    assert (rows["k9"]["state"], rows["tar"]["state"]) == ("failed", "online")
    machine.popnet("load", "k9", check=False)
    machine.popnet("unload", "k9")


def test_one_that_is_no_archive_is_not_even_loaded(machine: Lab, tmp_path: Path) -> None:
    image = make(tmp_path, "tar").rename(tmp_path / "broken")
    (image / "root.tar.gz").write_text("not a tar at all\n")
    result = machine.popnet("load", "k9", "--image", str(image), check=False)
    assert result.returncode == 1
    assert f"image.yaml:3:9: source: {image}/root.tar.gz: this is no tar" in result.stderr
    assert "k9" not in machine.kernels()


def test_a_kernel_that_runs_meanwhile_is_not_disturbed(lab: Lab) -> None:
    image = make(lab.tmp, "squashfs")
    lab.popnet("up", lab.file("apiVersion: popnet/v1\nname: lab\nkernels:\n  k1: {image: light}\n"))
    lab.popnet("load", "k2", "--image", str(image))
    lab.popnet("boot", "k2")
    assert lab.sh("k2", "cat /etc/kind") == "squashfs"
    lab.popnet("kill", "k2")
    raw = bytearray((image / "root.squashfs").read_bytes())
    (image / "root.squashfs").unlink()
    (image / "root.squashfs").write_bytes(raw[: len(raw) // 2])
    result = lab.popnet("boot", "k2", check=False)
    assert result.returncode == 1
    assert "image: image squashfs:" in result.stderr
    assert "cut off" in result.stderr
    rows = lab.kernels()
    assert (rows["k2"]["state"], rows["k1"]["state"]) == ("failed", "online")
    assert "cut off" in rows["k2"]["reason"]
    assert lab.sh("k1", "echo here") == "here\n"
