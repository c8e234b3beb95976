"""The extcap plug-in of Wireshark: kernels of machines that run, as interfaces like any other.

Wireshark calls it, by a script that `popnet wireshark install` makes: first for interfaces, then for what can
be set and for link types, at last to capture into a named pipe
(https://www.wireshark.org/docs/man-pages/extcap.html). It is called at each start of Wireshark, so it loads
little until it captures, and a machine that does not answer is left out.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from popnet import __version__
from popnet.control.capturetargets import ANY
from popnet.control.client import Client, machines
from popnet.core.errors import NoSuchMachine, PopnetError
from popnet.core.limits import FRAME_SIZE_MAX

PREFIX: Final = "popnet:"
TIMEOUT_S: Final = 1.0
"""Seconds a machine may take to tell its kernels."""

_HELP: Final = "https://www.wireshark.org/docs/man-pages/extcap.html"


def main(arguments: Sequence[str] | None = None) -> int:
    """The whole plug-in. Returns the exit status; errors are one line on stderr, which Wireshark shows."""
    try:
        return _run(_options(sys.argv[1:] if arguments is None else arguments))
    except PopnetError as error:
        hint = f" ({error.hint})" if error.hint else ""
        print(f"popnet: {error}{hint}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        return 0


def _options(arguments: Sequence[str]) -> dict[str, str]:
    """`--name value`, `--name=value` and `--name`, as Wireshark gives them; unknown ones mean nothing."""
    found: dict[str, str] = {}
    name = ""
    for word in arguments:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            found[name] = value
            name = "" if equals else name
        elif name:
            found[name], name = word, ""
    return found


def _run(options: dict[str, str]) -> int:
    if "--extcap-interfaces" in options:
        print("\n".join(interfaces()))
        return 0
    interface = options.get("--extcap-interface", "")
    if "--extcap-dlts" in options:
        print("dlt {number=1}{name=EN10MB}{display=Ethernet}")
        return 0
    if not interface:
        print(f"popnet {__version__}: an extcap plug-in, called by Wireshark", file=sys.stderr)
        return 1
    machine, kernel = _names(interface)
    if "--extcap-config" in options:
        print("\n".join(config(machine, kernel)))
        return 0
    if "--capture" in options:
        return _capture(machine, kernel, options)
    if "--extcap-capture-filter" in options:
        return asyncio.run(_check(machine, kernel, options["--extcap-capture-filter"]))
    return 0


def interfaces() -> list[str]:
    """The lines that answer --extcap-interfaces."""
    lines = [f"extcap {{version={__version__}}}{{help={_HELP}}}{{display=popnet}}"]
    for name in machines():
        try:
            rows = Client(name, timeout_s=TIMEOUT_S).get("/v1/kernels")
        except PopnetError:
            continue  # it goes down, or hangs: nothing to capture at
        lines.append(_interface(name, ANY, "all kernels"))
        lines += [_interface(name, row["name"], f"{row['name']} eth0") for row in rows]
    return lines


def _interface(machine: str, kernel: str, text: str) -> str:
    return f"interface {{value={PREFIX}{machine}/{kernel}}}{{display=popnet {machine}: {text}}}"


def config(machine: str, kernel: str) -> list[str]:
    """The lines that answer --extcap-config."""
    lines = [
        "arg {number=0}{call=--snap-length}{display=Bytes kept of a frame}"
        f"{{tooltip=0: all of them}}{{type=unsigned}}{{range=0,{FRAME_SIZE_MAX}}}{{default=0}}"
    ]
    if kernel == ANY:
        return lines
    rows = Client(machine, timeout_s=TIMEOUT_S).get("/v1/kernels")
    lines.append(
        "arg {number=1}{call=--peer}{display=Only frames between this kernel and}"
        "{tooltip=One link instead of the whole NIC}{type=selector}"
    )
    lines.append("value {arg=1}{value=}{display=all others}{default=true}")
    others = [row["name"] for row in rows if row["name"] != kernel]
    return lines + [f"value {{arg=1}}{{value={name}}}{{display={name}}}" for name in others]


def _names(interface: str) -> tuple[str, str]:
    machine, slash, kernel = interface.removeprefix(PREFIX).partition("/")
    if not interface.startswith(PREFIX) or not slash:
        raise NoSuchMachine(f"no interface {interface!r}", f"popnet's are called {PREFIX}MACHINE/KERNEL")
    return machine, kernel


def _feeds(machine: str, kernel: str, options: dict[str, str]) -> Any:
    from popnet.control.capturefeeds import CaptureFeeds

    length, peer = options.get("--snap-length", ""), options.get("--peer", "")
    return CaptureFeeds(
        Client(machine),
        "" if peer else kernel,
        options.get("--extcap-capture-filter", ""),
        int(length) if length.isdecimal() else 0,
        links=[(kernel, peer)] if peer else [],
    )


async def _check(machine: str, kernel: str, text: str) -> int:
    """Whether the machine takes a filter: Wireshark shows what is printed, and nothing means yes."""
    try:
        async with _feeds(machine, kernel, {"--extcap-capture-filter": text}):
            return 0
    except PopnetError as error:
        print(error)
        return 1


def _capture(machine: str, kernel: str, options: dict[str, str]) -> int:
    from popnet.cli.blocks import Blocks
    from popnet.cli.capture import Capture
    from popnet.cli.capturesinks import open_pipe
    from popnet.cli.settings import Settings

    feeds = _feeds(machine, kernel, options)
    fifo = options.get("--fifo", "")
    sink = open_pipe(fifo)
    # Held until this process ends: Wireshark does not wait for errors that come after the end of the pipe.
    os.open(fifo, os.O_WRONLY | os.O_CLOEXEC)
    return asyncio.run(Capture(Settings(machine, quiet=True), feeds, Blocks(None), sink).run())


if __name__ == "__main__":
    sys.exit(main())
