/*
 * A link for programs in C: make a window, attach the peer's, send and receive records.
 *
 * The calls of one end, in the order in which they are made:
 *
 *   popnet_window_create   a sealed window of our own; hand its descriptor and our doorbell to the peer
 *   popnet_window_attach   the window whose descriptor the peer handed over, checked, mapped read-only
 *   popnet_join            both make the link
 *   popnet_send            one record; sleeps while the ring is full
 *   popnet_receive         the next record, in place; sleeps as long as there is none; _any: of either ring
 *   popnet_done            and its space is the sender's again
 *
 * What a record means is in popnet_messages.h; how rings work, and what the peer may do to us, in ring.h. One thread
 * uses a link. A doorbell is a non-blocking eventfd; the peer gets a duplicate. Only the rings for messages are joined:
 * frames are the pump's.
 *
 * Plain C11; include it before any system header, as ring.h wants. It finds the rings beside this directory: compile
 * with -I"$(popnet include-dir)".
 */

#ifndef POPNET_LINK_H
#define POPNET_LINK_H

#include "../native/ring.h"
#include "../native/wait.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define POPNET_SEALS (0x0001 | 0x0002 | 0x0004 | 0x0010) /* SEAL, SHRINK, GROW, FUTURE_WRITE of linux/fcntl.h */
#define POPNET_ADD_SEALS 1033
#define POPNET_GET_SEALS 1034

struct popnet_window {
    uint8_t *header;      /* start of the mapping */
    uint8_t *data[RINGS]; /* each ring twice, back to back */
    int fd;
};

struct popnet_link {
    struct producer out[RINGS];
    struct consumer in[RINGS];
    struct ring_counters counters[RINGS];
    fault_cell fault; /* not 0: the peer wrote nonsense, and nothing goes any more */
    int bell;         /* our own doorbell */
    struct waiter for_data, for_room; /* adaptive, until waiter_set() says otherwise; see wait.h */
};

/* One wait: spin for as long as the waiter has learnt, then sleep. */
struct popnet_wait {
    struct waiter *waiter;
    uint64_t began_ns;
    uint32_t looks;
    bool missed;
};

static inline bool popnet_window_map(struct popnet_window *window, int fd, bool writable) {
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    uint8_t *at = mmap(NULL, ADDRESS_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return false;
    window->fd = fd;
    window->header = at;
    bool mapped = mmap(at, HEADER_SIZE, protection, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED;
    at += HEADER_SIZE;
    for (int ring = 0; ring < RINGS && mapped; ring++) {
        window->data[ring] = at;
        for (int copy = 0; copy < 2 && mapped; copy++, at += RING_SIZE[ring])
            mapped = mmap(at, RING_SIZE[ring], protection, MAP_SHARED | MAP_FIXED, fd, RING_OFFSET[ring]) != MAP_FAILED;
    }
    if (!mapped)
        munmap(window->header, ADDRESS_SIZE);
    return mapped;
}

/* False with errno set. */
static inline bool popnet_window_create(struct popnet_window *window, uint32_t kid, uint32_t generation, uint32_t peer) {
    int fd = memfd_create("popnet-window", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return false;
    if (ftruncate(fd, WINDOW_SIZE) < 0 || !popnet_window_map(window, fd, true)) {
        close(fd);
        return false;
    }
    word *header = slot(window->header, 0);
    store(&header[HEADER_VERSION], VERSION);
    store(&header[HEADER_KID], kid);
    store(&header[HEADER_GENERATION], generation);
    store(&header[HEADER_PEER_KID], peer);
    for (int ring = 0; ring < RINGS; ring++)
        store(&header[HEADER_RING_SIZE + ring], RING_SIZE[ring]);
    store(&header[HEADER_MAGIC], MAGIC);
    if (fcntl(fd, POPNET_ADD_SEALS, POPNET_SEALS) == 0) /* after the mapping: ours stays the only writable one */
        return true;
    munmap(window->header, ADDRESS_SIZE);
    close(fd);
    return false;
}

/* False, with errno EPROTO, for what is no sealed window of this version: one that could shrink would kill us. */
static inline bool popnet_window_attach(struct popnet_window *window, int fd) {
    struct stat status;
    int seals = fcntl(fd, POPNET_GET_SEALS);
    errno = EPROTO;
    if (fstat(fd, &status) < 0 || status.st_size != (off_t)WINDOW_SIZE)
        return false;
    if (seals < 0 || (seals & POPNET_SEALS) != POPNET_SEALS || !popnet_window_map(window, fd, false))
        return false;
    word *header = slot(window->header, 0);
    if (load(&header[HEADER_MAGIC]) == MAGIC && load(&header[HEADER_VERSION]) == VERSION)
        return true;
    munmap(window->header, ADDRESS_SIZE);
    errno = EPROTO;
    return false;
}

/* A window serves one link. *bell* is our own doorbell, *peer_bell* the peer's. */
static inline void popnet_join(struct popnet_link *link, const struct popnet_window *own,
                               const struct popnet_window *peer, int bell, int peer_bell) {
    memset(link, 0, sizeof *link);
    link->bell = bell;
    waiter_set(&link->for_data, WAIT_ADAPTIVE, SPIN_MAX_US_DEFAULT * 1000);
    waiter_set(&link->for_room, WAIT_ADAPTIVE, SPIN_MAX_US_DEFAULT * 1000);
    for (int ring = 0; ring < FRAMES; ring++) {
        struct producer *out = &link->out[ring];
        struct consumer *in = &link->in[ring];
        *out = (struct producer){
            .data = own->data[ring],
            .size = RING_SIZE[ring],
            .produced = slot(own->header, SLOT_PRODUCED + ring),
            .armed_room = slot(own->header, SLOT_ARMED_ROOM + ring),
            .consumed = slot(peer->header, SLOT_CONSUMED + ring),
            .armed_data = slot(peer->header, SLOT_ARMED_DATA + ring),
            .bell = peer_bell,
            .ring = ring,
            .fault = &link->fault,
            .counters = &link->counters[ring],
        };
        *in = (struct consumer){
            .data = peer->data[ring],
            .size = RING_SIZE[ring],
            .payload_max = PAYLOAD_MAX[ring],
            .produced = slot(peer->header, SLOT_PRODUCED + ring),
            .armed_room = slot(peer->header, SLOT_ARMED_ROOM + ring),
            .consumed = slot(own->header, SLOT_CONSUMED + ring),
            .armed_data = slot(own->header, SLOT_ARMED_DATA + ring),
            .bell = peer_bell,
            .ring = ring,
            .fault = &link->fault,
            .counters = &link->counters[ring],
        };
        out->consumed_seen = 0 - out->size; /* as if full, so that the first use looks */
    }
}

/* After a look that found nothing. True: look again; false: the window is over, arm and sleep. The clock is read,
 * and the core given away, every 64th time only. */
static inline bool popnet_spin(struct popnet_wait *wait) {
    if (wait->missed)
        return waiter_mode(wait->waiter) == WAIT_POLL;
    if (wait->looks++ % 64 == 0) {
        uint64_t window_ns = waiter_window_ns(wait->waiter), now_ns = window_ns ? clock_ns() : 0;
        if (!wait->began_ns)
            wait->began_ns = now_ns;
        else
            sched_yield();
        if (window_ns != SPIN_FOREVER && now_ns - wait->began_ns >= window_ns) {
            wait->missed = true;
            waiter_missed(wait->waiter, wait->began_ns ? wait->began_ns : clock_ns());
            return false;
        }
    }
    relax();
    return true;
}

/* What was waited for is there. */
static inline void popnet_found(struct popnet_wait *wait) {
    if (wait->looks && waiter_mode(wait->waiter) == WAIT_ADAPTIVE)
        waiter_found(wait->waiter, wait->began_ns, clock_ns());
}

static inline void popnet_sleep(struct popnet_link *link) {
    struct pollfd bell = {.fd = link->bell, .events = POLLIN};
    uint64_t kicks;
    if (poll(&bell, 1, -1) > 0 && read(link->bell, &kicks, sizeof kicks) < 0)
        return; /* rung and drained in between: whoever wakes looks anyway */
}

static inline bool popnet_faulty(const struct popnet_link *link) {
    return atomic_load_explicit((fault_cell *)&link->fault, memory_order_relaxed) != FAULT_NONE;
}

/* Where the payload of the next record goes; false: it never fits, or the peer wrote nonsense. */
static inline uint8_t *popnet_reserve(struct popnet_link *link, int ring, uint32_t size) {
    struct producer *out = &link->out[ring];
    uint8_t *to;
    if (size > PAYLOAD_MAX[ring])
        return NULL;
    struct popnet_wait wait = {.waiter = &link->for_room};
    while (!(to = producer_reserve(out, size))) {
        if (popnet_faulty(link))
            return NULL;
        if (!popnet_spin(&wait) && producer_arm(out, size)) {
            popnet_sleep(link);
            producer_disarm(out);
        }
    }
    popnet_found(&wait);
    return to;
}

/* Send one record; false: it never fits, or the peer wrote nonsense. */
static inline bool popnet_send(struct popnet_link *link, int ring, uint32_t tag, const void *data, uint32_t size) {
    uint8_t *to = popnet_reserve(link, ring, size);
    if (!to)
        return false;
    memcpy(to, data, size);
    producer_stage(&link->out[ring], size, tag);
    producer_publish(&link->out[ring]);
    return true;
}

/* The next record, where it lies: the peer may change it while we look. NULL: the peer wrote nonsense. */
static inline const uint8_t *popnet_receive(struct popnet_link *link, int ring, uint32_t *size, uint32_t *tag) {
    struct consumer *in = &link->in[ring];
    const uint8_t *record;
    struct popnet_wait wait = {.waiter = &link->for_data};
    while (!(record = consumer_peek(in, size, tag))) {
        if (popnet_faulty(link))
            return NULL;
        if (!popnet_spin(&wait) && consumer_arm(in)) {
            popnet_sleep(link);
            consumer_disarm(in);
        }
    }
    popnet_found(&wait);
    return record;
}

/* The next record of either ring for messages, of the high one first; *ring* says whose it is. */
static inline const uint8_t *popnet_receive_any(struct popnet_link *link, int *ring, uint32_t *size, uint32_t *tag) {
    struct popnet_wait wait = {.waiter = &link->for_data};
    for (;;) {
        for (*ring = HIGH; *ring <= NORMAL; (*ring)++) {
            const uint8_t *record = consumer_peek(&link->in[*ring], size, tag);
            if (record) {
                popnet_found(&wait);
                return record;
            }
        }
        if (popnet_faulty(link))
            return NULL;
        if (popnet_spin(&wait))
            continue;
        if (consumer_arm(&link->in[HIGH]) && consumer_arm(&link->in[NORMAL]))
            popnet_sleep(link);
        consumer_disarm(&link->in[HIGH]);
        consumer_disarm(&link->in[NORMAL]);
    }
}

/* Done with what `popnet_receive` or `popnet_receive_any` gave. */
static inline void popnet_done(struct popnet_link *link, int ring, uint32_t size) {
    consumer_take(&link->in[ring], size);
    consumer_release(&link->in[ring]);
}

#endif
