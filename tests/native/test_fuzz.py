"""The fuzzers for some seconds, with fixed seeds; `tools/fuzz` runs them for as long as you like."""

import random
import re
from pathlib import Path

import pytest

from popnet.message import codec
from popnet.message.kinds import Kind
from tests.native import fuzz_messages
from tests.native.building import MEMORY, build, run

EXECUTIONS = 50_000


def test_a_mad_peer_only_gets_faults(tmp_path: Path) -> None:
    done = run(build(tmp_path / "fuzz", "fuzz", *MEMORY), 1, -EXECUTIONS)
    assert (done.returncode, done.stderr) == (0, "")
    told = {text.strip(): int(count) for count, text in re.findall(r"(\d+)  (.+)", done.stdout)}
    assert told.pop("a frame is shorter than its headers") == 0, "that is the pump's to find"
    assert len(told) == 8
    assert all(told.values()), "every fault, and none, came up"


def test_who_believes_a_length_is_found(tmp_path: Path) -> None:
    done = run(build(tmp_path / "careless", "fuzz", *MEMORY, "-DCARELESS"), 1, -EXECUTIONS)
    assert done.returncode != 0
    assert "AddressSanitizer" in done.stderr


def test_garbage_in_messages_only_gets_typed_errors() -> None:
    told = fuzz_messages.fuzz(random.Random(1), executions=300)
    assert told["executions"] == 300
    assert told["violations"] > 0
    assert min(told[name] for name in ("offered", "accepted", "arrived", "peerclosed", "failed")) > 20


def test_a_wrong_exception_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(body: bytes) -> int:
        return int(codec.U32.unpack(body)[0])

    monkeypatch.setattr(codec, "u32_of", careless)
    with pytest.raises(fuzz_messages.Found, match=rf"kind={int(Kind.CREDIT)}\b"):
        fuzz_messages.fuzz(random.Random(1), executions=3000)
