/*
 * Frames that wait for their time: a binary heap by due time, then by arrival, so frames that are due together
 * leave in the order they came. Bounded in frames and in bytes. Plain C; its owner is one thread at a time.
 */

#ifndef POPNET_DELAY_QUEUE_H
#define POPNET_DELAY_QUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define DELAYED_FRAMES_MAX 131072u
#define DELAYED_BYTES_MAX (64u << 20) /* half a second of 1 Gbit/s */

struct impair;

struct delayed {
    uint64_t due_ns, number; /* number: of its arrival */
    uint64_t came_ns;
    struct impair *impair; /* which delays it */
    uint64_t epoch;        /* the impairment's, when it came */
    uint32_t size;
    uint8_t frame[]; /* vnet header first */
};

struct delay_queue {
    struct delayed **heap;
    uint32_t count, room;
    uint64_t bytes, numbers;
};

static inline bool delayed_before(const struct delayed *a, const struct delayed *b) {
    return a->due_ns < b->due_ns || (a->due_ns == b->due_ns && a->number < b->number);
}

static inline bool delay_queue_grow(struct delay_queue *q) {
    uint32_t room = q->room ? 2 * q->room : 64;
    struct delayed **heap = realloc(q->heap, room * sizeof *heap);
    if (!heap)
        return false;
    q->heap = heap;
    q->room = room;
    return true;
}

/* A place for a frame of `size` bytes, to be filled and pushed; NULL: no room, or no memory. */
static inline struct delayed *delay_queue_make(struct delay_queue *q, uint32_t size) {
    if (q->count >= DELAYED_FRAMES_MAX || q->bytes + size > DELAYED_BYTES_MAX ||
        (q->count == q->room && !delay_queue_grow(q)))
        return NULL;
    struct delayed *d = malloc(sizeof *d + size);
    if (d)
        d->size = size;
    return d;
}

static inline void delay_queue_push(struct delay_queue *q, struct delayed *d) {
    d->number = q->numbers++;
    uint32_t at = q->count++;
    for (; at && delayed_before(d, q->heap[(at - 1) / 2]); at = (at - 1) / 2)
        q->heap[at] = q->heap[(at - 1) / 2];
    q->heap[at] = d;
    q->bytes += d->size;
}

static inline struct delayed *delay_queue_first(const struct delay_queue *q) {
    return q->count ? q->heap[0] : NULL;
}

/* Take the first out; it is the caller's then, who frees it. */
static inline struct delayed *delay_queue_pop(struct delay_queue *q) {
    struct delayed *first = q->heap[0], *last = q->heap[--q->count];
    q->bytes -= first->size;
    uint32_t at = 0, child;
    while ((child = 2 * at + 1) < q->count) {
        if (child + 1 < q->count && delayed_before(q->heap[child + 1], q->heap[child]))
            child++;
        if (!delayed_before(q->heap[child], last))
            break;
        q->heap[at] = q->heap[child];
        at = child;
    }
    if (q->count)
        q->heap[at] = last;
    return first;
}

static inline void delay_queue_free(struct delay_queue *q) {
    while (q->count)
        free(q->heap[--q->count]);
    free(q->heap);
    *q = (struct delay_queue){0};
}

#endif
