"""`popnet`: the table of verbs, each loaded from its module when it is called, and what ends an invocation.

Exit statuses: 0 done; 1 a PopnetError (its message and hint on stderr, a traceback with -v); 2 wrong usage;
130 after Ctrl-C; 141 when nobody reads our output any more (128 + SIGPIPE, as `cat` ends); verbs that run a
command end with the command's own status. Every other exception is a bug of ours, and looks like one.
"""

import os
import sys
from importlib import import_module
from typing import Any, Final, NoReturn

import click
from click.shell_completion import CompletionItem

from popnet import __version__
from popnet.cli.failure import report
from popnet.cli.settings import Settings, common_options, output_option
from popnet.core.errors import PopnetError

VERBS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "A machine": {
        "demo": ("popnet.cli.demo", "Boot a machine, show all it can do, leave nothing."),
        "up": ("popnet.cli.machine", "Boot the machine that a file describes."),
        "run": ("popnet.cli.run", "Be a machine in the foreground, for systemd and containers."),
        "down": ("popnet.cli.machine", "Shut the machine down."),
        "apply": ("popnet.cli.apply", "Make the machine that runs what a file says."),
        "serve": ("popnet.cli.serve", "Run machines in the foreground, until a signal."),
        "status": ("popnet.cli.status", "Say whether machines are well."),
        "ps": ("popnet.cli.kernels", "List the kernels of the machine."),
        "check": ("popnet.cli.check", "Run the self-checks that a machine file has."),
        "services": ("popnet.cli.services", "List the services that kernels have registered."),
        "events": ("popnet.cli.journal", "Print what happened to the machine."),
        "stats": ("popnet.cli.stats", "Show what rings and NICs did."),
        "graph": ("popnet.cli.topology", "Draw the kernels and the links between them."),
        "top": ("popnet.cli.top", "Watch what the kernels do."),
        "link": ("popnet.cli.link", "Impair, cut or show links between kernels, and NICs."),
        "fault": ("popnet.cli.fault", "Run a plan of faults, or show or stop the one that runs."),
        "counters": ("popnet.cli.counters", "Print the counters of all kernels and links."),
    },
    "A kernel": {
        "boot": ("popnet.cli.kernels", "Boot a kernel that is not running."),
        "reboot": ("popnet.cli.kernels", "Shut a kernel down in good order, and boot it."),
        "kill": ("popnet.cli.kernels", "Stop a kernel at once, as a power failure would."),
        "load": ("popnet.cli.kernels", "Give a kernel its partition, without booting it."),
        "unload": ("popnet.cli.kernels", "Take the partition of a kernel back that does not run."),
        "update": ("popnet.cli.update", "Move CPUs, memory and devices of kernels that run."),
        "panic": ("popnet.cli.kernels", "Make a kernel panic, to try what happens then."),
        "hang": ("popnet.cli.kernels", "Make a kernel hang, to try what happens then."),
        "exec": ("popnet.cli.execute", "Run a command in a kernel."),
        "jitter": ("popnet.cli.jitter", "Measure how punctual the CPUs of a kernel are."),
        "mode": ("popnet.cli.modes", "Show or switch how a kernel waits for messages and frames."),
        "console": ("popnet.cli.console", "Attach to a terminal of a kernel."),
        "ssh": ("popnet.cli.secure", "Log into a kernel over its network."),
        "dmesg": ("popnet.cli.journal", "Print a kernel's own log."),
        "capture": ("popnet.cli.capture", "Capture the frames of NICs and links."),
        "trace": ("popnet.cli.trace", "Trace the messages between kernels."),
        "timeline": ("popnet.cli.kernels", "Show how long each step of a boot took."),
    },
    "Files and other programs": {
        "images": ("popnet.cli.images", "List the images that kernels can run."),
        "ramdisk": ("popnet.cli.ramdisk", "Make a ramdisk of static programs, as a cpio archive."),
        "validate": ("popnet.cli.files", "Check a machine file, and list all its errors."),
        "schema": ("popnet.cli.files", "Print the JSON Schema of machine files."),
        "ssh-config": ("popnet.cli.secure", "Print a configuration for OpenSSH clients."),
        "scapy": ("popnet.cli.scapyshell", "Start scapy with the NICs of a machine in it."),
        "proxy": ("popnet.cli.secure", "Connect stdin and stdout to a port of a kernel."),
        "gateway": ("popnet.cli.gateway", "Be the machine's ssh server: the user name says which kernel."),
        "wireshark": ("popnet.cli.wireshark", "Make Wireshark list this user's kernels as interfaces."),
        "service-unit": ("popnet.cli.serviceunit", "Print a systemd unit for machines."),
        "include-dir": ("popnet.cli.meta", "Print where the headers for programs in C are."),
        "completion": ("popnet.cli.meta", "Print a shell's completion script."),
    },
    "This host": {
        "topology": ("popnet.cli.partition", "Print what this host is made of."),
        "partition": ("popnet.cli.partition", "Print a machine file that splits this host among kernels."),
        "doctor": ("popnet.cli.host", "Say what this host can do, and how to mend the rest."),
        "gc": ("popnet.cli.host", "Remove what killed machines left behind."),
        "bench": ("popnet.cli.bench", "Measure messages, networks and boots, popnet beside its rivals."),
        "version": ("popnet.cli.meta", "Print versions."),
    },
}

SIGPIPE_STATUS: Final = 141
INTERRUPT_STATUS: Final = 130


class VerbGroup(click.Group):
    """The group of all verbs; `--help` and completing a verb's name load none of them."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [name for section in VERBS.values() for name in section]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        for section in VERBS.values():
            if name in section:
                command = getattr(import_module(section[name][0]), name.replace("-", "_") + "_verb")
                assert isinstance(command, click.Command)
                return command
        return None

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in self.list_commands(context):
            context.fail(f"no verb {name!r}{_near(name, self.list_commands(context))}")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in VERBS.items():
            with formatter.section(title):
                formatter.write_dl([(name, summary) for name, (_module, summary) in section.items()])

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        verbs = [
            CompletionItem(name, help=summary)
            for section in VERBS.values()
            for name, (_module, summary) in section.items()
            if name.startswith(incomplete)
        ]
        return verbs + click.Command.shell_complete(self, context, incomplete)

    def invoke(self, context: click.Context) -> Any:
        try:
            result = super().invoke(context)
            sys.stdout.flush()
        except BrokenPipeError:
            _discard_stdout()
            context.exit(SIGPIPE_STATUS)
        return result

    def main(self, args: Any = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        settings = extra.setdefault("obj", Settings())
        extra["standalone_mode"] = False
        try:
            status = super().main(args, "popnet", **extra)
        except PopnetError as error:
            report(error, settings)
            status = 1
        except click.ClickException as error:
            error.show()
            status = error.exit_code
        except (KeyboardInterrupt, click.Abort):
            status = INTERRUPT_STATUS
        sys.exit(status if isinstance(status, int) else 0)


def _near(name: str, names: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _discard_stdout() -> None:
    """What is still buffered for stdout goes nowhere, so that the last flush cannot complain."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


@click.command(
    "popnet",
    cls=VerbGroup,
    params=[*common_options(), output_option()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every verb has a --help of its own. Start with: popnet demo",
)
@click.version_option(__version__, "--version", prog_name="popnet", message="%(prog)s %(version)s")
def cli() -> None:
    """Replicated kernels on one Linux box: kernels, their network, consoles, in user space."""


def main() -> NoReturn:
    """The program `popnet`."""
    _open_standard_descriptors()
    cli.main()


def _open_standard_descriptors() -> None:
    """Give 0, 1 and 2 to /dev/null where they are closed, so that no socket of ours gets such a number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one


if __name__ == "__main__":
    main()
