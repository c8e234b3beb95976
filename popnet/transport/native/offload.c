/*
 * What a NIC's hardware does to frames, in software: judge a vnet header, finish a checksum, cut a super-frame
 * into segments, cut an IPv4 packet into fragments, answer that a packet is too big.
 *
 * Frames go between kernels as their stacks made them: up to 64 KiB at once, checksums to do. That is right
 * while the next stack takes them so, and only then. Who gives them to somebody without offloads, damages
 * them, or has to know how long they will be, comes here first.
 *
 * Pure: frames in, frames out, nothing else touched. A frame starts with its vnet header; all of these but
 * vnet_load() want it in memory that no peer can write (copy it first), for they read it more than once.
 * Places in a frame count from its Ethernet header on. Fields of protocols are read and written byte by byte.
 */

#include "native.h"

/* ---- bytes */

/* Copy from memory that a peer may be writing: each byte is loaded once. For headers, not for payloads. */
static void snapshot(uint8_t *to, const volatile uint8_t *from, size_t size) {
    for (size_t i = 0; i < size; i++)
        to[i] = from[i];
}

/* The Internet checksum's sum (RFC 1071) in the byte order of memory: it is the same in any. */
static uint16_t ones_sum(const uint8_t *bytes, uint32_t size) {
    uint64_t sum = 0;
    uint32_t next = 0;
    for (; size >= sizeof next; bytes += sizeof next, size -= (uint32_t)sizeof next) {
        memcpy(&next, bytes, sizeof next);
        sum += next;
    }
    next = 0;
    memcpy(&next, bytes, size);
    sum += next;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

static uint32_t get16(const uint8_t *at) { return (uint32_t)at[0] << 8 | at[1]; }

static uint32_t get32(const uint8_t *at) { return get16(at) << 16 | get16(at + 2); }

static void put16(uint8_t *at, uint32_t value) {
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value) {
    put16(at, value >> 16);
    put16(at + 2, value & 0xffff);
}

/* ---- the vnet header: struct virtio_net_hdr_mrg_rxbuf (linux/virtio_net.h), in the host's byte order */

enum { GSO_NONE = 0, GSO_TCP4 = 1, GSO_TCP6 = 4, GSO_UDP = 5, GSO_ECN = 0x80 };
enum { VNET_NEEDS_CHECKSUM = 1, VNET_DATA_VALID = 2, VNET_KNOWN_FLAGS = 3 };

struct vnet {
    uint8_t flags, gso_type;
    uint16_t header_size, gso_size, checksum_start, checksum_offset, buffers;
};
_Static_assert(sizeof(struct vnet) == VNET_HEADER_SIZE, "a vnet header has no holes");

#define TCP_SEGMENT_MIN 40u    /* bytes of payload; Linux makes none below 48 */
#define UDP_SEGMENTS_MAX 1024u /* of one super-frame; Linux makes at most 128 */

/* Each byte is loaded once: the frame may lie in a peer's window. */
static struct vnet vnet_load(const uint8_t *frame) {
    struct vnet vnet;
    snapshot((uint8_t *)&vnet, frame, sizeof vnet);
    return vnet;
}

/* Could a stack have made this header for a frame of `size` bytes, vnet header included? A liar may want 65,000
 * segments out of one frame, a checksum beyond its end, or a kind of offload that nobody agreed to. */
static bool vnet_sane(const struct vnet *vnet, uint32_t size) {
    if (!(vnet->flags | vnet->gso_type))
        return true;
    uint32_t length = size - VNET_HEADER_SIZE;
    bool partial = vnet->flags & VNET_NEEDS_CHECKSUM;
    if (vnet->flags & ~VNET_KNOWN_FLAGS || vnet->header_size > length)
        return false;
    if (partial && (vnet->checksum_start < ETHERNET_HEADER_SIZE ||
                    (uint32_t)vnet->checksum_start + vnet->checksum_offset + 2 > length))
        return false;
    switch (vnet->gso_type & ~GSO_ECN) {
    case GSO_NONE:
        return true;
    case GSO_TCP4:
    case GSO_TCP6:
        return vnet->gso_size >= TCP_SEGMENT_MIN;
    case GSO_UDP:
        return vnet->gso_size > 0 && length / vnet->gso_size < UDP_SEGMENTS_MAX;
    default:
        return false;
    }
}

/* ---- where the headers are */

enum { IPV4 = 0x0800, IPV6 = 0x86dd, VLAN = 0x8100, PROVIDER_VLAN = 0x88a8 };
enum { ICMP = 1, TCP = 6, UDP = 17, ICMP6 = 58 };
enum { IPV6_MTU_MIN = 1280 };
enum { IPV4_SIZE = 20, IPV6_SIZE = 40, TCP_SIZE = 20, UDP_SIZE = 8, TAGS_MAX = 2, EXTENSIONS_MAX = 8 };
enum { IPV4_DONT_FRAGMENT = 0x4000, IPV4_MORE = 0x2000, IPV4_OFFSET = 0x1fff };

struct packet {
    uint32_t network;   /* the IP header */
    uint32_t transport; /* what it carries */
    uint32_t payload;   /* after a TCP or UDP header; else `transport` */
    uint32_t end;       /* of the packet: behind it an Ethernet frame may be padded */
    int version;        /* 4 or 6 */
    uint8_t protocol;
    bool fragment; /* not a whole packet: `transport` may be in the middle of anything */
};

/* packet_parse() reads no byte of a frame behind so many. */
#define HEADERS_MAX (ETHERNET_HEADER_SIZE + 4 * TAGS_MAX + IPV6_SIZE + EXTENSIONS_MAX * 256 * 8 + TCP_SIZE)

static bool parse_ipv4(struct packet *p, const uint8_t *frame, uint32_t size) {
    const uint8_t *ip = frame + p->network;
    if (size - p->network < IPV4_SIZE || ip[0] >> 4 != 4)
        return false;
    uint32_t header = (ip[0] & 15u) * 4, total = get16(ip + 2);
    if (header < IPV4_SIZE || total < header || total > size - p->network)
        return false;
    p->version = 4;
    p->protocol = ip[9];
    p->transport = p->network + header;
    p->end = p->network + total;
    p->fragment = get16(ip + 6) & (IPV4_MORE | IPV4_OFFSET);
    return true;
}

static bool parse_ipv6(struct packet *p, const uint8_t *frame, uint32_t size) {
    const uint8_t *ip = frame + p->network;
    if (size - p->network < IPV6_SIZE || ip[0] >> 4 != 6 || get16(ip + 4) > size - p->network - IPV6_SIZE)
        return false;
    p->version = 6;
    p->protocol = ip[6];
    p->transport = p->network + IPV6_SIZE;
    p->end = p->transport + get16(ip + 4);
    for (int i = 0; i < EXTENSIONS_MAX && p->end - p->transport >= 8; i++) {
        const uint8_t *extension = frame + p->transport;
        bool is_fragment = p->protocol == 44;
        if (!is_fragment && p->protocol != 0 && p->protocol != 43 && p->protocol != 60)
            return true;
        uint32_t length = is_fragment ? 8 : (extension[1] + 1u) * 8;
        if (length > p->end - p->transport)
            return false;
        p->fragment |= is_fragment;
        p->protocol = extension[0];
        p->transport += length;
    }
    return true;
}

/* False: no IP packet, or one that contradicts itself. */
static bool packet_parse(struct packet *p, const uint8_t *frame, uint32_t size) {
    *p = (struct packet){.network = ETHERNET_HEADER_SIZE};
    if (size < ETHERNET_HEADER_SIZE)
        return false;
    uint32_t type = get16(frame + 12);
    for (int i = 0; i < TAGS_MAX && (type == VLAN || type == PROVIDER_VLAN); i++) {
        if (size < p->network + 4)
            return false;
        type = get16(frame + p->network + 2);
        p->network += 4;
    }
    if (!(type == IPV4 ? parse_ipv4(p, frame, size) : type == IPV6 && parse_ipv6(p, frame, size)))
        return false;
    uint32_t room = p->end - p->transport, header = 0;
    if (p->protocol == TCP && room >= TCP_SIZE)
        header = (frame[p->transport + 12] >> 4) * 4u;
    else if (p->protocol == UDP && room >= UDP_SIZE)
        header = UDP_SIZE;
    p->payload = p->transport + (p->fragment || header > room ? 0 : header);
    return true;
}

/* How long the longest IP packet in the frame will be on the wire, after the offloads. */
static uint32_t packet_size(const struct packet *p, const struct vnet *vnet) {
    if (vnet->gso_type == GSO_NONE)
        return p->end - p->network;
    return p->payload - p->network + vnet->gso_size;
}

/* ---- checksums */

static uint32_t fold(uint64_t sum) {
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint32_t)sum;
}

/* Store the checksum whose sum is this, in memory's byte order; UDP's zero means "none". */
static void put_sum(uint8_t *at, uint64_t sum, bool udp) {
    uint16_t checksum = (uint16_t)~fold(sum);
    if (udp && checksum == 0)
        checksum = 0xffff;
    memcpy(at, &checksum, sizeof checksum);
}

static void sum_ipv4_header(uint8_t *ip) {
    put16(ip + 10, 0);
    put_sum(ip + 10, ones_sum(ip, (ip[0] & 15u) * 4), false);
}

/* The sum of a pseudo header, in memory's byte order as ones_sum has it. */
static uint64_t pseudo_sum(const uint8_t *ip, int version, uint8_t protocol, uint32_t size) {
    uint8_t rest[8];
    put32(rest, size);
    put32(rest + 4, protocol);
    uint32_t addresses = version == 4 ? ones_sum(ip + 12, 8) : ones_sum(ip + 8, 32);
    return (uint64_t)addresses + ones_sum(rest, sizeof rest);
}

/* The checksum of TCP, UDP or ICMPv6, from the frame's headers and `p` as they are now. */
static void sum_transport(uint8_t *frame, const struct packet *p) {
    uint8_t *segment = frame + p->transport, *field;
    uint32_t size = p->end - p->transport;
    field = segment + (p->protocol == TCP ? 16 : p->protocol == UDP ? 6 : 2);
    put16(field, 0);
    uint64_t sum = ones_sum(segment, size);
    if (p->protocol != ICMP)
        sum += pseudo_sum(frame + p->network, p->version, p->protocol, size);
    put_sum(field, sum, p->protocol == UDP);
}

/* Finish the checksum that a plain-sized frame's stack left to the NIC. The vnet header must be sane. */
static void finish_checksum(uint8_t *record, uint32_t size) {
    struct vnet vnet = vnet_load(record);
    if (vnet.flags & VNET_NEEDS_CHECKSUM) {
        uint8_t *start = record + VNET_HEADER_SIZE + vnet.checksum_start;
        uint32_t length = size - VNET_HEADER_SIZE - vnet.checksum_start;
        put_sum(start + vnet.checksum_offset, ones_sum(start, length), true); /* to TCP both zeros are the same */
    }
    memset(record, 0, VNET_HEADER_SIZE);
}

/* ---- cutting */

/* Takes each piece: a frame, vnet header first and zero. The piece's memory is reused for the next one. */
typedef void (*take_piece)(void *context, const uint8_t *record, uint32_t size);

enum { TCP_FIN = 0x01, TCP_PUSH = 0x08, TCP_CWR = 0x80 };

/* Put its own lengths, numbers and flags into the headers of piece number `index`; not TCP's and UDP's checksum. */
static void number_segment(uint8_t *frame, const struct packet *p, uint32_t index, uint32_t offset, bool last) {
    uint8_t *ip = frame + p->network, *transport = frame + p->transport;
    if (p->version == 4) {
        put16(ip + 2, p->end - p->network);
        put16(ip + 4, get16(ip + 4) + index);
        sum_ipv4_header(ip);
    } else
        put16(ip + 4, p->end - p->network - IPV6_SIZE);
    if (p->protocol == UDP)
        put16(transport + 4, p->end - p->transport);
    else {
        put32(transport + 4, get32(transport + 4) + offset);
        if (!last)
            transport[13] &= (uint8_t) ~(TCP_FIN | TCP_PUSH);
        if (index)
            transport[13] &= (uint8_t)~TCP_CWR;
    }
}

/* Does the super-frame carry what its vnet header says? */
static bool is_super(const struct packet *p, const struct vnet *vnet) {
    int kind = vnet->gso_type & ~GSO_ECN;
    return !p->fragment && p->payload > p->transport && p->protocol == (kind == GSO_UDP ? UDP : TCP) &&
           (kind == GSO_UDP || p->version == (kind == GSO_TCP4 ? 4 : 6));
}

/* Cut a super-frame into what the wire would carry; `piece` has room for any frame. False: it is none. */
static bool cut_segments(const uint8_t *record, uint32_t size, uint8_t *piece, take_piece take, void *context) {
    struct vnet vnet = vnet_load(record);
    const uint8_t *frame = record + VNET_HEADER_SIZE;
    struct packet whole;
    if (!packet_parse(&whole, frame, size - VNET_HEADER_SIZE) || !is_super(&whole, &vnet))
        return false;
    uint32_t length = whole.end - whole.payload;
    for (uint32_t index = 0, offset = 0; index == 0 || offset < length; index++, offset += vnet.gso_size) {
        uint32_t part = length - offset < vnet.gso_size ? length - offset : vnet.gso_size;
        struct packet p = whole;
        p.end = p.payload + part;
        memset(piece, 0, VNET_HEADER_SIZE);
        memcpy(piece + VNET_HEADER_SIZE, frame, p.payload);
        memcpy(piece + VNET_HEADER_SIZE + p.payload, frame + p.payload + offset, part);
        number_segment(piece + VNET_HEADER_SIZE, &p, index, offset, offset + part == length);
        sum_transport(piece + VNET_HEADER_SIZE, &p);
        take(context, piece, VNET_HEADER_SIZE + p.end);
    }
    return true;
}

/* Hand on a frame as it is on the wire: cut, and with its checksum. `record` is ours and is changed. False: its
 * vnet header lies. */
static bool make_plain(uint8_t *record, uint32_t size, uint8_t *piece, take_piece take, void *context) {
    struct vnet vnet = vnet_load(record);
    if (!vnet_sane(&vnet, size))
        return false;
    if (vnet.gso_type != GSO_NONE)
        return cut_segments(record, size, piece, take, context);
    finish_checksum(record, size);
    take(context, record, size);
    return true;
}

/* RFC 791: options without the copied flag go with the first fragment only; a hole is filled with no-operations. */
static void blank_options(uint8_t *ip) {
    uint32_t end = (ip[0] & 15u) * 4;
    for (uint32_t at = IPV4_SIZE, length; at < end && ip[at] != 0; at += length) {
        length = ip[at] == 1 ? 1 : at + 1 < end ? ip[at + 1] : 0;
        if (length == 0 || length > end - at)
            return;
        if (!(ip[at] & 0x80))
            memset(ip + at, 1, length);
    }
}

/* Cut a plain IPv4 packet, itself a fragment perhaps, to `mtu` bytes. */
static void cut_fragments(const uint8_t *record, const struct packet *whole, uint32_t mtu, uint8_t *piece,
                          take_piece take, void *context) {
    const uint8_t *frame = record + VNET_HEADER_SIZE;
    uint32_t header = whole->transport - whole->network, length = whole->end - whole->transport;
    uint32_t most = (mtu - header) & ~7u, field = get16(frame + whole->network + 6);
    uint8_t *copy = piece + VNET_HEADER_SIZE, *ip = copy + whole->network;
    memset(piece, 0, VNET_HEADER_SIZE);
    memcpy(copy, frame, whole->transport);
    for (uint32_t offset = 0; offset < length; offset += most) {
        bool last = length - offset <= most;
        uint32_t part = last ? length - offset : most;
        memcpy(copy + whole->transport, frame + whole->transport + offset, part);
        put16(ip + 2, header + part);
        put16(ip + 6, (field + offset / 8) | (last ? 0 : IPV4_MORE));
        sum_ipv4_header(ip);
        take(context, piece, VNET_HEADER_SIZE + whole->transport + part);
        if (offset == 0)
            blank_options(ip);
    }
}

/* ---- "too big" (RFC 792 and 1191, RFC 4443) */

enum { QUOTE_MAX = 512, UNREACHABLE = 3, FRAGMENTATION_NEEDED = 4, PACKET_TOO_BIG = 2 };
#define ANSWER_MAX (VNET_HEADER_SIZE + ETHERNET_HEADER_SIZE + 4 * TAGS_MAX + IPV6_SIZE + 8 + QUOTE_MAX)

/* Who may be told: a single sender, of what is no error itself, and of the piece that has the ports. */
static bool may_answer(const uint8_t *frame, const struct packet *p) {
    const uint8_t *ip = frame + p->network;
    uint8_t type = p->end > p->transport ? frame[p->transport] : 0;
    if ((frame[0] | frame[6]) & 1)
        return false;
    if (p->version == 6)
        return ip[24] != 0xff && ip[8] != 0xff && (ip[8] | ip[23]) && !(p->protocol == ICMP6 && type < 128);
    bool error = p->protocol == ICMP && (type == 3 || type == 4 || type == 5 || type == 11 || type == 12);
    return !(get16(ip + 6) & IPV4_OFFSET) && ip[12] && ip[12] < 224 && ip[16] < 224 && !error;
}

/* The answer that the packet does not fit `mtu`, in the name of its destination; its size, or 0: say nothing. */
static uint32_t answer_too_big(const uint8_t *record, const struct packet *p, uint32_t mtu, uint8_t *answer) {
    const uint8_t *frame = record + VNET_HEADER_SIZE, *ip = frame + p->network;
    if (!may_answer(frame, p))
        return 0;
    uint8_t *copy = answer + VNET_HEADER_SIZE, *header = copy + p->network;
    uint32_t quote = p->end - p->network;
    quote = quote < QUOTE_MAX ? quote : QUOTE_MAX;
    memset(answer, 0, ANSWER_MAX);
    memcpy(copy, frame + 6, 6);
    memcpy(copy + 6, frame, 6);
    memcpy(copy + 12, frame + 12, p->network - 12);
    struct packet q = {.network = p->network, .version = p->version};
    q.transport = q.network + (p->version == 4 ? IPV4_SIZE : IPV6_SIZE);
    q.end = q.transport + 8 + quote;
    q.protocol = p->version == 4 ? ICMP : ICMP6;
    uint8_t *icmp = copy + q.transport;
    if (p->version == 4) {
        header[0] = 0x45;
        put16(header + 2, q.end - q.network);
        header[8] = 64;
        header[9] = ICMP;
        memcpy(header + 12, ip + 16, 4);
        memcpy(header + 16, ip + 12, 4);
        sum_ipv4_header(header);
        icmp[0] = UNREACHABLE;
        icmp[1] = FRAGMENTATION_NEEDED;
    } else {
        header[0] = 0x60;
        put16(header + 4, q.end - q.transport);
        header[6] = ICMP6;
        header[7] = 64;
        memcpy(header + 8, ip + 24, 16);
        memcpy(header + 24, ip + 8, 16);
        icmp[0] = PACKET_TOO_BIG;
    }
    put32(icmp + 4, mtu);
    memcpy(icmp + 8, ip, quote);
    sum_transport(copy, &q);
    return VNET_HEADER_SIZE + q.end;
}
