/*
 * Messages on a link: kinds, flags, the header of a record, limits. docs/messages.md says what they mean.
 *
 * Written by tools/messages_header from popnet's own tables. Do not edit it: change them, and write it anew.
 *
 *   tag      u32   kind (low 16 bits) | flags (high 16 bits; of POPNET_DATA: the channel)
 *   payload  u32   id: of a stream or a call, else 0
 *            u32   the generation of the receiver that the sender believes in
 *            ...   body
 *
 * All numbers are little endian, as are the machines that popnet runs on.
 */

#ifndef POPNET_MESSAGES_H
#define POPNET_MESSAGES_H

#include <stdint.h>

/* Rings of a link that carry messages; high is drained first. */
enum popnet_ring {
    POPNET_RING_HIGH = 0,
    POPNET_RING_NORMAL = 1,
};

enum popnet_kind {
    /* Open a stream: {"service": name, "params": {...}}; answered by ACCEPT or REFUSE. Only its opener may
     * send it. */
    POPNET_OPEN = 1,
    /* The stream is open; no body. From now on both ends may send STREAM_WINDOW bytes. */
    POPNET_ACCEPT = 2,
    /* There will be no stream: {"code", "message", "hint", "result"}, as in the control API. */
    POPNET_REFUSE = 3,
    /* Bytes of a stream; the flags are the channel (0-255). Costs its length in credit, but at least one
     * cache line. */
    POPNET_DATA = 4,
    /* The reader took this much: u32 bytes more may be sent. Rides the high ring: it must pass the bytes
     * it lets flow. */
    POPNET_CREDIT = 5,
    /* The sender sends no more: {"result": {...} or null} or {"error": {...}}. It comes behind the data
     * sent before. */
    POPNET_CLOSE = 6,
    /* The sender neither sends nor reads any more; no body. Behind a CLOSE it only says that nobody reads. */
    POPNET_ABORT = 7,
    /* You sent a kind that nobody here handles: u32 kind; of SEND also u32 port. Never answered. */
    POPNET_UNKNOWN = 16,
    /* You sent to another generation of this kernel: u32 the generation that runs. Never answered. */
    POPNET_STALE = 17,
    /* The caller of the call that the id names has given up; no body. Comes behind it, on its ring. Never
     * answered. */
    POPNET_CANCEL = 18,
    /* A kernel to the primary: it is there, and what it is. */
    POPNET_CHECK_IN = 32,
    /* The primary to a kernel: do this. */
    POPNET_CONTROL = 33,
    /* To whom it may concern: a kernel or a service came up or went down. */
    POPNET_NOTIFY = 34,
    /* A kernel to the primary: one entry of the machine's event stream. */
    POPNET_EVENT = 35,
    /* A kernel to the primary: one line of its log. */
    POPNET_LOG = 36,
    /* A call of the primary to a kernel: tell your counters; no body. */
    POPNET_COUNTERS = 37,
    /* A message to a service. Its port is the id; the body is the service's own. */
    POPNET_SEND = 38,
    /* A call of a service: u32 port, then the body, which is the service's own, as is that of the answer. */
    POPNET_CALL = 39,
    /* A call: which port has the service of this name (UTF-8)? Answered with u32 port, u32 version. */
    POPNET_RESOLVE = 40,
    /* A kernel to the primary: its wishes, all of them; see Registry. As a call: which kid has {"kernel":
     * name}? */
    POPNET_REGISTRY = 41,
    /* The primary to a kernel that watches or is in a group: what changed; see Registry. */
    POPNET_NOTICE = 42,
    /* A message of a group. The id is the receiver's membership; the body u32 number, u32 the sender's
     * membership, then the member's own; see Groups. */
    POPNET_GROUP = 43,
};

/* The first kind that is not the message layer's own. */
#define POPNET_KERNEL_FIRST 32u

/* The first kind that popnet itself will never use. */
#define POPNET_USER_FIRST 32768u

#define POPNET_KIND_MAX 65535u

/* Channels of a stream are numbered 0 to this. */
#define POPNET_CHANNEL_MAX 255u

/* Flags of every kind but POPNET_DATA. */
enum popnet_flag {
    /* The body goes on in the next record of this kind on this ring. */
    POPNET_FLAG_MORE = 1,
    /* An answer is awaited; the id of the header names the call. */
    POPNET_FLAG_REQUEST = 2,
    /* The answer to the call that the id names. */
    POPNET_FLAG_ANSWER = 4,
    /* With ANSWER: the body is {"code", "message", "hint", "result"}. */
    POPNET_FLAG_ERROR = 8,
};

/* Bytes of a body that ride one record: a quarter of the ring, so that others find room between two of
 * them. */
#define POPNET_FRAGMENT_HIGH_MAX 16384u

#define POPNET_FRAGMENT_NORMAL_MAX 65536u

/* Bytes of a JSON body: it rides one record. */
#define POPNET_JSON_SIZE_MAX 65536u

/* Kernels a machine, the primary included: a kid and its address must fit the last octet (kid + 1 <= 255
 * and no broadcast). */
#define POPNET_KERNELS_MAX 255u

/* Largest message payload in bytes, after reassembly. */
#define POPNET_MESSAGE_SIZE_MAX 16777216u

/* Records start on cache lines: header and payload of a small one are fetched together. */
#define POPNET_RECORD_ALIGN 64u

/* Length and tag of a record, before its payload. */
#define POPNET_RECORD_HEADER_SIZE 8u

/* Messages of high priority: few and small. */
#define POPNET_RING_HIGH_SIZE 65536u

/* Messages of normal priority, and terminal bytes. */
#define POPNET_RING_NORMAL_SIZE 262144u

/* Frames: 1 MiB was measured to beat 256 KiB; 4 MiB added nothing. */
#define POPNET_RING_FRAMES_SIZE 1048576u

/* Bytes a stream may have in flight before the receiver grants more: half of the normal ring, so that two
 * streams share it. */
#define POPNET_STREAM_WINDOW 131072u

/* Bytes that one send on a stream delivers whole: the largest frame; 64 KiB stay one record too. */
#define POPNET_STREAM_RECORD_MAX 65562u

/* Streams a peer may have open towards us on one link; with the window, it bounds what a peer can make us
 * store. */
#define POPNET_STREAMS_MAX 256u

/* Calls of one peer that may be in work at once; above it they are refused. */
#define POPNET_CALLS_MAX 256u

/* Bytes of messages that may wait for room in one ring of a link: one of the largest and another behind
 * it. */
#define POPNET_QUEUE_SIZE_MAX 33554432u

/* What the payload of every record begins with. */
struct popnet_header {
    uint32_t id;
    uint32_t generation;
};

static inline uint32_t popnet_tag(uint32_t kind, uint32_t flags) { return kind | flags << 16; }
static inline uint32_t popnet_kind(uint32_t tag) { return tag & 0xffff; }
static inline uint32_t popnet_flags(uint32_t tag) { return tag >> 16; }

#endif
