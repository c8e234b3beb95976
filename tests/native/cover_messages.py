"""The fuzzer of messages, led by coverage: atheris looks for bytes that reach new lines of popnet.message.

An input is one conversation of fuzz_messages, or one life of fuzz_endpoint: its bytes are what the dice show,
and when they are used up, zeros. Needs atheris (the extra `test`). Usage:
python -m tests.native.cover_messages [OPTION of libFuzzer]... CORPUS. With --careless a number of a
wrong length is believed, which has to be found.
"""

import random
import sys
from collections import Counter

import atheris

with atheris.instrument_imports(
    include=["popnet.message", "tests.native.fuzz_messages", "tests.native.fuzz_endpoint"]
):
    from popnet.message import codec
    from tests.native import fuzz_endpoint, fuzz_messages


class Shown(random.Random):
    """Dice that show the bytes of an input."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self.data, self.used = data, 0

    def getrandbits(self, k: int) -> int:
        size = (k + 7) // 8
        shown = self.data[self.used : self.used + size]
        self.used += size
        return int.from_bytes(shown, "little") & ((1 << k) - 1)

    def random(self) -> float:
        return self.getrandbits(16) / 65536


FUZZER = fuzz_endpoint.Fuzzer()


def execute(data: bytes) -> None:
    dice = Shown(data[1:])
    if data[:1] > b"\x7f":
        FUZZER.execute(dice, Counter())
    else:
        fuzz_messages.fuzz(dice, executions=1)


def believe(body: bytes) -> int:
    return int(codec.U32.unpack(body)[0])


def main() -> None:
    arguments = [argument for argument in sys.argv if argument != "--careless"]
    if len(arguments) < len(sys.argv):
        codec.u32_of = believe
    atheris.Setup(arguments, execute)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
