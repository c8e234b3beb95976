"""An interactive scapy with a machine in it, and scripts that find the same names."""

import os
import runpy
import sys
from collections.abc import Sequence
from typing import Any

import popnet.scapy

BANNER = """scapy, and the machine {machine}: {kernels}
  popnet_sniff("k1", filter="icmp", count=4)    k1-k2 names a link     KernelSocket("k1") is a scapy socket
  popnet_srp("k1", Ether()/ARP(pdst="..."))     popnet_sendp("k1", frames, direction="in")
  popnet_bridge("k1", "k2", xfrm12=...)         popnet_answer("k1", ARP_am(...))
"""


def names(machine: str) -> dict[str, Any]:
    """What the shell and its scripts find beside scapy's own names, for *machine*.

    scapy's own functions keep their names: they are for the interfaces of this host.
    """
    os.environ["POPNET_MACHINE"] = machine
    return {
        "KernelSocket": popnet.scapy.KernelSocket,
        "PopnetTrace": popnet.scapy.PopnetTrace,
        "PopnetMessage": popnet.scapy.PopnetMessage,
        "PopnetBody": popnet.scapy.PopnetBody,
        "PopnetSniffer": popnet.scapy.AsyncSniffer,
        "popnet_sniff": popnet.scapy.sniff,
        "popnet_sendp": popnet.scapy.sendp,
        "popnet_srp": popnet.scapy.srp,
        "popnet_srp1": popnet.scapy.srp1,
        "popnet_answer": popnet.scapy.answer,
        "popnet_bridge": popnet.scapy.bridge_and_sniff,
    }


def interact(machine: str, kernels: Sequence[str]) -> None:
    """scapy's shell; returns when its user leaves it."""
    from scapy.main import interact as shell

    found = names(machine)
    print(BANNER.format(machine=machine, kernels=", ".join(kernels)), flush=True)
    shell(mydict=found, argv=["popnet scapy"])


def run_script(machine: str, script: str, arguments: Sequence[str]) -> None:
    """Runs a Python file with the names of the shell, scapy's included, in it."""
    import scapy.all

    found = {name: getattr(scapy.all, name) for name in dir(scapy.all) if not name.startswith("__")}
    sys.argv = [script, *arguments]
    runpy.run_path(script, {**found, **names(machine)}, "__main__")
