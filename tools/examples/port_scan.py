"""A SYN scan from one kernel to an address: which TCP ports answer?

    python tools/examples/port_scan.py k1 10.1.2.3 22 80 443 8000-8010

The kernel's own stack knows nothing of these connections, so it refuses each SYN-ACK with a RST. For a scan
that is just right: nothing stays half open over there. (tcp_handshake.py needs it otherwise.)
"""

import sys

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import ARP, Ether

import popnet.scapy

SYN_ACK, RST = 0x12, 0x04


def ports(words):
    for word in words:
        first, _, last = word.partition("-")
        yield from range(int(first), int(last or first) + 1)


def main(kernel, address, *words):
    with popnet.scapy.KernelSocket(kernel, filter=f"arp or (tcp and src host {address})") as nic:
        who_has = Ether(src=nic.mac, dst="ff:ff:ff:ff:ff:ff") / ARP(
            hwsrc=nic.mac, psrc=nic.ipv4, pdst=address
        )
        here = nic.sr1(who_has, timeout=5, verbose=False)
        if here is None:
            sys.exit(f"{address} does not answer to ARP")
        head = Ether(src=nic.mac, dst=here[ARP].hwsrc) / IP(src=nic.ipv4, dst=address)
        probes = [head / TCP(sport=50000 + n, dport=port, flags="S") for n, port in enumerate(ports(words))]
        answered, silent = nic.sr(probes, timeout=5, verbose=False)
    for probe, reply in answered:
        flags = int(reply[TCP].flags)
        state = "open" if flags & SYN_ACK == SYN_ACK else "closed" if flags & RST else "strange"
        print(f"{probe[TCP].dport} {state}")
    for probe in silent:
        print(f"{probe[TCP].dport} silent")


if __name__ == "__main__":
    main(*sys.argv[1:])
