"""What a file is, by its first bytes, and what is said of one that is something else."""

import bz2
import gzip
import io
import lzma
import tarfile
from pathlib import Path

import pytest

from popnet.core.errors import InvalidMachineFile
from popnet.machine.file import load_image
from popnet.machine.imagesource import source_problem


def tar() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return made.getvalue()


FILES = {
    "tar": tar(),
    "old tar": tar()[:257] + bytes(8) + tar()[265:],
    "gz": gzip.compress(tar()),
    "xz": lzma.compress(tar()),
    "bz2": bz2.compress(tar()),
    "cpio": b"070701" + b"0" * 600,
    "squashfs": b"hsqs" + bytes(600),
    "odc": b"070707" + b"0" * 600,
    "zip": b"PK\x03\x04" + bytes(range(200)) * 3,
    "text": b"nothing much " * 60,
    "empty": b"",
}


@pytest.mark.parametrize(
    ("root", "name", "problem"),
    [
        ("tar", "tar", None),
        ("tar", "old tar", None),
        ("tar", "gz", None),
        ("tar", "xz", None),
        ("tar", "bz2", None),
        ("cpio", "gz", None),
        ("cpio", "cpio", None),
        ("squashfs", "squashfs", None),
        ("tar", "squashfs", "this is a squashfs; write 'root: squashfs'"),
        ("cpio", "tar", "this is a tar; write 'root: tar'"),
        ("squashfs", "gz", "this file is compressed, and no squashfs"),
        ("cpio", "odc", "make it with `cpio -H newc`"),
        ("tar", "zip", "this is no tar but a zip file"),
        ("tar", "text", "this is no tar but nothing we know"),
        ("tar", "empty", "this file is empty"),
        ("directory", "tar", "this is not a directory"),
        ("tar", ".", "this is not a file"),
        ("tar", "nope", "there is no such file"),
        ("directory", "nope", "there is no such directory"),
        ("directory", ".", None),
    ],
)
def test_what_a_file_is(tmp_path: Path, root: str, name: str, problem: str | None) -> None:
    for file, data in FILES.items():
        (tmp_path / file).write_bytes(data)
    found = source_problem(root, tmp_path / name)
    assert found is None if problem is None else problem in (found or "")


def test_a_manifest_is_wrong_line_by_line(tmp_path: Path) -> None:
    image = tmp_path / "mine"
    image.mkdir()
    (image / "root.bin").write_bytes(FILES["squashfs"])
    manifest = image / "image.yaml"

    def errors(text: str) -> list[str]:
        manifest.write_text("apiVersion: popnet/v1\n" + text)
        with pytest.raises(InvalidMachineFile) as caught:
            load_image(str(image))
        return [line.removeprefix(f"{manifest}:") for line in str(caught.value).splitlines()]

    assert errors("root: tar\nsource: root.bin\n") == [
        f"3:9: source: {image}/root.bin: this is a squashfs; write 'root: squashfs'"
    ]
    assert errors("root: tar\n") == ["2:7: root: tar needs the key 'source': the path of the tar"]
    (first, *_) = errors("root: tra\nsource: root.bin\n")
    assert first == "2:7: root: got 'tra'; did you mean 'tar'?"
    assert errors("source: root.bin\nsha256: abc\n") == [
        "2:9: source: only for a root that is one of directory, tar, squashfs, cpio; this one is "
        "host-overlay",
        "3:9: sha256: got 'abc'; allowed: 64 hexadecimal digits, as sha256sum prints them",
    ]
    assert errors(f"root: directory\nsource: .\nsha256: {'0' * 64}\nprograms: [busybox]\n") == [
        "4:9: sha256: a directory has no digest of its own; leave this key out",
    ]
    assert errors("root: squashfs\nsource: 7\n") == [
        "3:9: source: got 7; allowed: a path such as rootfs.tar.gz",
    ]
    manifest.write_text("apiVersion: popnet/v1\nroot: squashfs\nsource: root.bin\norigin: made up\n")
    found = load_image(str(image))
    assert (found.source, found.origin, found.sha256) == (f"{image}/root.bin", "made up", None)
