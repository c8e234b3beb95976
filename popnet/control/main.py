"""`python -m popnet.control.main`: the process of a primary kernel, from its first instruction; `popnet up`
starts it, and `popnet run` becomes it.

The order matters. All that kernels need is imported first (the loader inherits it). Then, with one thread:
lock and ownership record, the sockets of the host that it needs (journal, service manager, metrics), the
machine's namespaces, keys, the fork of the loader, kernel 0's namespaces and init. Then the server of the
control API is imported, which only the primary has: it would be a quarter of the memory whose page tables
each boot copies. Only then threads and the event loop.

Progress goes to a descriptor as JSON lines: {"event": {...}} for each event, and last either {"ready":
{"name", "socket"}} or {"error": {"code", "message", "hint"}}. Without one, errors are told on stderr.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from popnet.control.gatewayhost import GatewayHost, open_gateway
from popnet.control.notify import Notifier
from popnet.control.rundir import run_dir
from popnet.core.errors import BootFailed, PopnetError, Refused, Unavailable
from popnet.kernel import descriptors, gc, host, logs, loop, namespaces, owner
from popnet.kernel.cgroup import Tree
from popnet.kernel.configure import boot_config
from popnet.kernel.credentials import make as make_credentials
from popnet.kernel.daemon import name_process, prepare
from popnet.kernel.imageroots import ImageRoots
from popnet.kernel.loader import fork_loader
from popnet.kernel.primary import Primary
from popnet.kernel.timeline import Timeline
from popnet.machine import file as machine_file
from popnet.machine.names import machine_name
from popnet.machine.search import find_machine_file, image_search_path
from popnet.machine.spec import MachineSpec
from popnet.net.filter import match_problem
from popnet.tty.promptness import lead_session

Progress = Callable[[dict[str, Any]], None]


def main(arguments: list[str] | None = None) -> int:
    """Run a machine until it is taken down; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m popnet.control.main")
    parser.add_argument("--file", required=True)
    parser.add_argument("--name")
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--progress-fd", type=int)
    parser.add_argument("--foreground", action="store_true")
    parser.add_argument("--log-format", default="auto")
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--metrics")
    options = parser.parse_args(arguments)
    progress = _progress(options.progress_fd)
    try:
        return _run(options, progress)
    except PopnetError as error:
        progress({"error": {"code": error.code, "message": str(error), "hint": error.hint}})
        return 1
    except (OSError, RuntimeError) as error:  # the host has no more of something: processes, threads, room
        hint = "`popnet doctor` tells what this host allows"
        if isinstance(error, RuntimeError) and "new thread" not in str(error):
            hint = "this is a fault of popnet's own: please report it"
        progress({"error": {"code": BootFailed.code, "message": f"cannot boot: {error}", "hint": hint}})
        return 1


def _run(options: argparse.Namespace, progress: Progress) -> int:
    started_at_s = time.monotonic()
    machine = _load(options)
    descriptors.provide(len(machine.kernels))
    base = options.run_dir or run_dir()
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = base / machine.name
    _clean_up_after_crash(base, machine.name)
    ownership = owner.Ownership(directory, machine.name)
    with contextlib.ExitStack() as held:
        held.callback(ownership.release)
        gateway = open_gateway(machine)
        if gateway is not None:
            held.callback(gateway.close)
        if not options.foreground:
            _redirect_output(directory)
        logs.start(options.log_format, options.log_level)
        logs.identify(machine.primary.name, 1)
        notifier = Notifier(os.environ)
        held.callback(notifier.close)
        metrics = None
        if options.metrics:
            from popnet.control import metricsserver

            metrics = metricsserver.bind(options.metrics)
            held.callback(metrics.close)
        watched = (notifier, metrics, gateway)
        return _run_owned(machine, options, ownership, base, progress, started_at_s, *watched)


def _load(options: argparse.Namespace) -> MachineSpec:
    path = find_machine_file(options.file, os.environ)
    machine = machine_file.load(path, host.read_host(), image_search_path(os.environ, path), match_problem)
    if options.name:
        try:
            return _renamed(machine, machine_name(options.name))
        except ValueError as error:
            raise Refused(f"--name: {error}") from None
    return machine


def _renamed(machine: MachineSpec, name: str) -> MachineSpec:
    """*machine* under another name, so that one file can run twice."""
    return replace(machine, name=name)


def _clean_up_after_crash(base: Path, name: str) -> None:
    """A machine of this name whose primary was killed leaves a directory; what it owned goes before the name
    is used again."""
    if (base / name / "lock").exists() and not owner.is_alive(base / name):
        gc.collect_machine(base / name)


def _run_owned(
    machine: MachineSpec,
    options: argparse.Namespace,
    ownership: owner.Ownership,
    base: Path,
    progress: Progress,
    started_at_s: float,
    notifier: Notifier,
    metrics: socket.socket | None,
    gateway: GatewayHost | None,
) -> int:
    whole = host.read_host()  # before this process keeps to its own CPUs
    try:
        namespaces.enter_machine()
    except OSError as error:
        hint = "`popnet doctor` tells how to allow it; root does not need it"
        raise Unavailable(f"this host lets ordinary users make no user namespaces ({error})", hint) from None
    lead_session()
    name_process(f"{machine.name}")
    popnet = [sys.executable, "-m", "popnet.cli.main"]
    gateway_key = None if gateway is None else gateway.private_key
    credentials = make_credentials(machine, ownership.directory, base, popnet, gateway_key)
    images = {kernel.image: machine_file.load_image(kernel.image_path) for kernel in machine.kernels}
    with contextlib.ExitStack() as stack:
        tree = Tree(machine.name, ownership.add_cgroup)
        stack.callback(tree.remove)  # the last: until then its groups are not empty
        loader_pid, loader = fork_loader()
        stack.callback(_end_loader, loader, loader_pid)
        ownership.add_process(loader_pid)
        timeline = Timeline(time.monotonic())
        own = machine.primary
        image_roots = ImageRoots(ownership.directory)
        stack.callback(image_roots.close)
        ready = image_roots.make_ready(images[own.image])
        source = ready.path if ready else None
        config = boot_config(machine, own, 1, credentials, ownership.directory, source)
        prepared = prepare(config, tree.group(own.name), timeline)
        stack.callback(_end_child, prepared.init_pid)
        from popnet.control import serving  # not before: see above

        timeline.done("control")
        status = 0

        async def serve() -> None:
            primary = Primary(
                machine,
                images,
                ownership,
                credentials,
                tree,
                loader,
                prepared,
                config,
                timeline,
                image_roots,
                whole,
            )
            nonlocal status
            watched = (started_at_s, progress, notifier, metrics)
            beside = None
            if gateway is not None:
                primary.gateway = gateway.answer
                beside = partial(gateway.run, base, ownership, primary.tell)
            status = (
                await serving.serve_machine(primary, ownership.directory, *watched, beside=beside)
            ).status

        loop.run(serve())
        return status


def _end_loader(channel: socket.socket, pid: int) -> None:
    """The loader ends with its channel, and every daemon with the loader."""
    channel.close()
    os.waitpid(pid, 0)


def _end_child(pid: int) -> None:
    """Kernel 0's init has ended with its daemon; if the daemon never ran, it has not."""
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return
    except ChildProcessError:
        return
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _redirect_output(directory: Path) -> None:
    """What daemons print (tracebacks, mostly) goes to the machine's log from here on."""
    log = os.open(directory / "machine.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _progress(fd: int | None) -> Progress:
    if fd is None:
        return _tell_errors
    os.set_inheritable(fd, False)

    def write(message: dict[str, Any]) -> None:
        try:
            os.write(fd, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            return  # whoever started the machine has gone; the machine stays

    return write


def _tell_errors(message: dict[str, Any]) -> None:
    if "error" in message:
        error = message["error"]
        print(f"popnet: {error['message']}", file=sys.stderr)
        if error["hint"]:
            print(f"  hint: {error['hint']}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
