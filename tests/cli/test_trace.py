"""`trace`: lines, records, both kinds of files, what is chosen, and what is said when something is wrong."""

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from popnet.cli.tracefiles import PSEUDO_HEADER, ChromeFile, PcapngFile
from popnet.cli.traceviews import HEADING, line, record
from popnet.control.pcapng_reader import Packet, Reader
from popnet.kernel.trace import PAYLOAD_MAX
from popnet.message.kinds import Kind
from popnet.message.tracehalf import HEAD
from popnet.message.tracejoin import Traced
from tests.cli.conftest import ROOT, Machine

NAMES = {0: "primary", 1: "k1"}
OFFSET = 1_700_000_000_000_000_000

WHOLE = Traced(
    0, 1, 1, 2, 1, 42, Kind.OPEN, 10, bytes([3, 0, 0, 0, 2, 0, 0, 0]) + b"{}",
    enqueue_ns=10_000, publish_ns=12_000, sent_ns=14_000, kick_ns=14_000, wake_ns=52_500, begin_ns=60_000,
    handle_ns=71_250,
)  # fmt: skip
UNHANDLED = Traced(
    1, 2, 7, 1, 0, 43, 0x8001, 8, bytes(8), enqueue_ns=15_000, publish_ns=15_000, sent_ns=16_000
)
ONLY_RECEIVED = Traced(
    7, 1, 1, 2, 0, 44, Kind.CREDIT, 12, bytes(12),
    wake_ns=80_000, begin_ns=81_000, handle_ns=82_000, awake=True,
)  # fmt: skip


def records(result: "subprocess.CompletedProcess[bytes]") -> list[dict[str, Any]]:
    return [json.loads(text) for text in result.stdout.splitlines()]


# Lines and records


def test_a_line() -> None:
    columns = line(WHOLE, NAMES, OFFSET).split()
    assert columns[1:] == ["primary", "k1", "normal", "OPEN", "3", "2", "4.0", "42.5", "61.2"]
    assert columns[0].endswith(":20.000010")
    assert len(line(WHOLE, NAMES, OFFSET)) == HEADING.index("  (µs")


def test_a_line_of_half_a_message() -> None:
    unhandled, received = line(UNHANDLED, NAMES, OFFSET), line(ONLY_RECEIVED, NAMES, OFFSET)
    assert unhandled.split()[1:] == ["k1", "#7", "high", "32769", "0", "0", "-", "-", "-"]
    assert received.split()[1:] == ["#7", "k1", "high", "CREDIT", "0", "4", "-", "0.0*", "2.0"]


def test_a_record() -> None:
    row = record(WHOLE, NAMES, OFFSET)
    assert (
        row["from"] == "primary" and row["to"] == "k1" and row["kind"] == "OPEN" and row["ring"] == "normal"
    )
    assert (row["enqueue_ns"], row["kick_ns"], row["wake_ns"]) == (10_000, 14_000, 52_500)
    assert (row["kick_us"], row["wake_us"], row["handle_us"]) == (4.0, 42.5, 61.25)
    half = record(UNHANDLED, NAMES, OFFSET)
    assert half["kick_ns"] is half["wake_us"] is half["handle_ns"] is None


# Files


def packets(data: bytes) -> list[Packet]:
    return Reader().feed(data)


def test_pcapng_has_an_interface_a_kernel_also_for_one_that_comes_later() -> None:
    file = PcapngFile(NAMES, OFFSET)
    data = file.head() + file.messages([WHOLE, UNHANDLED]) + file.messages([ONLY_RECEIVED]) + file.end()
    found = packets(data)
    assert [packet.interface for packet in found] == ["primary", "k1", "#7"]
    assert [packet.time_ns - OFFSET for packet in found] == [10_000, 15_000, 80_000]
    head = PSEUDO_HEADER.unpack_from(found[0].data)
    assert head[:11] == (1, 64, 1, 1, 0, 1, 1, 2, Kind.OPEN, 10, 42)
    assert [time_ns - OFFSET for time_ns in head[11:]] == [10_000, 14_000, 52_500, 71_250]
    assert found[0].data[PSEUDO_HEADER.size :] == WHOLE.payload
    assert PSEUDO_HEADER.unpack_from(found[2].data)[3] == 2  # awake, not kicked
    assert PSEUDO_HEADER.unpack_from(found[2].data)[11:13] == (0, 0)


def test_pcapng_says_how_long_a_cut_message_was() -> None:
    cut = Traced(0, 1, 1, 1, 1, 0, Kind.DATA, 1008, bytes(8), 1, 1, 2)
    [packet] = packets(PcapngFile(NAMES, 0).head() + PcapngFile(NAMES, 0).messages([cut]))[-1:]
    assert (len(packet.data), packet.original_length) == (72, 1072)


def events(*messages: Traced) -> list[dict[str, Any]]:
    file = ChromeFile(NAMES, OFFSET)
    document = json.loads(
        file.head() + file.messages(messages[:1]) + file.messages(messages[1:]) + file.end()
    )
    assert document["displayTimeUnit"] == "ns"
    return list(document["traceEvents"])


def test_trace_events_have_a_process_a_kernel_and_a_thread_a_ring() -> None:
    names = {
        (event["pid"], event.get("tid")): event["args"]["name"]
        for event in events(UNHANDLED)
        if event["name"] in ("process_name", "thread_name")
    }
    kernels = {1: "primary", 2: "k1", 8: "#7"}
    rings = {0: "high ring", 1: "normal ring"}
    threads = {(pid, 1000 * pid + ring): name for pid in kernels for ring, name in rings.items()}
    assert names == {(pid, None): name for pid, name in kernels.items()} | threads
    assert not {tid for _, tid in threads} & set(range(257)), (
        "one with its process's number is the main thread"
    )


def test_an_arrow_goes_from_the_slice_of_the_sender_to_that_of_the_receiver() -> None:
    found = [event for event in events(WHOLE) if event["ph"] != "M"]
    sending, handling = (event for event in found if event["ph"] == "X")
    assert (sending["pid"], sending["tid"], sending["ts"], sending["dur"]) == (1, 1001, 12.0, 2.0)
    assert (handling["pid"], handling["tid"], handling["ts"], handling["dur"]) == (2, 2001, 60.0, 11.25)
    assert sending["name"] == handling["name"] == "OPEN"
    assert sending["args"]["to"] == "k1" and handling["args"]["handle_us"] == 61.25
    [start], [end] = ([event for event in found if event["ph"] == phase] for phase in "sf")
    assert start["id"] == end["id"] and start["name"] == end["name"] and start["cat"] == end["cat"]
    assert (start["pid"], start["tid"], start["ts"]) == (1, 1001, 12.0)  # inside the slice
    assert (end["pid"], end["tid"], end["ts"], end["bp"]) == (2, 2001, 60.0, "e")
    waits = [(event["ph"], event["ts"], event["id"]) for event in found if event["ph"] in "be"]
    assert waits == [("b", 10.0, start["id"]), ("e", 12.0, start["id"])]
    [wake] = [event for event in found if event["ph"] == "i"]
    assert (wake["pid"], wake["ts"]) == (2, 52.5)


def test_half_a_message_has_no_arrow_and_one_wake_is_one_event() -> None:
    assert [event["ph"] for event in events(UNHANDLED, ONLY_RECEIVED) if event["ph"] != "M"] == ["X", "X"]
    assert [event["ph"] for event in events(WHOLE, WHOLE)].count("i") == 1


def test_the_documentation_has_the_layout() -> None:
    text = (ROOT / "docs/tracing.md").read_text()
    assert f"length of this header, {PSEUDO_HEADER.size};" in text
    assert f"kept is {PAYLOAD_MAX} bytes" in text and f"a head\nof {HEAD.size} bytes" in text
    assert HEADING in text


# The verb


def test_lines(machine: Machine) -> None:
    result = machine.run("trace", "-c", "3")
    assert result.returncode == 0, result.stderr
    heading, *lines = result.stdout.decode().splitlines()
    assert heading == HEADING
    assert [text.split()[1:] for text in lines] == [
        ["primary", "k1", "normal", "OPEN", "11", "18", "9.0", "40.0", "50.0"],
        ["k1", "primary", "normal", "DATA", "11", "6", "-", "19.0*", "29.5"],
        ["primary", "k2", "high", "32768", "11", "100", "-", "-", "-"],
    ]
    says = result.stderr.decode().splitlines()
    assert says[0] == "tracing the messages of primary, k1, local; Ctrl-C stops"
    assert says[1] == "3 messages traced; the kernels lost 2 halves of some"


def test_records(machine: Machine) -> None:
    result = machine.run("-q", "trace", "-o", "json", "-c", "2")
    first, second = records(result)
    assert (first["from"], first["to"], first["kind"], first["number"]) == ("primary", "k1", "OPEN", 7)
    assert first["handle_ns"] - first["enqueue_ns"] == 50_000
    assert (second["kind"], second["awake"], second["kick_us"]) == ("DATA", True, None)
    assert result.stderr == b""
    assert machine.run("-q", "trace", "-o", "yaml", "-c", "1").stdout.startswith(b"---\n")


@pytest.mark.parametrize("kind", ["data", "DATA", "4"])
def test_a_kind(machine: Machine, kind: str) -> None:
    [only] = records(machine.run("trace", "-o", "json", "--kind", kind, "-c", "1"))
    assert only["kind"] == "DATA"


def test_kinds_of_users_and_several(machine: Machine) -> None:
    result = machine.run("trace", "-o", "json", "--kind", "0x8000", "--kind", "open", "-c", "2")
    assert [row["kind"] for row in records(result)] == ["OPEN", "32768"]


def test_a_kernel(machine: Machine) -> None:
    """Its messages, with what the kernels at their other ends saw of them."""
    rows = records(machine.run("trace", "k1", "-o", "json", "-c", "2"))
    assert [(row["from"], row["to"]) for row in rows] == [("primary", "k1"), ("k1", "primary")]
    assert all(row["enqueue_ns"] and row["handle_ns"] for row in rows)


def test_into_a_pcapng_file(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "messages.pcapng"
    result = machine.run("trace", "-w", str(path), "-c", "3")
    assert result.returncode == 0 and result.stdout == b""
    found = packets(path.read_bytes())
    assert [packet.interface for packet in found] == ["primary", "k1", "primary"]
    assert [len(packet.data) for packet in found] == [64 + 8 + size for size in (18, 6, 100)]
    machine.run("trace", "-w", str(path), "-c", "3", "-s", "10")
    assert [len(packet.data) for packet in packets(path.read_bytes())] == [82, 78, 82]


def test_into_a_file_of_trace_events_until_ctrl_c(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "messages.json"
    path.write_text("old")
    process = machine.popen("trace", "-w", str(path), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while b'"OPEN"' not in path.read_bytes():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b""), err
    found = json.loads(path.read_bytes())["traceEvents"]
    assert [event["name"] for event in found if event["ph"] == "X"] == [
        "OPEN",
        "OPEN",
        "DATA",
        "DATA",
        "32768",
    ]


def test_a_kernel_that_dies_is_named_and_the_trace_goes_on(machine: Machine, tmp_path: Path) -> None:
    result = machine.run("trace", "-w", str(tmp_path / "x.pcapng"), "-s", "5", "-c", "3")
    assert result.returncode == 0
    assert b"kernel k1 is not traced any more: kernel 1 was killed" in result.stderr
    assert b"3 messages traced" in result.stderr


def test_a_reader_that_goes_ends_it_quietly(machine: Machine) -> None:
    process = machine.popen("trace", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 141
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


@pytest.mark.parametrize(
    ("args", "status", "says"),
    [
        (("k9",), 1, "no kernel 'k9' in this machine"),
        (("k2",), 1, "kernel k2 is offline"),
        (("--kind", "GREETING"), 2, "no kind 'GREETING'; there are OPEN, ACCEPT,"),
        (("--kind", "99"), 2, "no kind '99'"),
        (("--kind", "-1"), 2, "no kind '-1'"),
        (("--kind", "0xzz"), 2, "no kind '0xzz'"),
        (("-w", "x.txt"), 2, "x.txt: the name of a file must end in .pcapng or .json"),
        (("-w", "-"), 2, "must end in .pcapng or .json"),
        (("-w", "x.json", "-o", "json"), 2, "-o is for lines"),
        (("-w", "/nowhere/x.json"), 1, "/nowhere/x.json: No such file or directory"),
        (("-c", "0"), 2, "0 is not in the range"),
    ],
)
def test_what_is_wrong_is_said(machine: Machine, args: tuple[str, ...], status: int, says: str) -> None:
    result = machine.run("trace", *args)
    assert result.returncode == status
    assert says in " ".join(result.stderr.decode().split())
    assert result.stdout == b""


def test_a_disk_that_is_full_is_said(machine: Machine, tmp_path: Path) -> None:
    full = tmp_path / "full.json"
    full.symlink_to("/dev/full")
    result = machine.run("trace", "-w", str(full))
    assert result.returncode == 1
    assert b"No space left on device" in result.stderr
