"""An ARP responder on a kernel's NIC: a host that is not there answers "here I am".

    python tools/examples/arp_responder.py k1 10.1.2.77 02:00:00:00:00:77 [COUNT]

Answers whoever asks past this NIC, the kernel itself included: the answer goes back the way the question
came. Ends after COUNT questions, or with Ctrl-C. Then, in k1:  ip neigh show 10.1.2.77
"""

import sys

from scapy.ansmachine import AnsweringMachine
from scapy.layers.l2 import ARP, Ether

import popnet.scapy


class Responder(AnsweringMachine):
    """Says that *address* is at *mac*."""

    function_name = "responder"

    def parse_options(self, address="", mac=""):
        self.address, self.mac = address, mac

    def is_request(self, packet):
        return ARP in packet and packet[ARP].op == 1 and packet[ARP].pdst == self.address

    def make_reply(self, packet):
        question = packet[ARP]
        print(f"{question.psrc} asks for {self.address}", flush=True)
        return Ether(src=self.mac, dst=question.hwsrc) / ARP(
            op="is-at", hwsrc=self.mac, psrc=self.address, hwdst=question.hwsrc, pdst=question.psrc
        )


def main(kernel, address, mac, count="0"):
    asked = f"arp[6:2] = 1 and arp dst host {address}"
    print(f"{kernel}: {address} is at {mac}", flush=True)
    popnet.scapy.answer(kernel, Responder(address=address, mac=mac), filter=asked, count=int(count))


if __name__ == "__main__":
    main(*sys.argv[1:])
