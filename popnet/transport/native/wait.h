/*
 * How to wait at a ring: three modes, and the window that the adaptive one learns.
 *
 *   poll        look again and again, yielding the core; the lowest latency, for a whole core
 *   adaptive    look for a window of time, then sleep at the doorbell
 *   interrupt   sleep at the doorbell at once
 *
 * Spinning pays if what we wait for comes sooner than a sleep and its wake-up would cost. So the window
 * follows what comes of spinning, between 0 and spin_max_ns (compare KVM's halt polling):
 *
 *   hit         it came while we spun     window = 4 x the mean gap (EWMA, 1/8), at least spin_max / 4
 *   missed      we spun for nothing       half the window; below an eighth of spin_max it is 0. The first
 *                                         miss after a hit is forgiven: somebody may have had the core
 *   slept       it came while we slept    with a window of 0 and a gap that a spin might have caught (8 x
 *                                         spin_max: wake-ups of both sides are in it): after `countdown` of
 *                                         these, try a full window again; `patience` doubles with each try
 *                                         that fails, and is 1 again after a hit
 *
 * spin_max_ns == 0: never spin. Who owns less than a core must not: it would spend its quota on looking.
 *
 * Pure but for clock_ns() and relax(): time is an argument. One thread owns a waiter; mode and spin_max_ns
 * may be switched by any other meanwhile. A new spin_max_ns is learnt afresh.
 */

#ifndef POPNET_WAIT_H
#define POPNET_WAIT_H

#include "layout.h"

#include <time.h>

enum wait_mode { WAIT_POLL, WAIT_ADAPTIVE, WAIT_INTERRUPT, WAIT_MODES };
static const char *const WAIT_MODE_NAME[WAIT_MODES] = {"poll", "adaptive", "interrupt"};

#define SPIN_MAX_US_DEFAULT 20
#define SPIN_FOREVER UINT64_MAX
#define PATIENCE_MAX 64u

/* What was learnt, and for which spin_max_ns. */
struct spin {
    uint64_t max_ns, window_ns, mean_ns;
    uint32_t patience, countdown;
    uint32_t forgiving; /* misses: 1 after a hit, else 0 */
};

struct waiter {
    _Atomic uint32_t mode;
    _Atomic uint64_t spin_max_ns;
    struct spin spin;
    uint64_t since_ns; /* 0, or when a spin that found nothing began; what comes next was slept for */
};

static inline void spin_reset(struct spin *s, uint64_t max_ns) {
    *s = (struct spin){max_ns, .window_ns = max_ns, .mean_ns = max_ns, .patience = 1, .countdown = 1};
}

static inline void spin_hit(struct spin *s, uint64_t gap_ns) {
    gap_ns = gap_ns < s->max_ns ? gap_ns : s->max_ns;
    s->mean_ns = s->mean_ns - s->mean_ns / 8 + gap_ns / 8;
    uint64_t window_ns = 4 * s->mean_ns, least_ns = s->max_ns / 4;
    window_ns = window_ns > least_ns ? window_ns : least_ns;
    s->window_ns = window_ns < s->max_ns ? window_ns : s->max_ns;
    s->patience = s->countdown = s->forgiving = 1;
}

static inline void spin_missed(struct spin *s) {
    if (s->forgiving) {
        s->forgiving = 0;
        return;
    }
    s->window_ns /= 2;
    if (s->window_ns >= s->max_ns / 8)
        return;
    s->window_ns = 0;
    s->countdown = s->patience;
    s->patience = s->patience < PATIENCE_MAX ? 2 * s->patience : PATIENCE_MAX;
}

static inline void spin_slept(struct spin *s, uint64_t gap_ns) {
    if (s->window_ns != 0 || s->max_ns == 0 || gap_ns > 8 * s->max_ns || --s->countdown != 0)
        return;
    s->window_ns = s->mean_ns = s->max_ns;
    s->countdown = 1;
}

static inline void waiter_set(struct waiter *w, enum wait_mode mode, uint64_t spin_max_ns) {
    atomic_store_explicit(&w->spin_max_ns, spin_max_ns, memory_order_relaxed);
    atomic_store_explicit(&w->mode, (uint32_t)mode, memory_order_relaxed);
}

static inline enum wait_mode waiter_mode(const struct waiter *w) {
    return (enum wait_mode)atomic_load_explicit((_Atomic uint32_t *)&w->mode, memory_order_relaxed);
}

/* How long to spin now. The owner's call, as all below. */
static inline uint64_t waiter_window_ns(struct waiter *w) {
    enum wait_mode mode = waiter_mode(w);
    if (mode != WAIT_ADAPTIVE)
        return mode == WAIT_POLL ? SPIN_FOREVER : 0;
    uint64_t max_ns = atomic_load_explicit(&w->spin_max_ns, memory_order_relaxed);
    if (w->spin.max_ns != max_ns)
        spin_reset(&w->spin, max_ns);
    return w->spin.window_ns;
}

/* It came at now_ns, waited for since began_ns. */
static inline void waiter_found(struct waiter *w, uint64_t began_ns, uint64_t now_ns) {
    if (w->since_ns)
        spin_slept(&w->spin, now_ns - w->since_ns);
    else
        spin_hit(&w->spin, now_ns - began_ns);
    w->since_ns = 0;
}

/* A spin that began at began_ns found nothing; the next thing is a sleep. */
static inline void waiter_missed(struct waiter *w, uint64_t began_ns) {
    if (w->spin.window_ns && waiter_mode(w) == WAIT_ADAPTIVE)
        spin_missed(&w->spin);
    if (!w->since_ns)
        w->since_ns = began_ns;
}

static inline uint64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Between two looks: lets the core's other hardware thread work. */
static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("yield");
#endif
}

#endif
