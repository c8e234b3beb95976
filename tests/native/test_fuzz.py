"""The fuzzers for some seconds, with fixed seeds; `tools/fuzz` runs them for as long as you like."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from popnet.message import codec
from popnet.message.kinds import Kind
from tests.native import fuzz_endpoint, fuzz_messages
from tests.native.building import COVERAGE, MEMORY, ROOT, build, clang, embedded, embedding, run

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


def test_a_mad_kernel_only_ends_its_link() -> None:
    told = fuzz_endpoint.fuzz(random.Random(1), executions=150)
    assert told["executions"] == 150
    assert min(told[name] for name in ("violations", "peer-died", "full", "budget_exhausted")) > 5


def test_a_handler_that_believes_what_is_no_object_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "json_object", json.loads)
    with pytest.raises(fuzz_endpoint.Found, match="DecodeError"):
        fuzz_endpoint.fuzz(random.Random(1), executions=150)


def covered(to: Path, *flags: str) -> Path:
    compiler = clang()
    if compiler is None:
        pytest.skip("not installed: clang")
    return build(to, "fuzz", *COVERAGE, *flags, compiler=compiler)


def told_of(done: "subprocess.CompletedProcess[str]") -> tuple[int, int]:
    """Executions, and the edges of the program that they reached."""
    runs = re.search(r"Done (\d+) runs", done.stderr)
    edges = re.findall(r"DONE +cov: (\d+)", done.stderr)
    assert runs and edges, done.stderr
    return int(runs[1]), int(edges[-1])


def test_what_coverage_leads_to_only_gets_faults(tmp_path: Path) -> None:
    done = run(covered(tmp_path / "fuzz"), "-seed=1", "-max_len=4096", f"-runs={EXECUTIONS}")
    assert done.returncode == 0, done.stderr
    executions, edges = told_of(done)
    assert executions == EXECUTIONS
    assert edges > 95, "it came far"


def test_who_believes_a_length_is_found_by_coverage(tmp_path: Path) -> None:
    careless = covered(tmp_path / "careless", "-DCARELESS")
    done = run(careless, "-seed=1", "-max_len=4096", "-runs=300000", f"-artifact_prefix={tmp_path}/")
    assert done.returncode != 0
    assert "AddressSanitizer" in done.stderr


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = clang()
    if compiler is None:
        pytest.skip("not installed: clang")
    to = tmp_path_factory.mktemp("native") / "fuzz"
    return build(to, "fuzz_native", *COVERAGE, *embedding(), compiler=compiler)


NATIVE_OPTIONS = ("-seed=1", "-max_len=4096", "-len_control=0")


def test_mad_peers_of_links_and_pumps_only_get_violations(native: Path) -> None:
    done = run(native, *NATIVE_OPTIONS, "-runs=6000", env=embedded())
    assert done.returncode == 0, done.stderr[-5000:]
    executions, edges = told_of(done)
    assert executions == 6000
    assert edges > 1000, "it came far"


def test_a_pump_that_believes_a_length_is_found(native: Path, tmp_path: Path) -> None:
    words = (*NATIVE_OPTIONS, "-runs=100000", f"-artifact_prefix={tmp_path}/")
    done = run(native, *words, env={**embedded(), "CARELESS": "1"})
    assert done.returncode != 0
    # a frame too long for any TAP, a byte outside the window, or the memory for a record of 4 GiB
    assert re.search("Found: size|AddressSanitizer|out-of-memory", done.stderr), done.stderr[-5000:]


def cover_messages(tmp_path: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    pytest.importorskip("atheris", reason="not installed: atheris")
    line = [sys.executable, "-m", "tests.native.cover_messages", "-seed=1"]
    line += ["-max_len=2048", "-len_control=0", f"-artifact_prefix={tmp_path}/", *options]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)


def test_what_coverage_leads_to_in_messages_only_gets_typed_errors(tmp_path: Path) -> None:
    done = cover_messages(tmp_path, "-runs=1500")
    assert done.returncode == 0, done.stdout + done.stderr
    executions, edges = told_of(done)
    assert executions == 1500
    assert edges > 100, "it came far"


def test_a_wrong_exception_is_found_by_coverage(tmp_path: Path) -> None:
    done = cover_messages(tmp_path, "--careless", "-runs=100000")
    assert done.returncode != 0
    assert "Found: error: unpack requires" in done.stdout + done.stderr
