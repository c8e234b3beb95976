/*
 * A capture is a tap on one NIC: it copies what its filter accepts into a buffer that Python empties. There
 * are two halves: the pump fills one, Python parses the other, and capture_read() swaps them at the gate; so
 * neither waits while the other copies. What finds no room is counted as dropped. Frames do not know they
 * are captured, unless the capture *diverts*: then those that it accepts end in it, room or no room.
 *
 * Kept is what the wire would carry: a super-frame is cut, in memory of the capture's own, into segments with
 * lengths and checksums of their own, unless the capture wants it `whole`. The filter judges each segment by the
 * headers it will have; if it wants one, or the super-frame, they are cut, and it judges what came of that. A
 * super-frame that may be diverted is judged once, so that all of it ends in the capture.
 */

#include "native.h"

struct bpf_insn;
typedef unsigned (*bpf_filter_function)(const struct bpf_insn *, const uint8_t *, unsigned, unsigned);
#define BPF_INSN_SIZE 8

enum direction { TO_GUEST, FROM_GUEST };

struct captured {
    int64_t time_ns;
    uint32_t direction, original, kept;
    uint32_t padding;
};

struct capture {
    struct capture *next;
    int id;
    uint32_t snap_length;
    struct bpf_insn *program; /* NULL: everything */
    bpf_filter_function filter;
    unsigned diverts; /* bit `direction`: such frames go no further */
    bool whole;       /* keep super-frames as they are */
    uint8_t *cutting; /* room for a super-frame and a segment of it; the pump's */
    int notify; /* eventfd of the reader: rung when the half being filled stops being empty */
    size_t half_size;
    uint8_t *filling, *draining;
    size_t filled;                 /* bytes in `filling`; the pump's */
    size_t drained, filled_before; /* the reader's place in `draining`, and its end; the GIL's */
    _Atomic uint64_t dropped;
    bool busy; /* a reader is at work; the GIL's */
};

static size_t captured_size(uint32_t kept) { return (sizeof(struct captured) + kept + 7) & ~(size_t)7; }

/* struct virtio_net_hdr (linux/virtio_net.h), in the byte order of the host as a TAP has it. */
enum { VNET_FLAGS = 0, VNET_CHECKSUM_START = 6, VNET_CHECKSUM_OFFSET = 8 };

/* With checksum offload the field holds the sum of the pseudo header; we add the rest, in the copy. */
static void complete_checksum(const uint8_t *vnet_header, const uint8_t *packet, uint32_t size, uint8_t *copy,
                              uint32_t kept) {
    uint8_t header[VNET_HEADER_SIZE];
    snapshot(header, vnet_header, sizeof header);
    uint16_t start, offset;
    memcpy(&start, header + VNET_CHECKSUM_START, sizeof start);
    memcpy(&offset, header + VNET_CHECKSUM_OFFSET, sizeof offset);
    uint32_t field = (uint32_t)start + offset;
    if (!(header[VNET_FLAGS] & VNET_NEEDS_CHECKSUM) || start >= size || field + 2 > kept)
        return;
    uint16_t sum = (uint16_t)~ones_sum(packet + start, size - start);
    if (sum == 0)
        sum = 0xffff; /* UDP's zero means "none"; to TCP both zeros are the same */
    memcpy(copy + field, &sum, sizeof sum);
}

static int64_t wall_clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

#define CUTTING_SIZE (VNET_HEADER_SIZE + FRAME_SIZE_MAX) /* of each of the two */
#define DATA_JUDGED 128u /* bytes behind the headers that a filter sees before a segment is cut */

/* How many bytes to keep of a frame that is `length` long, and of which `there` are at hand; 0: it is not wanted. */
static uint32_t capture_wants(const struct capture *c, const uint8_t *packet, uint32_t length, uint32_t there) {
    uint32_t kept = c->snap_length < length ? c->snap_length : length;
    if (!c->program)
        return kept;
    uint32_t wanted = c->filter(c->program, packet, length, there);
    return kept < wanted ? kept : wanted;
}

static bool capture_has_room(const struct capture *c, uint32_t kept) {
    return captured_size(kept) <= c->half_size - c->filled;
}

/* Keep a frame, or count it. */
static void capture_keep(struct capture *c, enum direction direction, const uint8_t *frame, uint32_t size,
                         uint32_t kept) {
    if (!capture_has_room(c, kept)) {
        add(&c->dropped, 1);
        return;
    }
    const uint8_t *packet = frame + VNET_HEADER_SIZE;
    uint32_t original = size - VNET_HEADER_SIZE;
    uint8_t *at = c->filling + c->filled;
    struct captured header = {wall_clock_ns(), direction, original, kept, 0};
    memcpy(at, &header, sizeof header);
    memcpy(at + sizeof header, packet, kept);
    complete_checksum(frame, packet, original, at + sizeof header, kept);
    if (c->filled == 0)
        kick(c->notify);
    c->filled += captured_size(kept);
}

struct capturing {
    struct capture *c;
    enum direction direction;
    bool judged; /* the super-frame was, for all of its segments */
};

static void capture_segment(void *context, const uint8_t *record, uint32_t size) {
    struct capturing *to = context;
    uint32_t length = size - VNET_HEADER_SIZE, most = to->c->snap_length;
    uint32_t kept = to->judged ? (most < length ? most : length)
                               : capture_wants(to->c, record + VNET_HEADER_SIZE, length, length);
    if (kept)
        capture_keep(to->c, to->direction, record, size, kept);
}

/* How many segments of a super-frame the filter wants, as far as their headers tell, and a little of what is behind
 * them. `ours` has the headers. */
static uint32_t capture_count(const struct capturing *to, const uint8_t *ours, const uint8_t *frame,
                              const struct packet *whole, uint32_t size) {
    uint8_t head[512];
    uint32_t length = whole->end - whole->payload, wanted = 0, index = 0, offset = 0;
    bool all = to->judged || !to->c->program || whole->payload > sizeof head - DATA_JUDGED;
    do {
        uint32_t part = length - offset < size ? length - offset : size;
        uint32_t data = part < DATA_JUDGED ? part : DATA_JUDGED;
        struct packet p = *whole;
        p.end = p.payload + part;
        if (!all) {
            memcpy(head, ours + VNET_HEADER_SIZE, p.payload);
            memcpy(head + p.payload, frame + VNET_HEADER_SIZE + p.payload + offset, data);
            number_segment(head, &p, index, offset, offset + part == length);
        }
        wanted += all || capture_wants(to->c, head, p.end, p.payload + data);
        index++;
        offset += size;
    } while (offset < length);
    return wanted;
}

/* Keep the segments of a super-frame that are wanted. A capture that is full does not pay for the cutting. */
static void capture_cut(struct capturing *to, const uint8_t *frame, uint32_t size, const struct vnet *vnet,
                        uint32_t kept) {
    struct capture *c = to->c;
    struct packet p;
    uint8_t *ours = c->cutting; /* for the frame may lie in a peer's window */
    uint32_t length = size - VNET_HEADER_SIZE, first = VNET_HEADER_SIZE + HEADERS_MAX;
    first = first < size ? first : size;
    memcpy(ours, frame, first);
    memcpy(ours, vnet, sizeof *vnet);
    if (!packet_parse(&p, ours + VNET_HEADER_SIZE, length) || !is_super(&p, vnet)) {
        if (kept)
            capture_keep(c, to->direction, frame, size, kept); /* nobody can say what the wire would carry */
        return;
    }
    uint32_t segment = p.payload + vnet->gso_size, wanted = capture_count(to, ours, frame, &p, vnet->gso_size);
    if (!wanted && !kept)
        return;
    segment = segment < length ? segment : length;
    if (!capture_has_room(c, c->snap_length < segment ? c->snap_length : segment)) {
        add(&c->dropped, wanted ? wanted : 1);
        return;
    }
    memcpy(ours + first, frame + first, size - first);
    cut_segments(ours, size, ours + CUTTING_SIZE, capture_segment, to);
}

/* Offer one frame, vnet header first. True: it goes no further. */
static bool capture_offer(struct capture *c, enum direction direction, const uint8_t *frame, uint32_t size) {
    const uint8_t *packet = frame + VNET_HEADER_SIZE;
    uint32_t length = size - VNET_HEADER_SIZE, kept = capture_wants(c, packet, length, length);
    bool diverts = c->diverts >> direction & 1;
    struct vnet vnet = vnet_load(frame);
    bool cut = vnet.gso_type != GSO_NONE && !c->whole && vnet_sane(&vnet, size);
    if (cut && (kept || !diverts))
        capture_cut(&(struct capturing){c, direction, diverts}, frame, size, &vnet, kept);
    else if (kept)
        capture_keep(c, direction, frame, size, kept);
    return diverts && kept;
}

/* ---- as Enhanced Packet Blocks of pcapng (draft-ietf-opsawg-pcapng-03, section 4.3), in little endian */

enum { BLOCK_PACKET = 6, OPTION_FLAGS = 2, BLOCK_HEAD = 28, BLOCK_TAIL = 16 };

static size_t block_size(uint32_t kept) { return BLOCK_HEAD + ((kept + 3) & ~(size_t)3) + BLOCK_TAIL; }

/* One captured frame as a block; returns where the next one begins. */
static uint8_t *block_write(uint8_t *at, const struct captured *header, const uint8_t *data,
                            uint32_t interface_id) {
    uint32_t length = (uint32_t)block_size(header->kept), padding = -header->kept & 3;
    uint64_t time_ns = (uint64_t)header->time_ns;
    uint32_t head[] = {htole32(BLOCK_PACKET),
                       htole32(length),
                       htole32(interface_id),
                       htole32((uint32_t)(time_ns >> 32)),
                       htole32((uint32_t)time_ns),
                       htole32(header->kept),
                       htole32(header->original)};
    uint32_t tail[] = {htole32(4u << 16 | OPTION_FLAGS),                 /* epb_flags, 4 bytes: */
                       htole32(header->direction == TO_GUEST ? 1u : 2u), /* inbound or outbound */
                       0, htole32(length)};
    memcpy(at, head, sizeof head);
    memcpy(at + BLOCK_HEAD, data, header->kept);
    at += BLOCK_HEAD + header->kept;
    memset(at, 0, padding);
    memcpy(at + padding, tail, sizeof tail);
    return at + padding + sizeof tail;
}

static void capture_free(struct capture *c) {
    if (c->notify >= 0)
        close(c->notify);
    free(c->program);
    free(c->filling);
    free(c->draining);
    free(c->cutting);
    free(c);
}
