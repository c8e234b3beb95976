/*
 * The layout of a window: what lies where in the memfd that a kernel shares with one peer.
 *
 * A window is a sealed memfd that its owner alone has mapped writable; the peer maps it read-only. So nobody
 * can write what another kernel owns: a crashed or mad peer can only let us read nonsense. A window carries
 * three rings (high, normal, frames) that its owner produces, and all the words its owner writes:
 *
 *   word (64 bit, own 128-byte slot)    written by                        read by
 *   produced[ring]                      owner, producing this ring        peer, to find records
 *   consumed[ring]                      owner, consuming the PEER's ring  peer, to find room
 *   armed_data[ring]                    owner, before sleeping for data   peer, after it published
 *   armed_room[ring]                    owner, before sleeping for room   peer, after it consumed
 *   heartbeat                           owner, at its pace                anybody
 *   mtu                                 owner, when it changes            peer, for larger frames; 0: unknown
 *
 * produced and consumed count bytes and only grow (modulo 2^64); the ring is full when produced - consumed ==
 * its size. A record is u32 length, u32 tag, payload, padded to a cache line. Data areas are mapped twice
 * back to back, so a record is contiguous wherever it starts.
 *
 * Plain C11 without Python, for any program that shares a window. The kernel's own numbers (F_GET_SEALS,
 * sched_yield, ...) need _GNU_SOURCE, so include this file, ring.h or wait.h before any system header.
 */

#ifndef POPNET_LAYOUT_H
#define POPNET_LAYOUT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "popnet's windows need lock-free 64-bit loads from read-only memory: x86_64 or aarch64"
#endif

enum { HIGH, NORMAL, FRAMES, RINGS };

static const char *const RING_NAME[RINGS] = {"high", "normal", "frames"};

#define RECORD_ALIGN 64u
#define RECORD_HEADER_SIZE 8u
#define VNET_HEADER_SIZE 12u
#define ETHERNET_HEADER_SIZE 14u
#define FRAME_SIZE_MAX 65550u

#define HEADER_SIZE 65536u /* a page of any size Linux has, so that data areas can be mapped one by one */
#define RING_HIGH_SIZE (64u << 10)
#define RING_NORMAL_SIZE (256u << 10)
#define RING_FRAMES_SIZE (1u << 20)
#define WINDOW_SIZE (HEADER_SIZE + RING_HIGH_SIZE + RING_NORMAL_SIZE + RING_FRAMES_SIZE)
#define ADDRESS_SIZE (WINDOW_SIZE * 2 - HEADER_SIZE) /* each ring twice */

static const uint32_t RING_SIZE[RINGS] = {RING_HIGH_SIZE, RING_NORMAL_SIZE, RING_FRAMES_SIZE};
static const uint32_t RING_OFFSET[RINGS] = {HEADER_SIZE, HEADER_SIZE + RING_HIGH_SIZE,
                                            HEADER_SIZE + RING_HIGH_SIZE + RING_NORMAL_SIZE};
/* A producer is woken when half the ring and one line are free, so half a ring is the largest payload that is
 * sure to go. */
static const uint32_t PAYLOAD_MAX[RINGS] = {RING_HIGH_SIZE / 2, RING_NORMAL_SIZE / 2,
                                            VNET_HEADER_SIZE + FRAME_SIZE_MAX};
#define WAKE_FREE(size) ((size) / 2 + RECORD_ALIGN)

#define MAGIC 0x774f444e49574e50ull /* "PNWINDOw" */
#define VERSION 1u

typedef volatile _Atomic uint64_t word;
typedef volatile _Atomic uint32_t half_word;

#define SLOT_SIZE 128 /* two lines: the adjacent-line prefetcher must not make neighbours share */

/* Slot 0 of the header page: who made it. Written once, before the window is shown to anybody. */
enum { HEADER_MAGIC, HEADER_VERSION, HEADER_KID, HEADER_GENERATION, HEADER_PEER_KID, HEADER_RING_SIZE };
/* The other slots: one word each. */
enum { SLOT_PRODUCED = 1, SLOT_CONSUMED = 4, SLOT_ARMED_DATA = 7, SLOT_ARMED_ROOM = 10, SLOT_HEARTBEAT = 13, SLOT_MTU };

static inline uint64_t load(const word *from) {
    return atomic_load_explicit((word *)from, memory_order_acquire);
}
static inline void store(word *to, uint64_t value) { atomic_store_explicit(to, value, memory_order_release); }
static inline void fence(void) { atomic_thread_fence(memory_order_seq_cst); }

static inline word *slot(uint8_t *header, int index) { return (word *)(header + index * SLOT_SIZE); }

#endif
