"""All that a daemon is told at boot: decided by the primary, sent through the loader as JSON, read once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from popnet.core import addresses
from popnet.kernel.rootfs import RootPlan
from popnet.machine import cmdline
from popnet.machine.memory import Range
from popnet.machine.spec import KernelSpec


@dataclass(frozen=True, slots=True)
class BootConfig:
    """The configuration of one incarnation of a kernel.

    Attributes:
        mount_point: an empty directory of the host; file systems are mounted on it out of the host's sight.
        host_key: the kernel's ssh host key, OpenSSH private format.
        authorized_keys: public keys that may log in, one a line.
        shell: path of the login shell inside the kernel.
        started_at_s: monotonic time at which the boot was asked for.
        kids: name -> number of every kernel of the machine.
        housekeeping: CPUs for its daemon, if the kernel has its own alone.
        impairments: of its NIC and its links, as `impairservice` has them, from its first frame on.
    """

    machine: str
    kernel: KernelSpec
    generation: int
    subnet: IPv4Network
    subnet6: IPv6Network
    root: RootPlan
    mount_point: str
    host_key: str
    authorized_keys: str
    shell: str
    started_at_s: float
    kids: dict[str, int] = field(default_factory=dict)
    impairments: tuple[dict[str, Any], ...] = ()
    housekeeping: tuple[int, ...] = ()

    @property
    def kid(self) -> int:
        return self.kernel.kid

    @property
    def address(self) -> str:
        return self.kernel.address

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of programs in the kernel: a login's, then what the command line has for init, then
        the machine file's, then *more*."""
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "USER": "root",
            "LOGNAME": "root",
            "SHELL": self.shell,
            "LANG": "C.UTF-8",
            **cmdline.parse(self.kernel.cmdline).init_environment,
            **dict(self.kernel.env),
            **more,
        }

    def to_json(self) -> dict[str, Any]:
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "BootConfig":
        kernel = dict(data["kernel"])
        kernel["cpus"] = tuple(kernel["cpus"])
        kernel["services"] = None if kernel["services"] is None else tuple(kernel["services"])
        for key in ("memory_nodes", "devices"):
            kernel[key] = tuple(kernel[key])
        kernel["memory_map"] = tuple(Range(**one) for one in kernel["memory_map"])
        kernel["hidden_pci"] = tuple((vendor, device) for vendor, device in kernel["hidden_pci"])
        kernel["env"] = tuple((name, value) for name, value in kernel["env"])
        return cls(
            **{
                **data,
                "kernel": KernelSpec(**kernel),
                "subnet": IPv4Network(data["subnet"]),
                "subnet6": IPv6Network(data["subnet6"]),
                "impairments": tuple(data["impairments"]),
                "housekeeping": tuple(data["housekeeping"]),
                "root": RootPlan(
                    **{
                        **data["root"],
                        "devices": tuple(data["root"]["devices"]),
                        "hidden": tuple(data["root"]["hidden"]),
                        "hidden_pci": tuple(map(tuple, data["root"]["hidden_pci"])),
                    }
                ),
            }
        )


def _plain(value: Any) -> Any:
    """*value* as JSON has it: dataclasses as objects, addresses as text. `dataclasses.asdict` copies deeply,
    which took a fifth of the primary's part of a boot."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list | frozenset):
        return [_plain(one) for one in value]
    if is_dataclass(value):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return str(value)


def hosts_file(kernels: Iterable[KernelSpec], subnet6: IPv6Network) -> str:
    """The text of /etc/hosts: every kernel of the machine, whether it runs or not."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    network = str(subnet6)
    lines += [_host_lines(one.kid, one.address, one.hostname, one.name, network) for one in kernels]
    return "\n".join(lines) + "\n"


@lru_cache(maxsize=1024)
def _host_lines(kid: int, address: str, hostname: str, name: str, subnet6: str) -> str:
    """Both lines of one kernel. Every boot needs those of all kernels, so they are made once."""
    names = " ".join(dict.fromkeys((hostname, name)))
    return f"{address} {names}\n{addresses.ipv6(kid, IPv6Network(subnet6))} {names}"
