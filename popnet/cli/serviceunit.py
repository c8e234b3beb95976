"""`service-unit`: the systemd unit that runs machines, with the path of the popnet that printed it."""

import sys
from pathlib import Path
from typing import Final

import click

from popnet.cli.settings import verb

UNIT: Final = """\
# Machines as services: {files}/NAME.yaml is run by popnet@NAME.service.
[Unit]
Description=popnet machine %i
Documentation=man:popnet(1) man:popnet-machine(5)

[Service]
Type=notify
NotifyAccess=main
EnvironmentFile=-{environment}
ExecStart={popnet} run --name %i {files}/%i.yaml
ExecReload={popnet} -m %i apply {files}/%i.yaml
Restart=on-failure
RestartSec=2
WatchdogSec=30
TimeoutStopSec=10
KillMode=mixed
Delegate=yes
TasksMax=infinity
LimitNOFILE=65536

[Install]
WantedBy={target}
"""


@verb("service-unit")
@click.option("--user", is_flag=True, help="For an ordinary user's systemd, instead of the system's.")
@click.option("--popnet", "program", metavar="PATH", help="The program to run.  [default: this one]")
def service_unit_verb(user: bool, program: str | None) -> None:
    """Print a systemd unit for machines.

    \b
    popnet service-unit > /etc/systemd/system/popnet@.service
    popnet service-unit --user > ~/.config/systemd/user/popnet@.service

    Then /etc/popnet/NAME.yaml (~/.config/popnet/NAME.yaml) is run by popnet@NAME. `systemctl reload` applies
    a changed file. Settings such as POPNET_METRICS go to /etc/default/popnet (~/.config/popnet/environment).
    """
    click.echo(unit(program or own_path(), user), nl=False)


def unit(program: str, user: bool) -> str:
    """The text of popnet@.service, for the *program* at that path."""
    if user:
        return UNIT.format(
            popnet=program,
            files="%h/.config/popnet",
            environment="%h/.config/popnet/environment",
            target="default.target",
        )
    return UNIT.format(
        popnet=program, files="/etc/popnet", environment="/etc/default/popnet", target="multi-user.target"
    )


def own_path() -> str:
    """The program `popnet` beside the running Python; else that Python with the module, as two words."""
    beside = Path(sys.executable).parent / "popnet"
    return str(beside) if beside.exists() else f"{sys.executable} -m popnet.cli.main"
