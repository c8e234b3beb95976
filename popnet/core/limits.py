"""Every limit of a machine, with the reason for each. Nothing else in the project spells these numbers."""

from typing import Final

KERNELS_MAX: Final = 255
"""Kernels a machine, the primary included: a kid and its address must fit the last octet (kid + 1 <= 255 and
no broadcast)."""

TTYS_MAX: Final = 16
"""Terminals a kernel; each costs a history in the primary."""

MTU_MIN: Final = 576
"""Smallest MTU: what every IPv4 host must accept (RFC 791). Below 1280 a NIC has no IPv6 (RFC 8200)."""

MTU_MAX: Final = 9000
"""Largest MTU: jumbo frames as real NICs offer them."""

FRAME_SIZE_MAX: Final = 65_550
"""Largest frame in bytes, Ethernet header included: 64 KiB of segmentation offload and its header."""

VNET_HEADER_SIZE: Final = 12
"""struct virtio_net_hdr_mrg_rxbuf (linux/virtio_net.h), which goes before each frame read from or written to
a TAP."""

MESSAGE_SIZE_MAX: Final = 16 << 20
"""Largest message payload in bytes, after reassembly."""

RECORD_ALIGN: Final = 64
"""Records start on cache lines: header and payload of a small one are fetched together."""

RECORD_HEADER_SIZE: Final = 8
"""Length and tag of a record, before its payload."""

RING_HIGH_SIZE: Final = 64 << 10
"""Messages of high priority: few and small."""

RING_NORMAL_SIZE: Final = 256 << 10
"""Messages of normal priority, and terminal bytes."""

RING_FRAMES_SIZE: Final = 1 << 20
"""Frames: 1 MiB was measured to beat 256 KiB; 4 MiB added nothing."""

BUDGET: Final = 64
"""Records one poll may handle before others get their turn; NAPI's weight."""

POLL_US: Final = 50
"""Microseconds a frame pump polls, yielding its core, before it sleeps: a third of the latency at no loss of
throughput. With 20 one round trip in a hundred took two to three times as long."""

TX_QUEUE_LENGTH: Final = 4096
"""Frames that may wait in a TAP for its pump: a burst of small datagrams outruns the default of 1000 and is
dropped there."""

CAPTURE_SIZE: Final = 4 << 20
"""Bytes of captured frames that may wait for a slow reader; more are dropped from the capture, and
counted."""

HEARTBEAT_S: Final = 0.4
"""Seconds between two heartbeats of a kernel. Each wakes a daemon that may have nothing else to do: at 0.1 s
they were nine tenths of what an idle machine costs."""

HEARTBEAT_LOOK_S: Final = 0.2
"""Seconds between two looks of the primary at all heartbeats, which is one wake-up for all kernels."""

HEARTBEAT_LOOKS_MAX: Final = 4
"""Looks without a new heartbeat after which a kernel counts as hung: it is told 0.8 to 1.0 s after its last
one."""

STREAM_WINDOW: Final = 128 << 10
"""Bytes a stream may have in flight before the receiver grants more: half of the normal ring, so that two
streams share it."""

HISTORY_SIZE: Final = 1 << 20
"""Bytes of history kept for each terminal, from power-on."""

LOG_LINES_MAX: Final = 10_000
"""Lines kept of a kernel's log."""

EVENTS_MAX: Final = 10_000
"""Events kept by the primary."""

NAME_LENGTH_MAX: Final = 32
"""Letters of a machine's or a kernel's name: it is a host name label, and part of paths under 108 bytes."""

CPUS_MAX: Final = 8192
"""CPU numbers a list may name: the most that Linux on x86-64 can be built for, so that a mistyped range stays
small."""

MEMORY_MIN: Final = 32 << 20
"""Least memory a kernel may be given, in bytes: an init, a shell and the pages they dirty; also catches a
size without its unit."""

COMMAND_LINE_MAX: Final = 2048
"""Bytes of a kernel's boot parameters: COMMAND_LINE_SIZE of Linux on x86."""

STREAMS_MAX: Final = 256
"""Streams a peer may have open towards us on one link; with the window, it bounds what a peer can make us
store."""

STREAM_RECORD_MAX: Final = FRAME_SIZE_MAX + VNET_HEADER_SIZE
"""Bytes that one send on a stream delivers whole: the largest frame; 64 KiB stay one record too."""

CALLS_MAX: Final = 256
"""Calls of one peer that may be in work at once; above it they are refused."""

QUEUE_SIZE_MAX: Final = 2 * MESSAGE_SIZE_MAX
"""Bytes of messages that may wait for room in one ring of a link: one of the largest and another behind
it."""

SERVICES_MAX: Final = 256
"""Services that a kernel may have in the registry."""

WATCHES_MAX: Final = 64
"""Patterns that a kernel may watch."""

GROUPS_MAX: Final = 128
"""Memberships of groups that a kernel may have: half for its programs, one for each that may be connected."""

NOTICES_MAX: Final = 4096
"""Changes that the registry remembers for those that come back; who was away longer compares."""

GROUP_QUEUE_MAX: Final = 4 << 20
"""Bytes of a group's messages that may wait for one member; more wait with their sender."""

REPORT_TEXT_MAX: Final = 4096
"""Letters kept of a text that a kernel sent for its log or the events: it fills no memory but its own."""
