"""What we publish: the source distribution is whole, and the wheel made of it alone serves C programs."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("README.md", "LICENSE", "MANIFEST.in", "pyproject.toml", "setup.py")
DIRECTORIES = ("popnet", "kernels")
DISSECTOR = Path("tools/wireshark/popnet.lua")
LEFT_OUT = ("__pycache__", "*.so", "*.egg-info")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout as git has it, nothing built."""
    to = tmp_path / "checkout"
    for name in DIRECTORIES:
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    (to / DISSECTOR).parent.mkdir(parents=True)
    for name in (*FILES, str(DISSECTOR)):
        shutil.copy(ROOT / name, to / name)
    return to


def built(kind: str, source: Path, to: Path) -> Path:
    """The one file that setuptools makes of *source*."""
    to.mkdir()
    script = f"import setuptools.build_meta as backend; backend.build_{kind}({str(to)!r})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=source, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [file] = to.iterdir()
    return file


def unpacked(sdist: Path, to: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(to, filter="data")
    [directory] = to.iterdir()
    return directory


def missing(source: Path, checkout: Path) -> set[str]:
    """Files of the checkout that the distribution lacks; building leaves some of its own behind."""
    have = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    want = {str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file()}
    return {name for name in want - have if ".egg-info/" not in name and Path(name).name != ".clang-format"}


def test_the_wheel_of_the_source_distribution_has_the_headers(checkout: Path, tmp_path: Path) -> None:
    source = unpacked(built("sdist", checkout, tmp_path / "sdist"), tmp_path / "source")
    assert missing(source, checkout) == set()
    wheel = built("wheel", source, tmp_path / "wheel")
    assert "-cp311-abi3-" in wheel.name
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    assert (installed / "popnet" / "py.typed").exists()
    assert list(installed.glob("popnet-*.data/data/share/popnet/wireshark/popnet.lua"))
    assert list(installed.glob("popnet-*.data/data/share/popnet/kernels/light/image.yaml"))
    script = "import popnet; print(popnet.include_dir())"
    line = [sys.executable, "-c", script]
    told = subprocess.run(line, cwd=installed, capture_output=True, text=True, check=True, timeout=20)
    include = Path(told.stdout.strip())
    assert include.is_relative_to(installed)
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{include}"]
    program = str(ROOT / "tests" / "native" / "c_program.c")
    line = ["gcc", *flags, program, "-o", str(tmp_path / "c_program")]
    compiled = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert compiled.returncode == 0, compiled.stderr


def test_a_forgotten_header_is_noticed(checkout: Path, tmp_path: Path) -> None:
    (checkout / "MANIFEST.in").write_text("recursive-include popnet/transport/native *.c\n")
    source = unpacked(built("sdist", checkout, tmp_path / "sdist"), tmp_path / "source")
    assert "popnet/transport/include/popnet_link.h" in missing(source, checkout)
