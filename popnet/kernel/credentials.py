"""The ssh keys of a machine: made at `up`, kept in its directory, gone with it; and the user's own public
keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from popnet.machine.spec import MachineSpec
from popnet.tty import keys, sshconfig


@dataclass(frozen=True, slots=True)
class Credentials:
    """Attributes:
    host_keys: kernel name -> private host key, OpenSSH format.
    authorized_keys: the public keys that may log in, one a line.
    ssh_config: the text for `ssh -F`.
    """

    host_keys: dict[str, str]
    authorized_keys: str
    ssh_config: str


def make(machine: MachineSpec, directory: Path, run_dir: Path, popnet: Sequence[str]) -> Credentials:
    """Make keys for *machine* and write what OpenSSH clients need into *directory*; *popnet* is the command
    that is popnet."""
    private, public = keys.generate_key(f"popnet-{machine.name}")
    identity = directory / "id_ed25519"
    _write_private(identity, private.decode())
    (directory / "id_ed25519.pub").write_text(public + "\n")
    host_keys, known = {}, []
    for kernel in machine.kernels:
        host_private, host_public = keys.generate_key(kernel.name)
        host_keys[kernel.name] = host_private.decode()
        known.append((kernel.name, host_public))
    gateway_private, gateway_public = keys.generate_key(f"gateway of {machine.name}")
    _write_private(directory / "gateway_key", gateway_private.decode())
    known.append((sshconfig.GATEWAY, gateway_public))
    known_hosts = directory / "known_hosts"
    known_hosts.write_text(sshconfig.known_hosts(machine.name, known))
    places = {
        "known_hosts_file": str(known_hosts),
        "identity_file": str(identity),
        "run_dir": str(run_dir),
    }
    hosts = [
        sshconfig.SshHost(kernel.name, str(machine.ipv4(kernel))) for kernel in machine.kernels if kernel.ssh
    ]
    config = sshconfig.ssh_config(machine.name, hosts, popnet=popnet, **places)
    ttys = {kernel.name: kernel.ttys for kernel in machine.kernels}
    config += "\n" + sshconfig.gateway_config(machine.name, ttys, popnet=popnet, **places)
    (directory / "ssh_config").write_text(config)
    authorized = "\n".join([public, *_user_keys()]) + "\n"
    (directory / "authorized_keys").write_text(authorized)
    return Credentials(host_keys, authorized, config)


def _user_keys() -> list[str]:
    """The public keys of the user who runs the machine: those in ~/.ssh that a client would offer."""
    lines = []
    for path in sorted((Path.home() / ".ssh").glob("id_*.pub")):
        try:
            lines.append(path.read_text(errors="replace").strip())
        except OSError:
            continue
    return lines


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text)
