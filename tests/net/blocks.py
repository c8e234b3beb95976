"""What blocks of packets say, read by the client's own reader: the tests' way to look into them."""

from popnet.control.pcapng_reader import Reader
from popnet.net import pcapng


def frames_of(blocks: bytes, interface_id: int = 0) -> list[tuple[int, int, int, bytes]]:
    """(time in ns, direction, original length, bytes kept) of each; all are of interface *interface_id*."""
    reader = Reader()
    reader.feed(pcapng.section_header())
    for place in range(interface_id + 1):
        reader.feed(pcapng.interface(str(place), 65535))
    packets = reader.feed(blocks)
    assert {packet.interface for packet in packets} <= {str(interface_id)}
    return [(packet.time_ns, packet.direction, packet.original_length, packet.data) for packet in packets]
