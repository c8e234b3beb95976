"""CPU time and memory of kernels, from a table of processes; and of a real process of this host."""

import os
import time

from popnet.kernel.usage import Process, measure, parse, usage


def table(*processes: Process) -> dict[int, Process]:
    return {process.pid: process for process in processes}


def test_each_process_counts_for_the_nearest_daemon_above_it() -> None:
    found = table(
        Process(1, 0, 99.0, 99.0, 99),
        Process(10, 1, 1.0, 0.5, 100),  # the primary
        Process(11, 10, 0.25, 7.0, 10),  # the loader: what ended below it were kernels
        Process(20, 11, 2.0, 0.0, 200),
        Process(21, 20, 4.0, 8.0, 20),  # init of a kernel, and what has ended in it
        Process(22, 21, 16.0, 0.0, 2),
        Process(30, 1, 64.0, 0.0, 1),  # a stranger
    )
    assert usage({"primary": 10, "k1": 20}, found) == {"primary": (1.75, 110), "k1": (30.0, 222)}


def test_a_kernel_without_a_process_has_no_usage() -> None:
    assert usage({"k1": 20}, table(Process(10, 1, 1.0, 0.0, 1))) == {}


def test_a_table_with_a_circle_in_it_is_read_to_its_end() -> None:
    found = table(Process(10, 1, 1.0, 0.0, 1), Process(11, 12, 1.0, 0.0, 1), Process(12, 11, 1.0, 0.0, 1))
    assert usage({"k1": 10}, found) == {"k1": (1.0, 1)}


def test_a_line_of_proc_with_a_hostile_name() -> None:
    stat = "7 (a) R 1 (b) S 3 7 7 0 -1 0 0 0 0 0 250 50 100 0 20 0 1 0 5 4096 6 0"
    process = parse(7, stat)
    ticks = os.sysconf("SC_CLK_TCK")
    assert (process.parent, process.own_s, process.children_s) == (3, 300 / ticks, 100 / ticks)
    assert process.resident_bytes == 6 * os.sysconf("SC_PAGE_SIZE")


def test_this_process_is_measured() -> None:
    before = measure({"me": os.getpid()})["me"]
    started = time.process_time()
    while time.process_time() < started + 0.05:
        pass
    after = measure({"me": os.getpid()})["me"]
    assert after[0] >= before[0] + 0.02
    assert after[1] > 1 << 20
