"""A kernel's ssh server and the stock OpenSSH client, with the configuration that we generate.

The server runs in an interpreter of its own, as `python test_sshd.py <settings>`, with the listening socket
inherited; nothing else knows its address, so the client reaches it by the generated proxy command alone.
"""

import contextlib
import hashlib
import json
import os
import pwd
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pexpect
import pytest

from popnet.tty import keys, sshconfig, sshd
from popnet.tty.sshconfig import SshHost

REPOSITORY = Path(__file__).parents[2]
TIMEOUT_S = 60
LOGIN = pwd.getpwuid(os.getuid()).pw_name
"""The server runs as whoever runs the tests, and lets nobody else in."""

Visitor: TypeAlias = "pexpect.spawn[Any]"

RELAY = """
import socket, sys, threading, os
connection = socket.create_connection(("127.0.0.1", PORTS[sys.argv[-2]]))
def up():
    while data := os.read(0, 1 << 18):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := connection.recv(1 << 18):
    os.write(1, data)
"""


BARE_ROOT = """
set -e
mount -t tmpfs root {root}
cd {root}
mkdir usr dev proc tmp
ln -s usr/bin bin; ln -s usr/lib lib; ln -s usr/lib64 lib64
mount --rbind -o ro /usr usr
mount -t proc proc proc
mkdir dev/pts
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
touch dev/null dev/tty
mount --bind /dev/null dev/null
mount --bind /dev/tty dev/tty
"""


def serve_here(settings: dict[str, Any]) -> None:
    """The server's process: serve until told to end, then write down what was imported meanwhile."""
    imported: list[str] = []

    class Watcher:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            imported.append(name)

    with Path(settings["imported"]).open("w") as report:
        if "root" in settings:
            subprocess.run(["sh", "-c", BARE_ROOT.format(root=shlex.quote(settings["root"]))], check=True)
            os.chroot(settings["root"])
            sys.path.clear()
        sys.meta_path.insert(0, Watcher)
        sshd.run(
            socket.socket(fileno=settings["listener"]),
            settings["host_key"].encode(),
            settings["authorized_keys"],
            shell="/bin/bash",
            environ=settings["environ"],
            on_log=lambda text: print(text, file=sys.stderr, flush=True),
            idle_s=settings["idle_s"],
        )
        json.dump(imported, report)


class Kernel:
    """A server process, and what its machine knows of it."""

    def __init__(self, name: str, directory: Path, client_public: str) -> None:
        self.name = name
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.home = directory / f"home-{name}"
        self.home.mkdir()
        (self.home / ".bash_profile").write_text("PS1='prompt# '\n")
        self.log = directory / f"log-{name}"
        self.imported = directory / f"imported-{name}"
        private, self.public = keys.generate_key(f"host {name}")
        self._settings = {
            "host_key": private.decode(),
            "authorized_keys": f"# who may log in\n{client_public}\n",
            "environ": {"PATH": os.environ["PATH"], "HOME": str(self.home)},
            "listener": self.listener.fileno(),
            "imported": str(self.imported),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, idle_s: float | None = None, root: Path | None = None) -> None:
        """Start the server; with *root*, in namespaces of its own and with a bare root mounted there."""
        own = ["unshare", "--user", "--map-root-user", "--mount", "--net", "--pid", "--kill-child", "--fork"]
        settings = {**self._settings, "idle_s": idle_s, **({"root": str(root)} if root else {})}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*(own if root else ()), sys.executable, __file__, json.dumps(settings)],
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                pass_fds=[self.listener.fileno()],
                stderr=log,
            )

    def stop(self) -> list[str]:
        """End the server; returns the names of the modules it imported while it served."""
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(TIMEOUT_S) == 0, self.log.read_text()
        imported: list[str] = json.loads(self.imported.read_text())
        return imported


class Machine:
    """Two kernels, k1 and k2, and an ssh configuration for them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        private, public = keys.generate_key("machine")
        self.identity = directory / "id"
        self.identity.write_bytes(private)
        self.identity.chmod(0o600)
        self.kernels = {name: Kernel(name, directory, public) for name in ("k1", "k2")}
        known_hosts = [(kernel.name, kernel.public) for kernel in self.kernels.values()]
        self.known_hosts = directory / "known_hosts"
        self.known_hosts.write_text(sshconfig.known_hosts("demo", known_hosts))
        relay = directory / "relay.py"
        ports = {kernel.name: kernel.port for kernel in self.kernels.values()}
        relay.write_text(f"PORTS = {ports}\n{RELAY}")
        self.config = directory / "config"
        self.config.write_text(
            sshconfig.ssh_config(
                "demo",
                [SshHost("k1", "10.1.2.2", LOGIN), SshHost("k2", "127.0.0.1", LOGIN)],
                known_hosts_file=str(self.known_hosts),
                identity_file=str(self.identity),
                popnet=[sys.executable, "-S", "-E", str(relay)],
                run_dir=str(directory),
            )
        )

    def command(self, program: str, *arguments: str) -> list[str]:
        return [program, "-F", str(self.config), "-o", "BatchMode=yes", *arguments]

    def run(
        self, program: str, *arguments: str, data: bytes = b"", check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            self.command(program, *arguments),
            input=data,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            cwd=self.directory,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def ssh(
        self, *arguments: str, data: bytes = b"", check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        return self.run("ssh", *arguments, data=data, check=check)

    @contextlib.contextmanager
    def master(self, *arguments: str) -> Iterator[subprocess.CompletedProcess[bytes]]:
        """A client in the background that keeps forwardings up; it starts when they are."""
        control = str(self.directory / "control")
        started = subprocess.run(
            self.command("ssh", "-fNM", "-S", control, "-o", "ExitOnForwardFailure=yes", *arguments, "k1"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.directory / "master").open("wb"),
            timeout=TIMEOUT_S,
            check=True,
        )
        try:
            yield started
        finally:
            self.ssh("-S", control, "-O", "exit", "k1")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("machine"))
    for kernel in machine.kernels.values():
        kernel.start()
    try:
        yield machine
    finally:
        late = [module for kernel in machine.kernels.values() for module in kernel.stop()]
    assert late == [], "a kernel's root need not have these"
    for kernel in machine.kernels.values():
        assert "Traceback" not in kernel.log.read_text(), kernel.log.read_text()


@pytest.fixture
def visitor(machine: Machine) -> Iterator[Visitor]:
    """Somebody at a terminal, logged into k1."""
    terminal = pexpect.spawn("ssh", machine.command("ssh", "k1")[1:], timeout=TIMEOUT_S, dimensions=(30, 100))
    terminal.expect_exact(b"prompt# ")
    yield terminal
    terminal.close(force=True)


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A TCP server on the loopback that answers in capitals, and closes when told all."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connected, _ = listener.accept()
                except OSError:  # shut down below
                    return
                with connected:
                    while data := connected.recv(65536):
                        connected.sendall(data.upper())

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ask(port: int, question: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        connection.sendall(question)
        connection.shutdown(socket.SHUT_WR)
        return receive_all(connection)


def receive_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def wait_for_end_of(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            assert select.select([pidfd], [], [], TIMEOUT_S)[0], f"process {pid} is still there"
        finally:
            os.close(pidfd)


# Commands


def test_a_commands_status_output_and_errors_come_back_apart(machine: Machine) -> None:
    done = machine.ssh("k1", "cat; echo wrong >&2; exit 7", data=b"in and out", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"in and out", b"wrong\n")


def test_a_commands_signal_comes_back(machine: Machine) -> None:
    done = machine.ssh("-v", "k1", "kill -TERM $$", check=False)
    assert b"rtype exit-signal" in done.stderr
    assert done.returncode == 255


def test_a_real_time_signal_comes_back_as_a_shell_tells_it(machine: Machine) -> None:
    number = signal.SIGRTMIN + 1
    assert machine.ssh("k1", f"kill -{number} $$", check=False).returncode == 128 + number


def test_the_environment_is_the_kernels_with_locale_and_connection(machine: Machine) -> None:
    done = machine.ssh("-o", "SetEnv=LC_TEST=here EVIL=1", "k1", "env; pwd")
    environment = dict(line.split("=", 1) for line in done.stdout.decode().splitlines() if "=" in line)
    home = str(machine.kernels["k1"].home)
    assert environment["PATH"] == os.environ["PATH"]
    assert environment["LC_TEST"] == "here"
    assert "EVIL" not in environment
    assert "TERM" not in environment
    assert [environment[name] for name in ("USER", "LOGNAME", "HOME", "SHELL")] == [
        LOGIN,
        LOGIN,
        home,
        "/bin/bash",
    ]
    assert environment["SSH_CONNECTION"].split()[::2] == ["127.0.0.1", "127.0.0.1"]
    assert done.stdout.decode().splitlines()[-1] == home


def test_a_hundred_megabytes_pass_unchanged_both_ways(machine: Machine) -> None:
    data = os.urandom(1 << 20) * 100
    assert machine.ssh("k1", "sha256sum", data=data).stdout[:64].decode() == hashlib.sha256(data).hexdigest()
    done = machine.ssh("k1", "cat", data=data)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_a_client_that_stops_reading_stops_the_command_only(machine: Machine) -> None:
    with subprocess.Popen(
        machine.command("ssh", "k1", "echo $$; exec yes"), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as stuck:
        assert stuck.stdout is not None
        pid = int(stuck.stdout.readline())
        assert machine.ssh("k1", "echo free").stdout == b"free\n"
        stuck.kill()
    wait_for_end_of(pid)


def test_many_sessions_at_once(machine: Machine) -> None:
    running = [
        subprocess.Popen(
            machine.command("ssh", "k1", f"seq {n} 20000 | sha256sum; exit {n}"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        for n in range(10)
    ]
    for n, session in enumerate(running):
        expected = hashlib.sha256(b"".join(b"%d\n" % k for k in range(n, 20001))).hexdigest()
        output, _ = session.communicate(timeout=TIMEOUT_S)
        assert (session.returncode, output.decode()) == (n, f"{expected}  -\n")


@pytest.mark.parametrize("terminal", [(), ("-tt",)])
def test_programs_end_when_their_client_is_gone(machine: Machine, terminal: tuple[str, ...]) -> None:
    with subprocess.Popen(
        machine.command("ssh", *terminal, "k1", "sleep 1000 & echo $$ $!; wait"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as client:
        assert client.stdout is not None
        pids = [int(pid) for pid in client.stdout.readline().split()]
        client.kill()
    for pid in pids:
        wait_for_end_of(pid)


# A terminal


def test_a_login_has_a_terminal_with_job_control(visitor: Visitor) -> None:
    visitor.sendline(b"tty; echo $0 $TERM; stty size")
    visitor.expect_exact(b"/dev/pts/")
    visitor.expect_exact(b"-bash " + os.environ.get("TERM", "dumb").encode())
    visitor.expect_exact(b"30 100")
    visitor.sendline(b"sh -c 'echo asleep; exec sleep 1000'")
    visitor.expect_exact(b"asleep\r\n")
    visitor.sendcontrol("z")
    visitor.expect_exact(b"Stopped")
    visitor.sendline(b"bg; kill %1; wait; echo all $((6*7)) done")
    visitor.expect_exact(b"all 42 done")
    visitor.sendline(b"exit 3")
    visitor.expect(pexpect.EOF)
    visitor.close()
    assert visitor.exitstatus == 3


def test_control_c_interrupts(visitor: Visitor) -> None:
    visitor.sendline(b"sh -c 'echo go; exec cat'")
    visitor.expect_exact(b"go\r\n")
    visitor.sendcontrol("c")
    visitor.expect_exact(b"prompt# ")
    visitor.sendline(b"echo status $?")
    visitor.expect_exact(b"status 130")


def test_a_resize_arrives(visitor: Visitor) -> None:
    script = 'trap "stty size; exit" WINCH; echo ready; while :; do sleep 0.01; done'
    visitor.sendline(b"sh -c " + shlex.quote(script).encode())
    visitor.expect_exact(b"ready\r\n")
    visitor.setwinsize(43, 132)
    visitor.expect_exact(b"43 132")


def test_letters_of_two_bytes_are_erased_whole(machine: Machine) -> None:
    """The client's IUTF8 arrives: the line discipline erases a letter, not a byte."""
    terminal = pexpect.spawn(
        "sh",
        ["-c", "stty iutf8 && exec " + shlex.join(machine.command("ssh", "-tt", "k1", "echo ready; cat"))],
        timeout=TIMEOUT_S,
    )
    terminal.expect_exact(b"ready\r\n")
    terminal.send("ä\x7fb\n".encode())
    terminal.expect_exact(b"\r\nb\r\n")
    terminal.close(force=True)


# Files


@pytest.mark.parametrize("protocol", [(), ("-O",)])
def test_scp_copies_a_hundred_megabytes_both_ways(machine: Machine, protocol: tuple[str, ...]) -> None:
    data = os.urandom(1 << 20) * 100
    there = machine.kernels["k1"].home / "there"
    here, back = machine.directory / "here", machine.directory / "back"
    here.write_bytes(data)
    machine.run("scp", *protocol, str(here), "k1:there")  # a relative path starts at home
    assert hashlib.sha256(there.read_bytes()).digest() == hashlib.sha256(data).digest()
    machine.run("scp", *protocol, "k1:there", str(back))
    assert hashlib.sha256(back.read_bytes()).digest() == hashlib.sha256(data).digest()


def test_sftp_lists_makes_moves_and_removes(machine: Machine) -> None:
    home = machine.kernels["k1"].home
    (home / "list").mkdir()
    (home / "list" / "file with space").write_bytes(b"12345")
    batch = b'pwd\nls -l list\nmkdir list/new\nrename "list/file with space" list/new/moved\nls list/new\n'
    done = machine.run("sftp", "-b", "-", "k1", data=batch)
    assert f"Remote working directory: {home}".encode() in done.stdout
    assert b"file with space" in done.stdout
    assert b"list/new/moved" in done.stdout
    assert (home / "list" / "new" / "moved").read_bytes() == b"12345"


# Forwarding


def test_a_local_port_is_forwarded(machine: Machine, echo_port: int) -> None:
    port = free_port()
    with machine.master("-L", f"127.0.0.1:{port}:127.0.0.1:{echo_port}"):
        assert ask(port, b"question") == b"QUESTION"
        assert ask(port, b"again " * 100_000) == b"AGAIN " * 100_000


def test_a_local_port_is_forwarded_to_a_name(machine: Machine, echo_port: int) -> None:
    port = free_port()
    with machine.master("-L", f"127.0.0.1:{port}:localhost:{echo_port}"):
        assert ask(port, b"question") == b"QUESTION"


def test_a_port_of_the_kernel_is_forwarded_back(machine: Machine, echo_port: int) -> None:
    port = free_port()
    with machine.master("-R", f"127.0.0.1:{port}:127.0.0.1:{echo_port}"):
        assert ask(port, b"question") == b"QUESTION"


def test_a_socks_proxy_is_served(machine: Machine, echo_port: int) -> None:
    port = free_port()
    with (
        machine.master("-D", f"127.0.0.1:{port}"),
        socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection,
    ):
        connection.sendall(b"\5\1\0")
        assert connection.recv(2) == b"\5\0"
        connection.sendall(b"\5\1\0\1" + socket.inet_aton("127.0.0.1") + echo_port.to_bytes(2, "big"))
        assert connection.recv(10)[:2] == b"\5\0"
        connection.sendall(b"question")
        connection.shutdown(socket.SHUT_WR)
        assert receive_all(connection) == b"QUESTION"


def test_one_kernel_is_a_jump_host_to_another(machine: Machine) -> None:
    port = machine.kernels["k2"].port
    done = machine.ssh("-J", "k1", "-p", str(port), "k2", "echo $HOME; exit 9", check=False)
    assert (done.returncode, done.stdout.decode().strip()) == (9, str(machine.kernels["k2"].home))


def test_the_agent_is_forwarded(machine: Machine) -> None:
    agent = machine.directory / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", agent], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        environment = {**os.environ, "SSH_AUTH_SOCK": str(agent)}
        subprocess.run(["ssh-add", "-q", machine.identity], env=environment, check=True, timeout=TIMEOUT_S)
        done = subprocess.run(
            machine.command("ssh", "-A", "k1", "ssh-add -l"),
            env=environment,
            capture_output=True,
            check=True,
            timeout=TIMEOUT_S,
        )
        running.terminate()
    assert keys.fingerprint(keys.public_line(machine.identity.read_bytes())) in done.stdout.decode()


# Who is let in


def test_a_foreign_key_is_refused(machine: Machine, tmp_path: Path) -> None:
    config = machine.config.read_text().replace(str(machine.identity), str(tmp_path / "foreign"))
    (tmp_path / "foreign").write_bytes(keys.generate_key()[0])
    (tmp_path / "foreign").chmod(0o600)
    (tmp_path / "config").write_text(config)
    done = machine.ssh("-F", str(tmp_path / "config"), "k1", "true", check=False)
    assert done.returncode == 255
    assert b"Permission denied (publickey)" in done.stderr


@pytest.mark.parametrize("user", ["daemon", "nobody-at-all"])
def test_another_user_is_refused(machine: Machine, user: str) -> None:
    done = machine.ssh("-l", user, "k1", "true", check=False)
    assert done.returncode == 255
    assert b"Permission denied" in done.stderr


@pytest.mark.parametrize("method", ["password", "keyboard-interactive", "hostbased", "none"])
def test_nothing_but_public_keys_is_offered(machine: Machine, method: str) -> None:
    done = machine.ssh("-o", f"PreferredAuthentications={method}", "k1", "true", check=False)
    assert done.returncode == 255
    assert b"Permission denied (publickey)" in done.stderr


def test_a_server_with_another_host_key_is_not_trusted(machine: Machine, tmp_path: Path) -> None:
    """The negative control of `no host key prompt`: the client does check."""
    _, public = keys.generate_key()
    known = tmp_path / "known"
    known.write_text(sshconfig.known_hosts("demo", [("k1", public)]))
    done = machine.ssh("-o", f"UserKnownHostsFile={known}", "k1", "true", check=False)
    assert done.returncode == 255
    assert b"Host key verification failed" in done.stderr


# The life of the process


@pytest.fixture
def own_machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine whose servers a test starts and stops itself."""
    machine = Machine(tmp_path)
    yield machine
    for kernel in machine.kernels.values():
        if kernel.process is not None and kernel.process.poll() is None:
            kernel.process.kill()
            kernel.process.wait()


def as_init_does(kernel: Kernel, rounds: int, served: Callable[[], None]) -> None:
    for _ in range(rounds):
        assert select.select([kernel.listener], [], [], TIMEOUT_S)[0]
        kernel.start(idle_s=0.0)
        assert kernel.process is not None
        assert kernel.process.wait(TIMEOUT_S) == 0
        served()


def test_a_server_for_each_visit_and_none_between(own_machine: Machine) -> None:
    kernel = own_machine.kernels["k1"]
    rounds = 3
    visits = []
    init = threading.Thread(target=as_init_does, args=(kernel, rounds, lambda: visits.append("served")))
    init.start()
    for n in range(rounds):
        assert own_machine.ssh("k1", f"echo {n}").stdout == f"{n}\n".encode()
    init.join(TIMEOUT_S)
    assert visits == ["served"] * rounds
    assert kernel.log.read_text().count("logged in") == rounds


def test_a_server_told_to_end_hangs_its_programs_up(own_machine: Machine) -> None:
    kernel = own_machine.kernels["k1"]
    kernel.start()
    with subprocess.Popen(
        own_machine.command("ssh", "k1", "echo $$; exec sleep 1000"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as client:
        assert client.stdout is not None
        pid = int(client.stdout.readline())
        kernel.stop()
        assert client.wait(TIMEOUT_S) == 255
    wait_for_end_of(pid)


def test_without_a_key_nobody_is_let_in(own_machine: Machine) -> None:
    kernel = own_machine.kernels["k1"]
    kernel._settings["authorized_keys"] = "# nobody yet\n"
    kernel.start()
    done = own_machine.ssh("k1", "true", check=False)
    assert done.returncode == 255
    assert b"Permission denied" in done.stderr
    kernel.stop()
    assert "Traceback" not in kernel.log.read_text()


def test_a_kernels_root_need_not_have_python(own_machine: Machine, tmp_path: Path) -> None:
    """Own namespaces, and a root with programs but without the interpreter and its modules."""
    kernel = own_machine.kernels["k1"]
    root = tmp_path / "root"
    root.mkdir()
    kernel.start(idle_s=0.0, root=root)
    with own_machine.master("-o", "User=root"):  # in a user namespace of its own it runs as root
        control = ("-S", str(own_machine.directory / "control"))
        done = own_machine.ssh(*control, "-tt", "k1", "pwd; tty; ls /; exit 4", check=False)
        assert done.stdout.split() == b"/ /dev/pts/0 bin dev lib lib64 proc tmp usr".split()
        assert done.returncode == 4
        there = own_machine.ssh(*control, "k1", f"test -e {shlex.quote(keys.__file__)}", check=False)
        assert there.returncode == 1
        data = os.urandom(1 << 20)
        (tmp_path / "file").write_bytes(data)
        own_machine.run("scp", "-o", f"ControlPath={control[1]}", str(tmp_path / "file"), "k1:/tmp/there")
        own_machine.run("scp", "-o", f"ControlPath={control[1]}", "k1:/tmp/there", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == data
        listed = own_machine.run(
            "sftp", "-o", f"ControlPath={control[1]}", "-b", "-", "k1", data=b"ls -l /tmp\n"
        )
        assert b"there" in listed.stdout
        assert own_machine.ssh(*control, "k1", "no-such-program", check=False).returncode == 127
        refused = own_machine.ssh(*control, "-W", "no-such-host.invalid:1", "k1", check=False)
        assert refused.returncode == 255
    assert kernel.process is not None
    assert kernel.process.wait(TIMEOUT_S) == 0
    assert json.loads(kernel.imported.read_text()) == []
    assert "Traceback" not in kernel.log.read_text()


if __name__ == "__main__":
    serve_here(json.loads(sys.argv[1]))
