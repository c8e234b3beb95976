"""The extension in Python under AddressSanitizer and UBSan: against its model, and against mad peers."""

import re
from pathlib import Path

from tests.native.extension import Completed, copy_of_popnet, transport_tests

FLAGS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
TESTS = tuple(
    f"tests/transport/{name}.py" for name in ("test_native", "test_native_properties", "test_native_hostile")
)

OVERREAD = """
#include <stdatomic.h>
#include <string.h>
#include <stdlib.h>
static inline void *careless_memcpy(void *to, const void *from, size_t size) {
    char *copy = malloc(size);
    volatile char beyond = copy[size];
    (void)beyond;
    free(copy);
    return memmove(to, from, size);
}
#define memcpy careless_memcpy
"""


def memory_tests(directory: Path, *arguments: str) -> Completed:
    # Python itself keeps memory until its end, and the link's guards are mappings that asan need not know.
    options = {"ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    return transport_tests(directory, "libasan", options, *arguments)


def test_the_extension_only_touches_what_is_its_own(tmp_path: Path) -> None:
    copy_of_popnet(tmp_path, *FLAGS)
    # Frames are as the high ring, on one that is sixteen times as large.
    done = memory_tests(tmp_path, *TESTS, "-k", "not TestFrames")
    told = done.stdout + done.stderr
    assert "AddressSanitizer" not in told and "runtime error" not in told, told
    assert done.returncode == 0, told
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) > 30, told


def test_an_extension_that_reads_beyond_its_memory_is_found(tmp_path: Path) -> None:
    header = tmp_path / "careless.h"
    header.write_text(OVERREAD)
    copy_of_popnet(tmp_path, *FLAGS, "-O0", "-D_GNU_SOURCE", "-include", str(header))
    done = memory_tests(tmp_path, "tests/transport/test_native.py")
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stdout + done.stderr
