"""The networks that are measured, each joining two network namespaces: what it needs, and how it is made.

All of them live in the namespaces of one `Bed`. Each maker returns the `Ends`: where the client runs, where
the server runs, and under which address the client reaches it.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from popnet.bench.bed import CONGESTION, HERE, TOOLS, Bed, Broken, Place

ADDRESSES: Final = ("10.99.0.1", "10.99.0.2")
OUTER: Final = ("10.98.0.1", "10.98.0.2")
"""Of a network below the one that is measured."""

SOCKET_S: Final = 5.0
"""Seconds until a daemon has made the interface, or the socket, that others wait for."""

OVS_SCHEMA: Final = Path("/usr/share/openvswitch/vswitch.ovsschema")
TAP: Final = Path("/dev/net/tun")


@dataclass(frozen=True, slots=True)
class Ends:
    client: Place
    server: Place
    address: str


Maker = Callable[[Bed, int], Ends]


@dataclass(frozen=True, slots=True)
class NetKind:
    """A network between two namespaces.

    Attributes:
        make: makes it, with an MTU.
        programs: all of them have to be there.
        install: how to get what is missing.
        taps: whether it needs /dev/net/tun.
    """

    id: str
    name: str
    make: Maker
    programs: tuple[str, ...] = ()
    install: str = ""
    taps: bool = True

    def missing(self) -> str | None:
        """What this host lacks for it; None if it can be measured."""
        lacking = [name for name in self.programs if not program(name)]
        if lacking:
            return f"not installed: {', '.join(lacking)}"
        if self.taps and not os.access(TAP, os.R_OK | os.W_OK):
            return f"no access to {TAP}"
        return None


def program(name: str) -> str | None:
    """Where the program *name* is; administrators' directories are looked into as well."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def two_places(bed: Bed) -> tuple[Place, Place]:
    return bed.place("a"), bed.place("b")


def set_up(bed: Bed, place: Place, device: str, mtu: int, address: str) -> None:
    """Give *device* its MTU and address, once it is there, and bring it up."""
    wait_for(bed, f"[ -e /proc/sys/net/ipv4/conf/{device} ]", device, place)
    bed.run(["ip", "link", "set", device, "mtu", str(mtu), "up"], place)
    bed.run(["ip", "addr", "add", f"{address}/24", "dev", device], place)


def gone_at_end(bed: Bed, device: str) -> None:
    """Delete *device* with the bed: Linux does it as well, with the other end's namespace, but later."""
    bed.at_end(lambda: subprocess.run(["ip", "link", "del", device], check=False, capture_output=True))


def wait_for(bed: Bed, condition: str, what: str, place: Place = HERE) -> None:
    """Until the shell's *condition* holds in *place*. Raises Broken after SOCKET_S."""
    tries = int(SOCKET_S / 0.02)
    loop = f"for i in $(seq {tries}); do {condition} && exit 0; sleep 0.02; done; exit 1"
    try:
        bed.run(["sh", "-c", loop], place)
    except Broken:
        raise Broken(f"{what} did not come within {SOCKET_S:g} s") from None


def popnet(bed: Bed, mtu: int) -> Ends:
    places, addresses = kernels(bed, 2, mtu)
    return Ends(places[0], places[1], addresses[1])


def kernels(bed: Bed, count: int, mtu: int) -> tuple[list[Place], list[str]]:
    """The namespaces and addresses of *count* kernels of a machine, the primary not among them.

    Its kernels may use all CPUs, as the other networks' processes may.
    """
    names = [f"k{number}" for number in range(1, count + 1)]
    rows = machine(bed, names, f"{{mtu: {mtu}, overcommit: true}}", f"cpus: {cpus_text()}, ")
    return [Place(f"/proc/{row['pid']}/ns/net") for row in rows], [str(row["ipv4"]) for row in rows]


def machine(bed: Bed, names: Sequence[str], settings: str, each: str = "") -> list[Mapping[str, object]]:
    """Boot light kernels of these names; their rows of `popnet ps`. It is taken down with the bed."""
    file = bed.directory / "bench.yaml"
    lines = ["apiVersion: popnet/v1", "name: bench", f"machine: {settings}", "kernels:"]
    lines += [f"  primary: {{{each.removesuffix(', ')}}}"]
    lines += [f"  {name}: {{{each}image: light}}" for name in names]
    file.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "popnet.cli.main"]
    env = {"POPNET_RUN_DIR": str(bed.directory), "PYTHONPATH": str(Path(__file__).parents[2])}
    environment = {**os.environ, **env}
    down = [*command, "down", "-q"]  # also of a boot that was interrupted; there may be nothing to take down
    bed.at_end(lambda: subprocess.run(down, env=environment, check=False, capture_output=True, timeout=60))
    bed.run([*command, "up", str(file), "-q"], env=env, timeout_s=60)
    rows = json.loads(bed.run([*command, "ps", "-o", "json"], env=env))["items"]
    return [row for row in rows if row["name"] in names]


def cpus_text() -> str:
    """The CPUs we may use, as machine files have them."""
    return f'"{",".join(map(str, sorted(os.sched_getaffinity(0))))}"'


def veth(bed: Bed, mtu: int) -> Ends:
    a, b = two_places(bed)
    bed.run(["ip", "link", "add", "p0", "netns", "a", "type", "veth", "peer", "name", "p0", "netns", "b"])
    for place, address in zip((a, b), ADDRESSES, strict=True):
        set_up(bed, place, "p0", mtu, address)
    return Ends(a, b, ADDRESSES[1])


def bridge(bed: Bed, mtu: int) -> Ends:
    places, addresses = bridged(bed, 2, mtu)
    return Ends(places[0], places[1], addresses[1])


def bridged(bed: Bed, count: int, mtu: int) -> tuple[list[Place], list[str]]:
    """*count* namespaces on one Linux bridge, as Mininet and containers have them."""
    bed.run(["ip", "link", "add", "br0", "type", "bridge"])
    gone_at_end(bed, "br0")
    bed.run(["ip", "link", "set", "br0", "mtu", str(mtu), "up"])
    places, addresses = [], [f"10.99.0.{number}" for number in range(1, count + 1)]
    for number, address in enumerate(addresses):
        place, port = bed.place(f"n{number}"), f"v{number}"
        pair = ["ip", "link", "add", port, "type", "veth", "peer", "name", "p0", "netns", f"n{number}"]
        bed.run(pair)
        gone_at_end(bed, port)
        bed.run(["ip", "link", "set", port, "mtu", str(mtu), "master", "br0", "up"])
        set_up(bed, place, "p0", mtu, address)
        places.append(place)
    return places, addresses


def vde(bed: Bed, mtu: int) -> Ends:
    a, b = two_places(bed)
    control = str(bed.directory / "vde")
    bed.start(["vde_switch", "-s", control, "-n", "8"])
    wait_for(bed, f"[ -e {control}/ctl ]", "vde_switch")
    for place, address in zip((a, b), ADDRESSES, strict=True):
        bed.start(["vde_plug2tap", "-s", control, "p0"], place)
        set_up(bed, place, "p0", mtu, address)
    return Ends(a, b, ADDRESSES[1])


def socat(bed: Bed, mtu: int) -> Ends:
    a, b = two_places(bed)
    one, other = str(bed.directory / "one"), str(bed.directory / "other")
    for place, own, peer in ((a, one, other), (b, other, one)):
        tap = "TUN,tun-type=tap,tun-name=p0,iff-no-pi"
        bed.start(["socat", "-b", "66000", tap, f"UNIX-SENDTO:{peer},bind={own}"], place)
    for own in (one, other):  # socat ends when it sends to a socket that is not there yet
        wait_for(bed, f"[ -S {own} ]", "socat")
    for place, address in zip((a, b), ADDRESSES, strict=True):
        set_up(bed, place, "p0", mtu, address)
    return Ends(a, b, ADDRESSES[1])


def pasta(bed: Bed, mtu: int) -> Ends:
    """Its namespace is the client's; what it opens connections to for it is behind a veth pair."""
    host, inside = two_places(bed)
    server = bed.place("c")
    bed.run(["ip", "link", "add", "u0", "netns", "a", "type", "veth", "peer", "name", "u0", "netns", "c"])
    for place, address in zip((host, server), OUTER, strict=True):
        set_up(bed, place, "u0", mtu, address)
    bed.run(["ip", "route", "add", "default", "via", "10.98.0.3"], host)  # it copies one, and wants one
    options = ["-f", "-q", "-4", "--runas", "0", "--config-net", "-m", str(mtu)]
    bed.start(["pasta", *options, "-t", "none", "-u", "none", "--netns", inside.net], host)
    wait_for(bed, "ip -4 route | grep -q default", "pasta", inside)
    route = ["10.98.0.0/24", "dev", "u0", "src", OUTER[0], "congctl", CONGESTION]
    bed.run(["ip", "route", "replace", *route], host)  # the connections that it opens are its own
    return Ends(inside, server, OUTER[1])


def slirp(bed: Bed, mtu: int) -> Ends:
    """Its host side is the server's namespace, which the client knows as 10.0.2.2."""
    host, inside = two_places(bed)
    bed.start(["slirp4netns", "--configure", f"--mtu={mtu}", "--netns-type=path", inside.net, "p0"], host)
    wait_for(bed, "ip -4 route | grep -q default", "slirp4netns", inside)
    return Ends(inside, host, "10.0.2.2")


def tinc(bed: Bed, mtu: int) -> Ends:
    """Without encryption and compression, over a veth pair; the best it can do."""
    places = two_places(bed)
    bed.run(["ip", "link", "add", "u0", "netns", "a", "type", "veth", "peer", "name", "u0", "netns", "b"])
    hosts = {}
    for name, place, address in zip("ab", places, OUTER, strict=True):
        set_up(bed, place, "u0", 9100, address)
        directory = bed.directory / name
        (directory / "hosts").mkdir(parents=True)
        connect = "ConnectTo=a\n" if name == "b" else ""
        (directory / "tinc.conf").write_text(
            f"Name={name}\nMode=switch\nInterface=p0\nDeviceType=tap\nPMTU={mtu + 14}\n{connect}"
        )
        own = directory / "hosts" / name
        own.write_text(f"Address={address}\nCipher=none\nDigest=none\nCompression=0\n")
        bed.run(["tincd", "-c", str(directory), "-K", "1024"], text="\n\n\n")
        hosts[name] = own.read_text()
    for name in "ab":
        for other, text in hosts.items():
            (bed.directory / name / "hosts" / other).write_text(text)
    for name, place, address in zip("ab", places, ADDRESSES, strict=True):
        pid_file = f"--pidfile={bed.directory / name}.pid"
        bed.start(["tincd", "-c", str(bed.directory / name), "-D", pid_file], place)
        set_up(bed, place, "p0", mtu, address)
    return Ends(*places, ADDRESSES[1])


def ovs(bed: Bed, mtu: int) -> Ends:
    """Its user-space datapath with segmentation offload, between two veth pairs; a run directory of its
    own."""
    a, b = two_places(bed)
    run = str(bed.directory)
    env = {"OVS_RUNDIR": run, "OVS_LOGDIR": run, "OVS_DBDIR": run}
    socket = f"{run}/db.sock"
    bed.run(["ovsdb-tool", "create", f"{run}/conf.db", str(OVS_SCHEMA)], env=env)
    remote = [f"--remote=punix:{socket}", f"--unixctl={run}/ovsdb.ctl", "--no-chdir"]
    bed.start(["ovsdb-server", f"{run}/conf.db", *remote], env=env)
    wait_for(bed, f"[ -e {socket} ]", "ovsdb-server")

    def control(*words: str) -> None:
        bed.run(["ovs-vsctl", f"--db=unix:{socket}", "--timeout=8", *words], env=env)

    control("--no-wait", "init")
    control("--no-wait", "set", "Open_vSwitch", ".", "other_config:userspace-tso-enable=true")
    for device in ("ovs0", "ovs-netdev"):
        gone_at_end(bed, device)  # it leaves its interfaces when it is ended
    bed.start(["ovs-vswitchd", f"unix:{socket}", f"--unixctl={run}/switch.ctl", "--no-chdir"], env=env)
    control("add-br", "ovs0", "--", "set", "bridge", "ovs0", "datapath_type=netdev", "fail-mode=standalone")
    for name, place, address in zip("ab", (a, b), ADDRESSES, strict=True):
        port = f"v{name}"
        bed.run(["ip", "link", "add", port, "type", "veth", "peer", "name", "p0", "netns", name])
        gone_at_end(bed, port)
        bed.run(["ip", "link", "set", port, "mtu", str(mtu), "up"])
        set_up(bed, place, "p0", mtu, address)
        control("add-port", "ovs0", port)
    return Ends(a, b, ADDRESSES[1])


REFERENCE: Final = "veth"
"""The network that all are compared with: no process is in its path."""

IPROUTE: Final = "apt install iproute2 util-linux"
OVS_PROGRAMS: Final = ("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl")

NETS: Final = (
    NetKind(REFERENCE, "veth pair", veth, TOOLS, IPROUTE, taps=False),
    NetKind("bridge", "veth + Linux bridge", bridge, TOOLS, IPROUTE, taps=False),
    NetKind("popnet", "popnet", popnet),
    NetKind("vde", "vde_switch", vde, ("vde_switch", "vde_plug2tap"), "apt install vde2"),
    NetKind("pasta", "pasta (passt)", pasta, ("pasta",), "apt install passt"),
    NetKind("slirp", "slirp4netns", slirp, ("slirp4netns",), "apt install slirp4netns"),
    NetKind("socat", "socat TAP-TAP", socat, ("socat",), "apt install socat"),
    NetKind("tinc", "tinc, no encryption", tinc, ("tincd",), "apt install tinc"),
    NetKind(
        "ovs", "Open vSwitch, user space", ovs, OVS_PROGRAMS, "apt install openvswitch-switch", taps=False
    ),
)
