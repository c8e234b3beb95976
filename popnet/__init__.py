"""popnet: replicated kernels on one Linux box, in user space.

    import popnet

    async with popnet.Machine.from_file("demo.yaml") as machine:
        result = await machine["k1"].run(["uname", "-n"])

Inside a kernel, `popnet.connect()` is how a program talks to other kernels (docs/programs.md):

    async with popnet.connect() as me:
        stream = await me.open("k2", "echo")

The names of `popnet.api` are here too. They are loaded when first used, so that importing
the package costs next to nothing.
"""

TYPE_CHECKING = False  # not from typing: that import alone would cost 3 ms
if TYPE_CHECKING:
    from popnet.api import (
        Capture,
        ClientStream,
        CommandFailed,
        CommandTimeout,
        Kernel,
        Machine,
        Result,
        Wire,
    )
    from popnet.core.errors import PopnetError
    from popnet.program.blocking import connect_blocking
    from popnet.program.connecting import connect
    from popnet.transport.headers import include_dir

__version__ = "0.1.0"

__all__ = [
    "Capture",
    "ClientStream",
    "CommandFailed",
    "CommandTimeout",
    "Kernel",
    "Machine",
    "PopnetError",
    "Result",
    "Wire",
    "connect",
    "connect_blocking",
    "include_dir",
]


def __getattr__(name: str) -> object:
    if name == "PopnetError":
        from popnet.core.errors import PopnetError

        return PopnetError
    if name == "connect":
        from popnet.program.connecting import connect

        return connect
    if name == "connect_blocking":
        from popnet.program.blocking import connect_blocking

        return connect_blocking
    if name == "include_dir":
        from popnet.transport.headers import include_dir

        return include_dir
    if name in __all__:
        from popnet import api

        value: object = getattr(api, name)
        return value
    raise AttributeError(f"module 'popnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
