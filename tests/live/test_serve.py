"""`popnet serve`, and a machine that starts its gateway itself, by real clients."""

import signal
import subprocess
from pathlib import Path

from tests.live.lab import Lab, wait_until
from tests.live.test_gateway import free_port


def ssh(
    lab: Lab, user: str, port: int, *command: str, known: str = "yes"
) -> "subprocess.CompletedProcess[str]":
    options = [f"UserKnownHostsFile={lab.tmp / 'known_hosts'}", f"StrictHostKeyChecking={known}"]
    options += ["IdentitiesOnly=yes", "IdentityAgent=none", "BatchMode=yes"]
    words = [word for option in options for word in ("-o", option)]
    return subprocess.run(
        [
            "ssh",
            "-F",
            "none",
            *words,
            "-i",
            str(lab.tmp / "key"),
            "-p",
            str(port),
            f"{user}@127.0.0.1",
            *command,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def key(lab: Lab) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(lab.tmp / "key")], check=True)
    lab.environ["POPNET_STATE_DIR"] = str(lab.tmp / "state")
    return lab.tmp / "key.pub"


MACHINE = """\
apiVersion: popnet/v1
name: lab
kernels: {{k1: {{image: light}}}}
gateway: {{listen: "127.0.0.1:{port}", authorized_keys: [key.pub, $KEYS]}}
"""


def test_a_machine_starts_its_own_gateway(lab: Lab) -> None:
    key(lab)
    port = free_port()
    file = lab.file(MACHINE.format(port=port))
    refused = lab.popnet("up", file, check=False)
    assert (refused.returncode, "gateway.authorized_keys: $KEYS: there is no" in refused.stderr) == (1, True)
    lab.environ["KEYS"] = ""
    lab.popnet("up", file)
    assert ssh(lab, "k1", port, "uname -n", known="accept-new").stdout == "k1\n"
    taken = lab.popnet("up", file, "--name", "other", check=False)
    assert f"gateway.listen: 127.0.0.1:{port}: Address already in use" in taken.stderr
    # It is started again when it ends; and the host key is the same after the machine's next start.
    record = (lab.run_dir / "lab/owner.json").read_text()
    [pid] = [pid for pid in gateway_pids() if f'"pid": {pid},' in record]
    subprocess.run(["kill", "-9", str(pid)], check=True)
    wait_until(lambda: [e["kind"] for e in lab.events()].count("gateway.up") == 2, "it is started again")
    assert ssh(lab, "k1", port, "uname -n").stdout == "k1\n"
    assert lab.popnet("status").returncode == 0
    lab.popnet("down")
    lab.popnet("up", file)
    assert ssh(lab, "k1", port, "uname -n").stdout == "k1\n"
    lab.popnet("down")
    assert ssh(lab, "k1", port, "true").returncode == 255


def gateway_pids() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and b"--inherited" in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_machines_in_the_foreground_behind_one_gateway(lab: Lab) -> None:
    keys = key(lab).parent
    port = free_port()
    words = ["--gateway", f"127.0.0.1:{port}", "--authorized-keys", str(keys / "key.pub")]
    serve = lab.start("serve", "s[1-2]=pair", *words)
    try:
        assert serve.stderr is not None
        said = b"".join(serve.stderr.readline() for _ in range(3)).decode()
        assert f"gateway: 127.0.0.1:{port}, host key SHA256:" in said
        assert "machine s1: up" in said
        wait_until(lambda: ssh(lab, "s2.k2", port, "true", known="accept-new").returncode == 0, "it serves")
        assert ssh(lab, "s2.k2", port, "uname -n").stdout == "k2\n"
        assert "no machine 's3' is running" in ssh(lab, "s3.k1", port, "true").stderr
        lab.popnet("-m", "s1", "down")  # the other goes on
        assert ssh(lab, "s2.k1", port, "uname -n").stdout == "k1\n"
        serve.send_signal(signal.SIGTERM)
        _, err = serve.communicate(timeout=30)
        assert (serve.returncode, err.decode().splitlines()) == (0, ["machine s1: down", "machine s2: down"])
    finally:
        serve.terminate()
        serve.communicate()


def test_what_cannot_be_served_leaves_nothing(lab: Lab) -> None:
    result = lab.popnet("serve", "a=pair", "b=./nothing.yaml", check=False)
    assert result.returncode == 1
    assert "nothing.yaml: cannot read this machine file" in result.stderr
    assert "Traceback" not in result.stderr
    assert lab.machines() == []
    assert lab.popnet("status", check=False).returncode == 3
