"""popnet: replicated kernels on one Linux box, in user space.

    import popnet

    async with popnet.Machine.from_file("demo.yaml") as machine:
        result = await machine["k1"].run(["uname", "-n"])

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
    )
    from popnet.core.errors import PopnetError

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
]


def __getattr__(name: str) -> object:
    if name == "PopnetError":
        from popnet.core.errors import PopnetError

        return PopnetError
    if name in __all__:
        from popnet import api

        value: object = getattr(api, name)
        return value
    raise AttributeError(f"module 'popnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
