"""Compiles the harnesses of this directory with the rings' own headers, for the tests and tools/fuzz."""

import os
import shutil
import subprocess
import sys
import sysconfig
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
    libraries = [flag for flag in flags if flag.startswith("-l")]
    line = [compiler, "-std=c11", "-g", *WARNINGS, *flags, *includes, str(HERE / f"{name}.c"), "-o", str(to)]
    compiled = subprocess.run(
        [*line, "-pthread", *libraries], capture_output=True, text=True, check=False, timeout=110
    )
    assert compiled.returncode == 0, compiled.stderr
    return to


def embedding() -> list[str]:
    """Flags of a program with this Python in it."""
    where, version = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LDVERSION")
    flags = ["-fno-strict-aliasing", "-DPy_LIMITED_API=0x030B0000", f"-I{sysconfig.get_path('include')}"]
    return [*flags, f"-L{where}", f"-Wl,-rpath,{where}", f"-lpython{version}"]


def embedded() -> dict[str, str]:
    """The environment of such a program: it finds the standard library, the sanitizer sees all objects."""
    own = {"PYTHONHOME": sys.base_prefix, "PYTHONMALLOC": "malloc", "ASAN_OPTIONS": "detect_leaks=0"}
    return {**os.environ, **own}


def run(
    program: Path, *arguments: object, text: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    line = [str(program), *map(str, arguments)]
    return subprocess.run(line, input=text, capture_output=True, text=True, check=False, timeout=110, env=env)
