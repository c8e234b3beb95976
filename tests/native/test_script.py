"""The rings in plain C against their Python model, operation by operation, under both memory sanitizers."""

import functools
import random
import zlib
from pathlib import Path

import pytest

from popnet.transport._native import PAYLOAD_MAX, RING_SIZES
from tests.native.building import MEMORY, build, run
from tests.transport.ring_model import RingModel

OPERATIONS = 800
STARTS = (0, 2**64 - 64, 2**64 - (1 << 20))


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("script") / "script", "script", *MEMORY)


@functools.cache
def payload(size: int, seed: int) -> bytes:
    return bytes((seed + i * 7 + (i >> 8)) & 0xFF for i in range(size))


def size_in(dice: random.Random, ring: int) -> int:
    top = PAYLOAD_MAX[ring]
    edges = (0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 121, top // 2, top - 64, top - 1, top)
    return dice.choice(
        (dice.choice(edges), dice.randint(0, 300), dice.randint(0, 300), dice.randint(0, 5000))
    )


def operation(dice: random.Random, ring: int, i: int) -> tuple[str, ...]:
    """The ring is filled and drained in turns, and between the two the producer waits for room."""
    size, seed = str(size_in(dice, ring)), str(dice.randrange(1000))
    fill, drain = ("batch", "400", str(5000 << ring), seed), ("receive", "100000")
    wait = ("arm_room", str(PAYLOAD_MAX[ring]))
    match i % 24:
        case 10 | 11 | 12 as turn:
            return (fill, wait, drain)[turn - 10]
        case phase:
            either: list[tuple[str, ...]] = [
                ("send", size, seed),
                ("arm",),
                ("disarm",),
                ("arm_room", size),
                ("disarm_room",),
            ]
            fills: list[tuple[str, ...]] = [fill, ("batch", "3", size, seed)]
            drains: list[tuple[str, ...]] = [drain, ("receive", "2"), ("receive", "30"), ("arm",)]
            return dice.choice(either + (fills if phase < 12 else drains))


def done_by(model: RingModel, words: tuple[str, ...]) -> str:
    """What the harness prints of an operation."""
    name, *texts = words
    numbers = [int(text) for text in texts]
    match name, numbers:
        case "send", [size, seed]:
            return f"{model.send([(seed, payload(size, seed % 256))])} "
        case "batch", [count, size, seed]:
            return f"{model.send([(seed + i, payload(size, (seed + i) % 256)) for i in range(count)])} "
        case "receive", [budget]:
            taken = model.receive(budget)
            return "".join(f"{tag}:{len(data)}:{zlib.crc32(data):08x} " for tag, data in taken)
        case "arm", _:
            return f"{model.arm():d} "
        case "arm_room", [size]:
            return f"{model.arm_room(size):d} "
        case "disarm", _:
            model.armed_data = 0
        case _:
            model.armed_room = 0
    return ""


def told_by(model: RingModel, bells: list[int]) -> str:
    """What the harness prints of the ring after an operation; *bells* were rung so often before."""
    rung = [model.producer_bell - bells[0], model.consumer_bell - bells[1]]
    bells[:] = model.producer_bell, model.consumer_bell
    words = f"{model.produced} {model.consumed} {model.armed_data} {model.armed_room}"
    return f"| {words} | {rung[0]} {rung[1]} | {zlib.crc32(model.data):08x} | 0"


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("ring", range(3))
def test_it_does_what_the_model_does(script: Path, ring: int, start: int) -> None:
    dice = random.Random(f"{ring} {start}")
    model, bells = RingModel(RING_SIZES[ring], PAYLOAD_MAX[ring], start), [0, 0]
    operations = [operation(dice, ring, i) for i in range(OPERATIONS >> ring)]
    done = run(script, ring, start, text="".join(" ".join(words) + "\n" for words in operations))
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.splitlines()
    assert len(told) == len(operations)
    for words, line in zip(operations, told, strict=True):
        expected = done_by(model, words)
        assert line == expected + told_by(model, bells), words
    assert model.producer_bell and model.consumer_bell, "both were woken"


@pytest.mark.parametrize(
    ("mistake", "found"),
    [
        ("overflow 10 1", "AddressSanitizer: heap-buffer-overflow"),
        ("stray 0", "AddressSanitizer: SEGV"),
        ("undefined 2", "runtime error: signed integer overflow"),
    ],
)
def test_the_sanitizers_are_awake(script: Path, mistake: str, found: str) -> None:
    done = run(script, 0, 0, text=f"send 10 1\n{mistake}\n")
    assert done.returncode != 0
    assert found in done.stderr
