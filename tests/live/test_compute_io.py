"""A compute kernel whose files are those of an io kernel: every program uses them, by messages."""

import hashlib
from collections.abc import Iterator

import pytest

from tests.live.conftest import _lab
from tests.live.lab import Lab, wait_until

MACHINE = """\
apiVersion: popnet/v1
name: {name}
kernels:
  io: {{image: io}}
  c1: {{image: compute}}
  c2: {{image: compute}}
"""


def wait_for_files(lab: Lab, kernel: str) -> None:
    wait_until(lambda: lab.exec(kernel, "ls", "/io", check=False).returncode == 0, f"{kernel} has found /io")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    for lab in _lab(tmp_path_factory.mktemp("compute-io")):
        lab.up(MACHINE)
        for kernel in ("c1", "c2"):
            wait_for_files(lab, kernel)
        yield lab


def test_what_one_writes_all_read(machine: Lab) -> None:
    services = machine.popnet("services").stdout
    assert [line.split()[1] for line in services.splitlines() if line.startswith("io.files")] == ["io"]
    script = "mkdir /io/d && echo hello > /io/d/a && ln -s a /io/d/l && mv /io/d /io/e && cat /io/e/l"
    assert machine.sh("c1", script) == "hello\n"
    assert machine.sh("io", "cat /io/e/a") == "hello\n"
    machine.sh("io", "echo more >> /io/e/a")
    assert machine.sh("c2", "cat /io/e/a; rm -r /io/e; ls /io") == "hello\nmore\n"


def test_a_large_file_goes_over_whole_and_a_program_runs_from_there(machine: Lab) -> None:
    data = hashlib.sha256(b"seed").digest() * 20_000
    machine.popnet("exec", "c1", "--", "sh", "-c", "cat > /io/big", input=data.hex())
    want = hashlib.sha256(data.hex().encode()).hexdigest()
    for kernel in ("io", "c2"):
        assert machine.sh(kernel, "sha256sum /io/big").split()[0] == want
    assert (
        machine.sh("c1", "cp /bin/busybox /io/ && /io/busybox echo runs; rm /io/busybox /io/big") == "runs\n"
    )


def test_compute_kernels_have_no_sshd_and_nothing_of_the_host(machine: Lab) -> None:
    assert machine.kernels()["c1"]["ssh"] is False
    assert "etc" in machine.sh("io", "ls /").split()
    assert machine.sh("c1", "ls /usr /var") == "/usr:\n\n/var:\n"
    assert "nosuid,nodev" in machine.sh("c1", "grep ' /io ' /proc/mounts")


def test_an_io_kernel_that_dies_stalls_nobody_and_comes_back(machine: Lab) -> None:
    machine.popnet("kill", "io")
    wait_until(
        lambda: "not connected" in machine.exec("c1", "ls", "/io", check=False).stderr, "its end is known"
    )
    assert machine.sh("c1", "echo alive") == "alive\n"
    machine.popnet("boot", "io")
    wait_for_files(machine, "c1")
    assert machine.sh("c1", "echo again > /io/b; cat /io/b") == "again\n"
    assert machine.sh("io", "cat /io/b") == "again\n"
