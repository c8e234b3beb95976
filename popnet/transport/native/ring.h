/*
 * The ring: a producer at one end, a consumer at the other, faults, and the doorbell between them.
 *
 * THEORY OF OPERATION
 * ===================
 *
 * Producer and consumer keep their own positions privately; the words of the window (layout.h) merely publish
 * them.
 *
 *   producer                                              consumer
 *   --------                                              --------
 *   room?  load-acquire consumed, check it                 data?  load-acquire produced, check it
 *   stage: write the record past `published`               take:  load length ONCE, check it, use the payload
 *   publish: store-release produced                        release: store-release consumed
 *   FENCE; load armed_data; kick if new                    FENCE; load armed_room; kick if new and half empty
 *   wait: arm for room, FENCE, look again, sleep           wait: arm for data, FENCE, look again, sleep
 *
 * The doorbell. Each side stores its own word, fences (seq_cst) and only then loads the other's. At least one
 * of the two therefore sees the other's store: the sleeper finds the record, or the publisher finds it armed.
 * Without either fence or without the second look a wake-up is lost (tests/model proves both). The peer
 * cannot clear our armed word, so each arming stores a new sequence number and the peer remembers the last
 * one it kicked for: one kick for one arming. A kick may be early or spurious; whoever wakes must look, and
 * arm again before sleeping again.
 *
 * Forbidden, and why
 *   - loading a word, length or tag of the peer's window twice: it may change in between. Load once, check,
 *     use the copy.
 *   - staging over bytes the consumer has not released: it may be reading them. (Room is computed from
 *     `consumed`.)
 *   - publishing without the fence before the look at armed_data; arming without the fence before the second
 *     look.
 *   - a consumer that releases without looking at armed_room: the producer may sleep forever.
 *   - trusting the peer's header: its layout is compiled in, the header is only compared at attach.
 *   - blocking on a peer: a doorbell is a non-blocking eventfd, and EAGAIN there means that it is rung
 *     already.
 *
 * What the peer did wrong is a violation: recorded once in the fault cell; whoever finds it set does nothing
 * with the rings any more.
 *
 * A window serves one link: sequence numbers of arming start anew with each, and must not repeat.
 *
 * Plain C11 without Python; one thread at a time for each producer and each consumer.
 */

#ifndef POPNET_RING_H
#define POPNET_RING_H

#include "layout.h"

#include <string.h>
#include <unistd.h>

/* Counters of one ring of a link, both directions. Each is written by one side only (add), but for the last
 * four, which both write (add_shared); read by anybody, hence atomic. */
#define RING_COUNTERS(X)                                                                                     \
    X(sent)                                                                                                  \
    X(sent_bytes)                                                                                            \
    X(received)                                                                                              \
    X(received_bytes)                                                                                        \
    X(full)             /* a record found no room */                                                         \
    X(kicks)            /* sent to the consumer: there is data */                                            \
    X(kicks_suppressed) /* publications without a kick: it was awake, or kicked already */                   \
    X(room_kicks)       /* sent to the producer: there is room */                                            \
    X(budget_exhausted) /* a batch ended by its budget, with more records there */                           \
    X(armed)            /* sleeps asked for by the consumer, not called off by the second look */            \
    X(armed_for_room)   /* by the producer */                                                                \
    X(kicks_spurious)   /* woken, and there was nothing */                                                   \
    X(spin_hits)        /* waits that ended while spinning */                                                \
    X(spin_misses)      /* spins that found nothing */                                                       \
    X(nudges)           /* waiters woken by another of the same link, or by a call */

struct ring_counters {
#define X(name) _Atomic uint64_t name;
    RING_COUNTERS(X)
#undef X
};

static inline void add(_Atomic uint64_t *counter, uint64_t amount) {
    uint64_t old = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, old + amount, memory_order_relaxed);
}

static inline void add_shared(_Atomic uint64_t *counter, uint64_t amount) {
    atomic_fetch_add_explicit(counter, amount, memory_order_relaxed);
}

/* What a peer can do wrong. */
enum fault {
    FAULT_NONE,
    FAULT_PRODUCED_UNALIGNED,
    FAULT_PRODUCED_TOO_FAR,
    FAULT_PRODUCED_BACKWARDS,
    FAULT_CONSUMED_UNALIGNED,
    FAULT_CONSUMED_BEYOND,
    FAULT_CONSUMED_BACKWARDS,
    FAULT_LENGTH,
    FAULT_FRAME_LENGTH,
};
static const char *const FAULT_TEXT[] = {
    [FAULT_NONE] = "",
    [FAULT_PRODUCED_UNALIGNED] = "produced is not a multiple of 64",
    [FAULT_PRODUCED_TOO_FAR] = "produced is more than a ring ahead of consumed",
    [FAULT_PRODUCED_BACKWARDS] = "produced went backwards",
    [FAULT_CONSUMED_UNALIGNED] = "consumed is not a multiple of 64",
    [FAULT_CONSUMED_BEYOND] = "consumed is beyond what was produced",
    [FAULT_CONSUMED_BACKWARDS] = "consumed went backwards",
    [FAULT_LENGTH] = "a record is longer than what was published or allowed",
    [FAULT_FRAME_LENGTH] = "a frame is shorter than its headers",
};

typedef _Atomic int fault_cell; /* 0, or ring << 8 | enum fault; the first fault stays */

static inline void set_fault(fault_cell *cell, int ring, enum fault fault) {
    int none = FAULT_NONE;
    atomic_compare_exchange_strong(cell, &none, ring << 8 | (int)fault);
}

/* Our end of a ring in our own window. staged >= published >= consumed_seen, all within one ring size. */
struct producer {
    uint8_t *data;
    uint64_t size;
    word *produced, *armed_room;       /* ours */
    const word *consumed, *armed_data; /* the peer's */
    uint64_t staged, published;        /* staged is private until published */
    uint64_t consumed_seen;            /* the last `consumed` that passed its checks */
    uint64_t arm_sequence, kicked_for; /* ours for room; the peer's for data that was last kicked for */
    int bell, ring;
    fault_cell *fault;
    struct ring_counters *counters;
};

/* Our end of a ring in the peer's window. produced_seen >= taken >= released, all within one ring size. */
struct consumer {
    const uint8_t *data;
    uint64_t size;
    uint32_t payload_max;
    const word *produced, *armed_room; /* the peer's */
    word *consumed, *armed_data;       /* ours */
    uint64_t taken, released;          /* taken is private until released */
    uint64_t produced_seen;            /* the last `produced` that passed its checks */
    uint64_t arm_sequence, kicked_for; /* ours for data; the peer's for room that was last kicked for */
    int bell, ring;
    fault_cell *fault;
    struct ring_counters *counters;
};

static inline uint64_t span_of(uint32_t payload_size) {
    return ((uint64_t)payload_size + RECORD_HEADER_SIZE + RECORD_ALIGN - 1) & ~(uint64_t)(RECORD_ALIGN - 1);
}

/* The peer's eventfd. EAGAIN: its count is at the brim, so it is rung anyway; any other error: the peer is
 * gone. */
static inline void kick(int bell) {
    uint64_t one = 1;
    ssize_t written = bell < 0 ? 0 : write(bell, &one, sizeof one);
    (void)written;
}

/* ---- producing */

/* Load the peer's `consumed`, once, and believe it only if it lies between what we knew and what we
 * published. */
static inline bool producer_look(struct producer *p) {
    uint64_t consumed = load(p->consumed);
    uint64_t unconsumed = p->published - consumed;
    if (consumed % RECORD_ALIGN)
        set_fault(p->fault, p->ring, FAULT_CONSUMED_UNALIGNED);
    else if (unconsumed > p->size)
        set_fault(p->fault, p->ring, FAULT_CONSUMED_BEYOND);
    else if (unconsumed > p->published - p->consumed_seen)
        set_fault(p->fault, p->ring, FAULT_CONSUMED_BACKWARDS);
    else {
        p->consumed_seen = consumed;
        return true;
    }
    return false;
}

static inline uint64_t producer_free(const struct producer *p) {
    return p->size - (p->staged - p->consumed_seen);
}

/* Where the payload of the next record goes, if `payload_size` bytes fit; else NULL (full, or a fault). */
static inline uint8_t *producer_reserve(struct producer *p, uint32_t payload_size) {
    uint64_t span = span_of(payload_size);
    if (producer_free(p) < span && (!producer_look(p) || producer_free(p) < span))
        return NULL;
    return p->data + (p->staged & (p->size - 1)) + RECORD_HEADER_SIZE;
}

/* The reserved payload is written: make it a record. Still private. */
static inline void producer_stage(struct producer *p, uint32_t payload_size, uint32_t tag) {
    uint32_t header[2] = {payload_size, tag};
    memcpy(p->data + (p->staged & (p->size - 1)), header, sizeof header);
    p->staged += span_of(payload_size);
    add(&p->counters->sent, 1);
    add(&p->counters->sent_bytes, payload_size);
}

/* Make all staged records visible, and wake the peer if it asked for that and has not been woken since. */
static inline void producer_publish(struct producer *p) {
    if (p->published == p->staged)
        return;
    p->published = p->staged;
    store(p->produced, p->published);
    fence();
    uint64_t armed = load(p->armed_data);
    if (armed == 0 || armed == p->kicked_for) {
        add(&p->counters->kicks_suppressed, 1);
        return;
    }
    p->kicked_for = armed;
    add(&p->counters->kicks, 1);
    kick(p->bell);
}

/* Ask to be woken for room. Must be followed by a fence and a look. */
static inline void producer_declare(struct producer *p) { store(p->armed_room, ++p->arm_sequence); }

static inline void producer_disarm(struct producer *p) { store(p->armed_room, 0); }

/* True: sleep now; false: there is room (or a fault), do not sleep. */
static inline bool producer_arm(struct producer *p, uint32_t payload_size) {
    producer_declare(p);
    fence();
    bool sane = producer_look(p);
    if (sane && producer_free(p) < span_of(payload_size)) {
        add(&p->counters->armed_for_room, 1);
        return true;
    }
    producer_disarm(p);
    return false;
}

/* ---- consuming */

/* Load the peer's `produced`, once, and believe it only if it lies between what we knew and one ring past
 * `released`. */
static inline bool consumer_look(struct consumer *c) {
    uint64_t produced = load(c->produced);
    uint64_t unreleased = produced - c->released;
    if (produced % RECORD_ALIGN)
        set_fault(c->fault, c->ring, FAULT_PRODUCED_UNALIGNED);
    else if (unreleased > c->size)
        set_fault(c->fault, c->ring, FAULT_PRODUCED_TOO_FAR);
    else if (unreleased < c->produced_seen - c->released)
        set_fault(c->fault, c->ring, FAULT_PRODUCED_BACKWARDS);
    else {
        c->produced_seen = produced;
        return true;
    }
    return false;
}

/* The payload of the next record and its length and tag; NULL if there is none, or a fault. */
static inline const uint8_t *consumer_peek(struct consumer *c, uint32_t *length, uint32_t *tag) {
    if (c->produced_seen == c->taken && (!consumer_look(c) || c->produced_seen == c->taken))
        return NULL;
    const uint8_t *record = c->data + (c->taken & (c->size - 1));
    half_word *header = (half_word *)record;
    *length = atomic_load_explicit(&header[0], memory_order_relaxed);
    *tag = atomic_load_explicit(&header[1], memory_order_relaxed);
    if (*length > c->payload_max || span_of(*length) > c->produced_seen - c->taken) {
        set_fault(c->fault, c->ring, FAULT_LENGTH);
        return NULL;
    }
    return record + RECORD_HEADER_SIZE;
}

/* Done with the record that was peeked. Its space is the producer's again only after the release. */
static inline void consumer_take(struct consumer *c, uint32_t length) {
    c->taken += span_of(length);
    add(&c->counters->received, 1);
    add(&c->counters->received_bytes, length);
}

/* Give the space of all taken records back, and wake the producer if it waits for room and has a good half of
 * the ring. */
static inline void consumer_release(struct consumer *c) {
    if (c->released == c->taken)
        return;
    c->released = c->taken;
    store(c->consumed, c->released);
    fence();
    uint64_t armed = load(c->armed_room);
    if (armed == 0 || armed == c->kicked_for)
        return;
    uint64_t used = load(c->produced) - c->released; /* nonsense here only makes a kick early or spares one */
    if (used > c->size - WAKE_FREE(c->size))
        return;
    c->kicked_for = armed;
    add(&c->counters->room_kicks, 1);
    kick(c->bell);
}

static inline void consumer_disarm(struct consumer *c) { store(c->armed_data, 0); }

/* Ask to be woken for data. Must be followed by a fence and a look. */
static inline void consumer_declare(struct consumer *c) { store(c->armed_data, ++c->arm_sequence); }

/* True: sleep now; false: there is data (or a fault), do not sleep. */
static inline bool consumer_arm(struct consumer *c) {
    consumer_declare(c);
    fence();
    if (consumer_look(c) && c->produced_seen == c->taken) {
        add(&c->counters->armed, 1);
        return true;
    }
    consumer_disarm(c);
    return false;
}

#endif
