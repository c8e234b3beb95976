"""A TCP connection made by hand, from a kernel's NIC: SYN, SYN-ACK, ACK, some data, FIN.

    python tools/examples/tcp_handshake.py k1 10.1.2.3 22

The usual trouble: the kernel's own stack also gets the SYN-ACK, knows of no such connection, and ends it with
a RST. Firewall rules against that are clumsy. Here the answers are *diverted*: what comes for our port ends
in this socket, and the kernel never sees it, so it has nothing to refuse.
"""

import sys

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

import popnet.scapy

OUR_PORT, OUR_NUMBER = 40404, 1000


def main(kernel, address, port):
    ours = f"tcp and src host {address} and src port {port} and dst port {OUR_PORT}"
    who_has = Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(pdst=address)
    with popnet.scapy.KernelSocket(kernel, filter=ours, divert="in", receive="in") as nic:
        who_has[Ether].src = who_has[ARP].hwsrc = nic.mac
        who_has[ARP].psrc = nic.ipv4
        here = popnet.scapy.srp1(kernel, who_has, filter="arp", timeout=5)
        if here is None:
            sys.exit(f"{address} does not answer to ARP")
        head = Ether(src=nic.mac, dst=here[ARP].hwsrc) / IP(src=nic.ipv4, dst=address)

        def segment(flags, seq, ack=0):
            return head / TCP(sport=OUR_PORT, dport=int(port), flags=flags, seq=seq, ack=ack, window=8192)

        reply = nic.sr1(segment("S", OUR_NUMBER), timeout=5, verbose=False)
        if reply is None or reply[TCP].flags != "SA":
            sys.exit(f"port {port} did not answer with a SYN-ACK")
        print(f"SYN-ACK: number {reply[TCP].seq}, window {reply[TCP].window}")
        mine, theirs = OUR_NUMBER + 1, reply[TCP].seq + 1
        nic.send(segment("A", mine, theirs))  # established: the other end may talk now

        said = b""
        while not said.endswith(b"\n"):
            (heard,) = nic.sniff(count=1, timeout=5, lfilter=lambda packet: Raw in packet)
            if heard[TCP].seq != theirs:
                continue  # sent again before it had our ACK
            said, theirs = said + heard[Raw].load, theirs + len(heard[Raw].load)
            nic.send(segment("A", mine, theirs))
        print(f"it says: {said.decode(errors='replace').strip()}")

        last = nic.sr1(segment("FA", mine, theirs), timeout=5, verbose=False)
        print(f"FIN answered with {last[TCP].flags if last else 'nothing'}")
        nic.send(segment("R", mine + 1))  # no TIME_WAIT to sit out: forget it


if __name__ == "__main__":
    main(*sys.argv[1:])
