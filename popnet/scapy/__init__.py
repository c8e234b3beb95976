"""scapy on the NICs and links of a machine, and popnet's messages as layers: in the user's own process.

    from scapy.all import ARP, ICMP, IP, Ether
    import popnet.scapy

    popnet.scapy.sniff("k1", filter="icmp", count=2).show()
    popnet.scapy.sendp("k1", Ether() / IP(dst="10.1.2.3") / ICMP())
    answered, unanswered = popnet.scapy.srp("k1", Ether() / ARP(pdst="10.1.2.3"), timeout=2)

Where a NIC is named, `k1-k2` names the link of two kernels. Importing this package also teaches scapy what
`popnet trace -w file.pcapng` writes. No process of a machine ever loads scapy, and nothing else in popnet
loads this package. scapy is GPL-2.0-only and not part of popnet (`pip install popnet[scapy]`): what is
distributed together with scapy has to follow scapy's licence.
"""

from popnet.scapy.frames import KernelSocket
from popnet.scapy.messages import PopnetBody, PopnetMessage, PopnetTrace
from popnet.scapy.verbs import AsyncSniffer, answer, bridge_and_sniff, sendp, sniff, srp, srp1

__all__ = [
    "AsyncSniffer",
    "KernelSocket",
    "PopnetBody",
    "PopnetMessage",
    "PopnetTrace",
    "answer",
    "bridge_and_sniff",
    "sendp",
    "sniff",
    "srp",
    "srp1",
]
