"""The text of an ssh client's configuration and known hosts for one machine, for any OpenSSH client. Pure.

What the options are for: the host key is checked, never asked about, under a name that no other machine has
(HostKeyAlias), since addresses are the same in all machines. The client needs no route to the kernel: the
proxy command carries the connection. The machine's own key is offered, and beside it what the user's agent
holds or `-i` names, so IdentitiesOnly stays off. Questions for passwords would only hide what is wrong. The
cipher is left to the client: AES-GCM is up to twice as fast as its default, but Wireshark's dissector takes
such packets for malformed.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_OPTIONS = (
    ("Port", "22"),
    ("GlobalKnownHostsFile", "none"),
    ("StrictHostKeyChecking", "yes"),
    ("UpdateHostKeys", "no"),
    ("CheckHostIP", "no"),
    ("PreferredAuthentications", "publickey"),
    ("ServerAliveInterval", "15"),
)


GATEWAY = "gw"
"""The last part of the gateway's hosts, and under what its host key is known, before the machine's name."""


@dataclass(frozen=True, slots=True)
class SshHost:
    """A kernel, as an ssh client sees it.

    Attributes:
        name: the kernel's.
        address: its IPv4 address.
        user: who logs in.
    """

    name: str
    address: str
    user: str = "root"


def host_key_alias(kernel: str, machine: str) -> str:
    """The name under which a kernel's host key is known."""
    return f"{kernel}.{machine}"


def ssh_config(
    machine: str,
    hosts: Iterable[SshHost],
    *,
    known_hosts_file: str,
    identity_file: str,
    popnet: Sequence[str],
    run_dir: str,
) -> str:
    """An ssh_config with a Host block for each kernel, named `k1` and `k1.machine`.

    Args:
        machine: its name.
        known_hosts_file: path of what `known_hosts` returns.
        identity_file: path of the machine's private key.
        popnet: the command that is popnet, such as `[sys.executable, "-m", "popnet.cli.main"]`.
        run_dir: the run directory, of all machines.

    Raises:
        ValueError: a path that cannot be written in such a file: with a line break, or `${`.
    """
    blocks = [_block(machine, host, known_hosts_file, identity_file, popnet, run_dir) for host in hosts]
    return f"# ssh to the kernels of machine {machine}: ssh -F <this file> <kernel>\n\n" + "\n".join(blocks)


def gateway_config(
    machine: str,
    ttys: Mapping[str, int],
    *,
    known_hosts_file: str,
    identity_file: str,
    popnet: Sequence[str],
    run_dir: str,
) -> str:
    """More Host blocks: `k1.gw` for the machine's gateway at that kernel, `k1.tty0` for a terminal of it.

    Args:
        ttys: how many each kernel has.
        Others are those of `ssh_config`.
    """
    proxy = [*popnet, "--run-dir", run_dir, "-m", machine, "gateway", "--stdio"]
    common = (
        ("HostKeyAlias", host_key_alias(GATEWAY, machine)),
        ("UserKnownHostsFile", _file(known_hosts_file)),
        ("IdentityFile", _file(identity_file)),
        ("ProxyCommand", _command(proxy)),
        *_OPTIONS,
    )
    blocks: list[tuple[str, tuple[tuple[str, str], ...]]] = [
        (f"{kernel}.{GATEWAY}", (("HostName", f"{kernel}.{GATEWAY}"), ("User", kernel))) for kernel in ttys
    ]
    blocks += [
        (
            f"{kernel}.tty{n}",
            (("HostName", f"{kernel}.{GATEWAY}"), ("User", f"{kernel}.tty{n}"), ("RequestTTY", "yes")),
        )
        for kernel, count in ttys.items()
        for n in range(count)
    ]
    lines = [
        "\n".join([f"Host {host}", *(f"  {name} {value}" for name, value in (*own, *common))])
        for host, own in blocks
    ]
    return "\n\n".join(lines) + "\n"


def known_hosts(machine: str, keys: Iterable[tuple[str, str]]) -> str:
    """A known_hosts file, from each kernel's name and the public line of its host key."""
    return "".join(
        f"{host_key_alias(kernel, machine)} {' '.join(public.split()[:2])}\n" for kernel, public in keys
    )


def _block(
    machine: str,
    host: SshHost,
    known_hosts_file: str,
    identity_file: str,
    popnet: Sequence[str],
    run_dir: str,
) -> str:
    alias = host_key_alias(host.name, machine)
    proxy = [*popnet, "--run-dir", run_dir, "-m", machine, "proxy", host.name]
    options = (
        ("HostName", host.address),
        ("User", host.user),
        ("HostKeyAlias", alias),
        ("UserKnownHostsFile", _file(known_hosts_file)),
        ("IdentityFile", _file(identity_file)),
        ("ProxyCommand", f"{_command(proxy)} %p"),
        *_OPTIONS,
    )
    lines = [f"Host {host.name} {alias}", *(f"  {name} {value}" for name, value in options)]
    return "\n".join(lines) + "\n"


def _file(path: str) -> str:
    """A path as an argument: quoted, and nothing in it taken for the client's own signs."""
    if "${" in path:
        raise ValueError(f"an ssh client would take {path!r} for a variable")
    return '"{}"'.format(_line(path).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"'))


def _command(argv: Sequence[str]) -> str:
    """A command as it stands in such a file: its shell gets the rest of the line, percents expanded."""
    return _line(shlex.join(argv)).replace("%", "%%")


def _line(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise ValueError(f"a line break in {text!r}")
    return text
