"""What /proc and /sys say of a partition, from texts that hosts have said."""

from popnet.machine import views
from popnet.machine.views import MemoryUse

CPUINFO = "".join(f"processor\t: {n}\nmodel name\t: AMD EPYC\nflags\t\t: fpu vme\n\n" for n in range(4))
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\n\nprocessor\t: 1\nBogoMIPS\t: 50.00\n\nHardware\t: BCM2835\n"

STAT = """\
cpu  678892 121131 430929 1734399 4779 0 15072 656 0 0
cpu0 304359 48542 200106 930775 963 0 6939 330 0 0
cpu1 374532 72588 230823 803623 3816 0 8133 326 0 0
intr 26674013 0 0 5 1
ctxt 92718120
btime 1795544570
processes 30000
procs_running 3
procs_blocked 0
softirq 100 1 2 3
"""

MEMINFO = """\
MemTotal:       24684084 kB
MemFree:        20854896 kB
MemAvailable:   22780288 kB
Buffers:           23736 kB
Cached:          1979384 kB
SwapCached:            0 kB
Active:           861732 kB
Inactive(file):  1200000 kB
SwapTotal:       1000000 kB
SwapFree:         900000 kB
Shmem:              9000 kB
SReclaimable:     120000 kB
CommitLimit:    12342040 kB
HugePages_Total:       0
Hugepagesize:       2048 kB
"""

MEMORY_STAT_2 = """\
anon 1048576
file 4194304
shmem 8192
inactive_file 2097152
active_file 1048576
slab_reclaimable 4096
"""
MEMORY_STAT_1 = """\
cache 1
rss 2
total_cache 4194304
total_rss 1048576
total_shmem 8192
total_inactive_file 2097152
total_active_file 1048576
"""


def values(text: str) -> dict[str, int]:
    return {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()}


def test_cpuinfo_has_the_partitions_cpus_with_the_hosts_numbers() -> None:
    text = views.cpuinfo(CPUINFO, (1, 3))
    assert [line for line in text.splitlines() if line.startswith("processor")] == [
        "processor\t: 1",
        "processor\t: 3",
    ]
    assert text.count("flags") == 2
    assert text.endswith("vme\n\n")
    assert views.cpuinfo(CPUINFO, range(4)) == CPUINFO


def test_cpuinfo_keeps_what_is_said_of_the_whole_machine() -> None:
    assert views.cpuinfo(ARM, (1,)) == "processor\t: 1\nBogoMIPS\t: 50.00\n\nHardware\t: BCM2835\n"


def test_stat_counts_from_the_boot_and_sums_up_its_own_cpus() -> None:
    since = {1: (374500, 72588, 230800, 803600, 3816, 0, 8133, 326, 0, 0)}
    lines = views.stat(STAT, (1,), since, 1795559615).splitlines()
    assert lines[0] == "cpu  32 0 23 23 0 0 0 0 0 0"
    assert lines[1] == "cpu1 32 0 23 23 0 0 0 0 0 0"
    assert lines[2:5] == ["intr 26674013", "ctxt 92718120", "btime 1795559615"]
    assert lines[-1] == "softirq 100 1 2 3"


def test_a_counter_that_went_back_is_zero_and_a_cpu_that_is_not_there_has_no_line() -> None:
    since = {0: tuple([10**9] * 10)}
    lines = views.stat(STAT, (0, 7), since, 0).splitlines()
    assert lines[:2] == ["cpu  0 0 0 0 0 0 0 0 0 0", "cpu0 0 0 0 0 0 0 0 0 0 0"]
    assert lines[2].startswith("intr")
    assert views.stat(STAT, (), {}, 0).startswith("cpu  0 0 0 0 0 0 0 0 0 0\nintr")


def test_uptime_is_the_kernels_and_idle_that_of_its_cpus() -> None:
    since = views.cpu_ticks(STAT)
    later = STAT.replace("803623", "803873").replace("930775", "930875")
    assert views.uptime(12.345, later, (1,), since) == "12.35 2.50\n"
    assert views.uptime(1, later, (0, 1), since) == "1.00 3.50\n"


def test_meminfo_is_what_the_group_counts_below_its_limit() -> None:
    for text in (MEMORY_STAT_2, MEMORY_STAT_1):
        use = MemoryUse(6 << 20, views.memory_parts(text))
        shown = values(views.meminfo(MEMINFO, 64 << 20, use))
        assert shown["MemTotal"] == 64 << 10
        assert shown["MemFree"] == 58 << 10
        assert (61 << 10) <= shown["MemAvailable"] <= (61 << 10) + 4
        assert (shown["Cached"], shown["Shmem"], shown["Buffers"]) == (4096, 8, 0)
        assert (shown["SwapTotal"], shown["SwapFree"]) == (0, 0)
        assert "CommitLimit" not in shown, "the host's, not the partition's"
    assert views.meminfo(MEMINFO, 64 << 20, use).startswith("MemTotal:          65536 kB\n")


def test_meminfo_never_says_less_than_nothing_is_free_or_more_than_the_host_has() -> None:
    shown = values(views.meminfo(MEMINFO, 64 << 20, MemoryUse(80 << 20)))
    assert (shown["MemFree"], shown["MemAvailable"]) == (0, 0)
    assert values(views.meminfo(MEMINFO, 1 << 40, MemoryUse(0)))["MemTotal"] == 24684084


def test_meminfo_without_a_limit_is_the_hosts_and_without_a_count_stays_below_the_limit() -> None:
    assert views.meminfo(MEMINFO, None, MemoryUse(1)) == MEMINFO
    shown = values(views.meminfo(MEMINFO, 64 << 20, None))
    assert max(shown.values()) == shown["MemTotal"] == 64 << 10
    assert shown["SwapTotal"] == 0


def test_lists_and_masks_of_cpus() -> None:
    assert views.cpu_list("0-3,8\n", (1, 3, 9)) == "1,3\n"
    assert views.cpu_list("\n", (1,)) == "\n"
    assert views.cpu_mask("f\n", (1, 3)) == "a\n"
    assert views.cpu_mask("00000001,0000000f\n", (1, 32)) == "00000001,00000002\n"
    assert views.cpu_mask("3,ffffffff\n", (31, 33)) == "2,80000000\n"
