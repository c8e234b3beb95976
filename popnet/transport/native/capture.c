/*
 * A capture is a tap on one NIC: it copies what its filter accepts into a buffer that Python empties. There
 * are two halves: the pump fills one, Python parses the other, and capture_read() swaps them at the gate; so
 * neither waits while the other copies. What finds no room is counted as dropped. Frames do not know they
 * are captured, unless the capture *diverts*: then those that it accepts end in it, room or no room.
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

/* Offer one frame, vnet header first. True: it goes no further. */
static bool capture_offer(struct capture *c, enum direction direction, const uint8_t *frame, uint32_t size) {
    const uint8_t *packet = frame + VNET_HEADER_SIZE;
    uint32_t original = size - VNET_HEADER_SIZE, kept = c->snap_length;
    if (c->program) {
        uint32_t wanted = c->filter(c->program, packet, original, original);
        if (wanted == 0)
            return false;
        kept = kept < wanted ? kept : wanted;
    }
    kept = kept < original ? kept : original;
    bool diverted = c->diverts >> direction & 1;
    if (captured_size(kept) > c->half_size - c->filled) {
        add(&c->dropped, 1);
        return diverted;
    }
    uint8_t *at = c->filling + c->filled;
    struct captured header = {wall_clock_ns(), direction, original, kept, 0};
    memcpy(at, &header, sizeof header);
    memcpy(at + sizeof header, packet, kept);
    complete_checksum(frame, packet, original, at + sizeof header, kept);
    if (c->filled == 0)
        kick(c->notify);
    c->filled += captured_size(kept);
    return diverted;
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
    free(c);
}
