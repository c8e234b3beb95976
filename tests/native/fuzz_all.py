"""Both fuzzers for so many seconds: the rings first, then the messages."""

import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.native import fuzz_messages
from tests.native.building import MEMORY, build


def main(seconds: int, seed: int) -> int:
    half = max(1, seconds // 2)
    with tempfile.TemporaryDirectory() as directory:
        program = build(Path(directory) / "fuzz", "fuzz", *MEMORY)
        done = subprocess.run([str(program), str(seed), str(half)], check=False)
    if done.returncode:
        return 1
    dice, told, end = random.Random(seed), Counter[str](), time.monotonic() + half
    while time.monotonic() < end:
        told += fuzz_messages.fuzz(dice, 100)
    print("messages:", ", ".join(f"{count} {name}" for name, count in told.most_common()))
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
