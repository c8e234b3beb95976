"""Traces of a machine that runs: what `popnet exec` says to a kernel, in order, and what stays of a trace."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from popnet.control.pcapng_reader import Reader
from tests.live.lab import Lab, wait_until
from tests.live.test_trace_wireshark import SCRIPT

STREAM_KINDS = ("OPEN", "ACCEPT", "REFUSE", "DATA", "CREDIT", "CLOSE", "ABORT")


def begun(lab: Lab, *args: str) -> "subprocess.Popen[bytes]":
    """A trace that has begun: it says so when all kernels have accepted."""
    process = lab.start("trace", *args)
    assert process.stderr is not None
    text = process.stderr.readline()
    assert text.startswith(b"tracing the messages of primary, k1, k2"), text
    return process


def ended(process: "subprocess.Popen[bytes]") -> bytes:
    """What it wrote, once it was told to stop."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert b"lost" not in err
    return out


def stream_of(rows: list[dict[str, Any]], kernel: str) -> list[dict[str, Any]]:
    """The records of the first stream that the primary opened to *kernel*."""
    [opening, *_] = [row for row in rows if row["kind"] == "OPEN" and row["to"] == kernel]
    number = opening["id"] >> 1
    return [
        row
        for row in rows
        if row["id"] >> 1 == number
        and {row["from"], row["to"]} == {"primary", kernel}
        and row["kind"] in STREAM_KINDS
    ]


def test_an_exec_is_seen_from_open_to_close(pair: Lab) -> None:
    process = begun(pair, "-o", "json")
    assert pair.exec("k1", "echo", "hello").stdout == "hello\n"
    rows = [json.loads(line) for line in ended(process).splitlines()]
    of_exec = stream_of(rows, "k1")
    assert [(row["from"], row["kind"]) for row in of_exec if row["from"] == "k1"][:3] == [
        ("k1", "ACCEPT"),
        ("k1", "DATA"),
        ("k1", "CLOSE"),
    ]
    assert (of_exec[0]["from"], of_exec[0]["kind"]) == ("primary", "OPEN")
    assert [row["bytes"] for row in of_exec if row["from"] == "k1" and row["kind"] == "DATA"] == [6]
    for row in rows:
        times = [row["enqueue_ns"], row["publish_ns"], row["wake_ns"], row["handle_ns"]]
        assert None not in times and times == sorted(times), row
        assert row["kick_ns"] is None or row["publish_ns"] <= row["kick_ns"] <= row["wake_ns"]
    starts = [row["enqueue_ns"] for row in of_exec]
    assert starts == sorted(starts)


def test_a_trace_of_a_quiet_machine_is_quiet(pair: Lab) -> None:
    """Its own messages, and those of other traces, are not in it."""
    other = begun(pair)
    process = begun(pair, "-o", "json")
    pair.exec("k2", "true")
    rows = [json.loads(line) for line in ended(process).splitlines()]
    ended(other)
    of_streams = [row for row in rows if row["kind"] in STREAM_KINDS]
    assert of_streams == stream_of(rows, "k2")


def test_links_are_plain_again_after_a_trace(pair: Lab) -> None:
    """What a kernel does after a trace is not traced: only the second trace sees the second command."""
    for count in (1, 2):
        process = begun(pair, "-o", "json", "--kind", "OPEN")
        pair.exec("k1", "true")
        rows = [json.loads(line) for line in ended(process).splitlines()]
        assert [row["to"] for row in rows] == ["k1"], count


def test_a_kernel_that_is_killed_leaves_the_trace_of_the_others(lab: Lab) -> None:
    lab.up()
    process = begun(lab, "-o", "json", "--kind", "OPEN")
    assert process.stderr is not None
    lab.popnet("kill", "k2")
    assert b"kernel k2 is not traced any more" in process.stderr.readline()
    lab.exec("k1", "true")
    rows = [json.loads(line) for line in ended(process).splitlines()]
    assert [row["to"] for row in rows] == ["k1"]
    lab.popnet("boot", "k2")
    again = lab.start("trace", "k2", "-o", "json", "--kind", "OPEN", "-c", "1")
    assert again.stderr is not None and b"k2" in again.stderr.readline()
    lab.exec("k2", "true")
    out, err = again.communicate(timeout=60)
    [row] = [json.loads(line) for line in out.splitlines()]
    assert (row["to"], row["to_generation"], again.returncode) == ("k2", 2, 0), err


def test_files_of_a_real_trace(pair: Lab, tmp_path: Path) -> None:
    packets, events = tmp_path / "trace.pcapng", tmp_path / "trace.json"
    processes = [begun(pair, "-w", str(path)) for path in (packets, events)]
    pair.exec("k1", "echo", "hello")
    wait_until(lambda: b"hello" in packets.read_bytes(), "the message in the file")
    for process in processes:
        ended(process)
    found = Reader().feed(packets.read_bytes())
    assert {packet.interface for packet in found} == {"primary", "k1"}
    wanted = ("-e", "popnet.kind", "-e", "popnet.handle_us", "-e", "_ws.malformed")
    command = ["tshark", "-n", "-X", f"lua_script:{SCRIPT}", "-r", str(packets)]
    command += ["-T", "fields", "-E", "separator=|", *wanted]
    text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    rows = [line.split("|") for line in text.splitlines()]
    assert len(rows) == len(found) and rows[0][0] == "1"
    assert all(float(row[1]) >= 0 and row[2] == "" for row in rows)
    document = json.loads(events.read_bytes())["traceEvents"]
    phases = [event["ph"] for event in document]
    assert phases.count("X") == 2 * phases.count("s") == 2 * phases.count("f") > 0
    check_nesting([event for event in document if event["ph"] == "X"])


def check_nesting(slices: list[dict[str, Any]]) -> None:
    """Slices of one thread lie one after the other or one in the other, else a viewer shows nonsense."""
    by_thread: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in slices:
        span = (event["ts"], event["ts"] + event["dur"])
        by_thread.setdefault((event["pid"], event["tid"]), []).append(span)
    for spans in by_thread.values():
        open_until: list[float] = []
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_until and open_until[-1] <= start:
                open_until.pop()
            assert not open_until or end <= open_until[-1] + 0.001, (start, end, open_until)
            open_until.append(end)
