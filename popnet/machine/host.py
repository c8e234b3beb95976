"""What a host has that kernels can be given, as plain facts; `popnet.kernel.host` reads them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Host:
    """The resources of one host.

    Attributes:
        cpus: the CPUs this process may run on, in rising order.
        memory_bytes: what it may use, in bytes.
    """

    cpus: tuple[int, ...]
    memory_bytes: int
