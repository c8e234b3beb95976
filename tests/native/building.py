"""Compiles the harnesses of this directory with the rings' own headers, for the tests and tools/fuzz."""

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NATIVE = ROOT / "popnet" / "transport" / "native"

MEMORY = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
"""AddressSanitizer and UBSan, each of which ends the program at what it finds."""

RACES = ("-O1", "-fsanitize=thread", "-Wno-tsan")
"""ThreadSanitizer. It does not know fences (-Wno-tsan): those are the model's."""

COVERAGE = ("-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all", "-DCOVERAGE")
"""libFuzzer and the memory sanitizers: only clang has it."""

WARNINGS = ("-Wall", "-Wextra", "-Werror")


def clang() -> str | None:
    """A clang, if there is one."""
    return next(
        filter(None, map(shutil.which, ("clang", *(f"clang-{version}" for version in range(21, 13, -1))))),
        None,
    )


def build(to: Path, name: str, *flags: str, compiler: str = "gcc") -> Path:
    """The program made of `name.c`."""
    includes = (f"-I{NATIVE}", f"-I{HERE}")
    line = [compiler, "-std=c11", "-g", *WARNINGS, *flags, *includes, str(HERE / f"{name}.c"), "-o", str(to)]
    compiled = subprocess.run([*line, "-pthread"], capture_output=True, text=True, check=False, timeout=110)
    assert compiled.returncode == 0, compiled.stderr
    return to


def run(program: Path, *arguments: object, text: str = "") -> subprocess.CompletedProcess[str]:
    line = [str(program), *map(str, arguments)]
    return subprocess.run(line, input=text, capture_output=True, text=True, check=False, timeout=110)
