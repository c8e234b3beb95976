"""The ssh keys of a machine: made at `up`, kept in its directory, gone with it; and the user's own public
keys."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from popnet.machine.spec import MachineSpec
from popnet.tty import keys, sshconfig


@dataclass(frozen=True, slots=True)
class Credentials:
    """Attributes:
    host_keys: kernel name -> private host key, OpenSSH format.
    authorized_keys: the public keys that may log in, one a line.
    ssh_config: the text for `ssh -F`.
    known: kernel name -> public host key.
    publish: writes what OpenSSH clients need to know, and returns the text for `ssh -F`.
    """

    host_keys: dict[str, str]
    authorized_keys: str
    ssh_config: str
    known: dict[str, str] = field(default_factory=dict)
    publish: Callable[[MachineSpec, Mapping[str, str]], str] = lambda machine, known: ""

    def having(self, machine: MachineSpec, name: str) -> "Credentials":
        """These, with keys for the kernel *name* of *machine*, which may be new there."""
        if name in self.host_keys:
            return replace(self, ssh_config=self.publish(machine, self.known))
        private, public = keys.generate_key(name)
        known = {**self.known, name: public}
        host_keys = {**self.host_keys, name: private.decode()}
        return replace(self, host_keys=host_keys, known=known, ssh_config=self.publish(machine, known))


def make(
    machine: MachineSpec,
    directory: Path,
    run_dir: Path,
    popnet: Sequence[str],
    gateway_key: str | None = None,
) -> Credentials:
    """Make keys for *machine* and write what OpenSSH clients need into *directory*.

    Args:
        popnet: the command that is popnet.
        gateway_key: private, of the gateway that it starts itself; by default one is made.
    """
    private, public = keys.generate_key(f"popnet-{machine.name}")
    identity = directory / "id_ed25519"
    _write_private(identity, private.decode())
    (directory / "id_ed25519.pub").write_text(public + "\n")
    host_keys, known = {}, {}
    for kernel in machine.kernels:
        host_private, host_public = keys.generate_key(kernel.name)
        host_keys[kernel.name] = host_private.decode()
        known[kernel.name] = host_public
    if gateway_key is None:
        gateway_key = keys.generate_key(f"gateway of {machine.name}")[0].decode()
    _write_private(directory / "gateway_key", gateway_key)
    known[sshconfig.GATEWAY] = keys.public_line(gateway_key.encode())

    def publish(machine: MachineSpec, known: Mapping[str, str]) -> str:
        return _publish(machine, known, directory, run_dir, popnet)

    authorized = "\n".join([public, *_user_keys()]) + "\n"
    (directory / "authorized_keys").write_text(authorized)
    return Credentials(host_keys, authorized, publish(machine, known), known, publish)


def _publish(
    machine: MachineSpec, known: Mapping[str, str], directory: Path, run_dir: Path, popnet: Sequence[str]
) -> str:
    """Write what OpenSSH clients need to know; returns the text for `ssh -F`."""
    known_hosts = directory / "known_hosts"
    known_hosts.write_text(sshconfig.known_hosts(machine.name, list(known.items())))
    places = {
        "known_hosts_file": str(known_hosts),
        "identity_file": str(directory / "id_ed25519"),
        "run_dir": str(run_dir),
    }
    hosts = [
        sshconfig.SshHost(kernel.name, str(machine.ipv4(kernel))) for kernel in machine.kernels if kernel.ssh
    ]
    config = sshconfig.ssh_config(machine.name, hosts, popnet=popnet, **places)
    ttys = {kernel.name: kernel.ttys for kernel in machine.kernels}
    config += "\n" + sshconfig.gateway_config(machine.name, ttys, popnet=popnet, **places)
    (directory / "ssh_config").write_text(config)
    return config


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
