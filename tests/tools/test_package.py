"""What we publish: the source distribution is whole, and the wheel made of it alone serves C programs, and
runs where there is no compiler."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("README.md", "LICENSE", "MANIFEST.in", "pyproject.toml", "setup.py")
DIRECTORIES = ("popnet", "kernels")
SHIPPED = (
    "tools/wireshark/popnet.lua",
    "tools/grafana/popnet.json",
    "tools/completion/popnet",
    "tools/completion/_popnet",
    "tools/completion/popnet.fish",
    "docs/man/popnet.1",
    "docs/man/popnet-machine.5",
    "docs/man/popnet.7",
)
LEFT_OUT = ("__pycache__", "*.so", "*.egg-info")


def copy(to: Path) -> Path:
    """A checkout as git has it, nothing built."""
    for name in DIRECTORIES:
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for name in (*FILES, *SHIPPED):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
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


def pip(
    *words: str, python: str = sys.executable, path: str = os.environ["PATH"]
) -> "subprocess.CompletedProcess[str]":
    """Our pip, for *python*; it asks no index."""
    line = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", *words]
    environ = {**os.environ, "PATH": path, "PIP_NO_INDEX": "1"}
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=110, env=environ)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("published")
    return built("sdist", copy(to / "checkout"), to / "sdist")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip makes of the source distribution."""
    to = tmp_path_factory.mktemp("wheel")
    done = pip("wheel", "--no-build-isolation", "--no-deps", "-w", str(to), str(sdist))
    assert done.returncode == 0, done.stdout + done.stderr
    [file] = to.iterdir()
    return file


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The programs of a new virtual environment, which sees what popnet depends on where we have it."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=110
    )
    [site] = (tmp_path / "venv" / "lib").glob("python3*/site-packages")
    (site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return tmp_path / "venv" / "bin"


@pytest.fixture
def no_compiler(bare: Path, tmp_path: Path) -> str:
    """A PATH of that environment and of the programs that this host has, but for compilers."""
    only = tmp_path / "only"
    only.mkdir()
    for name in ("sh", "env", "ip", "ping", "ssh", "busybox", "mount", "uname"):
        if found := shutil.which(name):
            (only / name).symlink_to(found)
    path = f"{bare}:{only}"
    assert not any(shutil.which(name, path=path) for name in ("cc", "gcc", "clang", "c++", "make"))
    return path


def test_the_wheel_runs_where_there_is_no_compiler(wheel: Path, bare: Path, no_compiler: str) -> None:
    python = str(bare / "python")
    done = pip("install", "--no-deps", str(wheel), python=python, path=no_compiler)
    assert done.returncode == 0, done.stdout + done.stderr

    def run(*words: str) -> str:
        environ = {**os.environ, "PATH": no_compiler}
        environ.pop("PYTHONPATH", None)
        line = [*words]
        told = subprocess.run(
            line, env=environ, cwd="/", capture_output=True, text=True, check=False, timeout=60
        )
        assert told.returncode in (0, 1) and "Traceback" not in told.stderr, told.stderr
        return told.stdout

    where = run(python, "-c", "import popnet.transport._native as native; print(native.__file__)").strip()
    assert Path(where).is_relative_to(bare.parent) and where.endswith(".abi3.so")
    assert run(str(bare / "popnet"), "--version") == "popnet 0.1.0\n"
    told = run(str(bare / "popnet"), "doctor", "-o", "json")
    checks = {check["name"]: check for check in json.loads(told)["items"]}
    assert checks
    assert "No broken requirements" in pip("check", python=python, path=no_compiler).stdout


def test_from_source_without_a_compiler_one_is_told_what_to_install(
    sdist: Path, bare: Path, no_compiler: str
) -> None:
    words = ("install", "--no-build-isolation", "--no-deps", str(sdist))
    done = pip(*words, python=str(bare / "python"), path=no_compiler)
    assert done.returncode == 1
    assert "apt install gcc libc6-dev python3-dev" in done.stdout + done.stderr
    assert not (bare / "popnet").exists()


def test_the_wheel_of_the_source_distribution_has_the_headers(
    sdist: Path, wheel: Path, tmp_path: Path
) -> None:
    source = unpacked(sdist, tmp_path / "source")
    assert missing(source, copy(tmp_path / "checkout")) == set()
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


def test_a_forgotten_header_is_noticed(tmp_path: Path) -> None:
    checkout = copy(tmp_path / "checkout")
    (checkout / "MANIFEST.in").write_text("recursive-include popnet/transport/native *.c\n")
    source = unpacked(built("sdist", checkout, tmp_path / "sdist"), tmp_path / "source")
    assert "popnet/transport/include/popnet_link.h" in missing(source, checkout)
