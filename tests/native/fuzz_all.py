"""The fuzzers for so many seconds: some throw dice, some are led by coverage and keep what they learn."""

import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.native import fuzz_endpoint, fuzz_messages
from tests.native.building import COVERAGE, MEMORY, ROOT, build, clang, embedded, embedding

CORPORA = ROOT / "build" / "fuzz"
"""Inputs that reached something new, by target: a later run goes on from there. Findings are beside them."""


def rings(seconds: int, seed: int) -> int:
    with tempfile.TemporaryDirectory() as directory:
        program = build(Path(directory) / "fuzz", "fuzz", *MEMORY)
        return subprocess.run([str(program), str(seed), str(seconds)], check=False).returncode


def messages(seconds: int, seed: int) -> int:
    dice, told, end = random.Random(seed), Counter[str](), time.monotonic() + seconds
    while time.monotonic() < end:
        told += fuzz_messages.fuzz(dice, 100) + fuzz_endpoint.fuzz(dice, 20)
    print("messages:", ", ".join(f"{count} {name}" for name, count in told.most_common()))
    return 0


def led(name: str, line: list[str], seconds: int, seed: int, env: dict[str, str] | None = None) -> int:
    corpus = CORPORA / name
    corpus.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-seed={seed % 2**32 or 1}",
        "-max_len=4096",
        "-use_value_profile=1",
        "-len_control=0",
        "-print_final_stats=1",
    ]
    return subprocess.run(
        [*line, *options, f"-artifact_prefix={corpus}-found-", str(corpus)], cwd=ROOT, check=False, env=env
    ).returncode


def covered_rings(seconds: int, seed: int) -> int:
    compiler = clang()
    if compiler is None:
        sys.exit("covered-rings needs clang and its runtime: tools/setup test installs both")
    with tempfile.TemporaryDirectory() as directory:
        program = build(Path(directory) / "fuzz", "fuzz", *COVERAGE, compiler=compiler)
        return led("covered-rings", [str(program)], seconds, seed)


def covered_native(seconds: int, seed: int) -> int:
    compiler = clang()
    if compiler is None:
        sys.exit("covered-native needs clang and its runtime: tools/setup test installs both")
    with tempfile.TemporaryDirectory() as directory:
        program = build(Path(directory) / "fuzz", "fuzz_native", *COVERAGE, *embedding(), compiler=compiler)
        return led("covered-native", [str(program)], seconds, seed, embedded())


def covered_messages(seconds: int, seed: int) -> int:
    return led("covered-messages", [sys.executable, "-m", "tests.native.cover_messages"], seconds, seed)


TARGETS = {
    "rings": rings,
    "messages": messages,
    "covered-rings": covered_rings,
    "covered-native": covered_native,
    "covered-messages": covered_messages,
}


def main(seconds: int, target: str, seed: int) -> int:
    if target != "all" and target not in TARGETS:
        sys.exit(f"target {target}: there are all, {', '.join(TARGETS)}")
    chosen = list(TARGETS.values()) if target == "all" else [TARGETS[target]]
    return max(fuzz(max(1, seconds // len(chosen)), seed) != 0 for fuzz in chosen)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
