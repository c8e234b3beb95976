/* For the harnesses: a ring in shared memory, both ends of it, and guards around it that any stray byte hits. */

#ifndef LAB_H
#define LAB_H

#define _GNU_SOURCE
#ifdef WEAKEN_ACQUIRE /* a broken ring, for negative controls */
#include <stdatomic.h>
#define memory_order_acquire memory_order_relaxed
#endif
#ifdef WEAKEN_RELEASE
#include <stdatomic.h>
#define memory_order_release memory_order_relaxed
#endif
#include "ring.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#define GUARD 65536u

struct lab {
    uint8_t *words, *peer_words; /* header pages: of the producer, of the consumer */
    uint8_t *data;               /* mapped twice, a guard before and behind */
    uint8_t *view;               /* the same read-only, elsewhere */
    fault_cell fault;
    struct ring_counters counters;
    struct producer producer;
    struct consumer consumer;
};

static inline void die(const char *what) {
    perror(what);
    exit(3);
}

static inline uint8_t *map_twice(int fd, uint32_t size, int protection) {
    uint8_t *base = mmap(NULL, 2 * (size_t)size + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        die("mmap");
    for (size_t copy = 0; copy < 2; copy++)
        if (mmap(base + GUARD + copy * size, size, protection, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
            die("mmap");
    return base + GUARD;
}

/* Both ends as a new link has them, on words that count from `start`. */
static inline void lab_join(struct lab *lab, int ring, uint64_t start, int producer_bell, int consumer_bell) {
    uint8_t *own = lab->words, *peer = lab->peer_words;
    for (int i = 0; i <= SLOT_HEARTBEAT; i++) {
        store(slot(own, i), 0);
        store(slot(peer, i), 0);
    }
    store(slot(own, SLOT_PRODUCED + ring), start);
    store(slot(peer, SLOT_CONSUMED + ring), start);
    atomic_store(&lab->fault, 0);
    lab->producer = (struct producer){
        .data = lab->data,
        .size = RING_SIZE[ring],
        .produced = slot(own, SLOT_PRODUCED + ring),
        .armed_room = slot(own, SLOT_ARMED_ROOM + ring),
        .consumed = slot(peer, SLOT_CONSUMED + ring),
        .armed_data = slot(peer, SLOT_ARMED_DATA + ring),
        .staged = start,
        .published = start,
        .consumed_seen = start - RING_SIZE[ring],
        .bell = consumer_bell,
        .ring = ring,
        .fault = &lab->fault,
        .counters = &lab->counters,
    };
    lab->consumer = (struct consumer){
        .data = lab->view,
        .size = RING_SIZE[ring],
        .payload_max = PAYLOAD_MAX[ring],
        .produced = slot(own, SLOT_PRODUCED + ring),
        .armed_room = slot(own, SLOT_ARMED_ROOM + ring),
        .consumed = slot(peer, SLOT_CONSUMED + ring),
        .armed_data = slot(peer, SLOT_ARMED_DATA + ring),
        .taken = start,
        .released = start,
        .produced_seen = start,
        .bell = producer_bell,
        .ring = ring,
        .fault = &lab->fault,
        .counters = &lab->counters,
    };
}

static inline void lab_map(struct lab *lab, int ring) {
    int fd = memfd_create("ring", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, RING_SIZE[ring]) < 0)
        die("memfd");
    lab->data = map_twice(fd, RING_SIZE[ring], PROT_READ | PROT_WRITE);
    lab->view = map_twice(fd, RING_SIZE[ring], PROT_READ);
    lab->words = mmap(NULL, 2 * HEADER_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (lab->words == MAP_FAILED)
        die("mmap");
    lab->peer_words = lab->words + HEADER_SIZE;
    close(fd);
}

static inline int new_bell(void) {
    int bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (bell < 0)
        die("eventfd");
    return bell;
}

/* How often it was rung since the last time. */
static inline uint64_t rung(int bell) {
    uint64_t count = 0;
    return read(bell, &count, sizeof count) == sizeof count ? count : 0;
}

/* Bytes that tests know: of a record by its seed. */
static inline uint8_t byte_of(uint32_t seed, uint32_t i) { return (uint8_t)(seed + i * 7 + (i >> 8)); }

static inline void fill(uint8_t *to, uint32_t size, uint32_t seed) {
    for (uint32_t i = 0; i < size; i++)
        to[i] = byte_of(seed, i);
}

static inline bool filled(const uint8_t *from, uint32_t size, uint32_t seed) {
    for (uint32_t i = 0; i < size; i++)
        if (from[i] != byte_of(seed, i))
            return false;
    return true;
}

/* As link.c does, but for the publication. */
static inline bool put(struct producer *p, const uint8_t *bytes, uint32_t size, uint32_t tag) {
    uint8_t *payload = producer_reserve(p, size);
    if (!payload)
        return false;
    memcpy(payload, bytes, size);
    producer_stage(p, size, tag);
    return true;
}

#endif
