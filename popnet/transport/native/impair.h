/*
 * The fate of a frame on an impaired wire: lost, late, twice, damaged, before its turn; and when it is due.
 * The words, and what they do, are those of Linux' netem (tc-netem(8)).
 *
 * Pure: what decides is the configuration, the number of the frame, the time, and its size. Chance is drawn
 * from SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014), whose n-th number
 * can be had without those before it. Frame n has the numbers n * DRAWS to n * DRAWS + DRAWS - 1, one for each
 * question, so no answer depends on another question: with jitter switched on the same frames are lost. Same
 * seed, same frames, same fates; tests/transport/impair_model.py says it again in Python.
 *
 *   loss        two states, good and bad, each with a probability of loss (Gilbert, Elliott); random loss is a
 *               state that is never left. A frame is judged in the state that the one before it left.
 *   duplicate   the frame is there twice; both pass the rate
 *   corrupt     one bit behind the Ethernet header is turned
 *   rate        frames leave one after the other, each for as long as its bits take; one that would wait for more
 *               than limit_ns is dropped
 *   delay       a constant, and jitter times a number from a table of the distribution; from the end of the rate
 *   reorder     the frame does not wait for its delay, and overtakes those that do
 *
 * With jitter, frames overtake each other too, unless keep_order makes each wait for the one before it.
 */

#ifndef POPNET_IMPAIR_H
#define POPNET_IMPAIR_H

#include <stdbool.h>
#include <stdint.h>

#define IMPAIR_SCALE 8192        /* what 1 is in a table of a distribution, as in tc's */
#define IMPAIR_HEADER_SIZE 14u   /* is never damaged: a wire's own checksum guards it */
#define IMPAIR_TABLE_MAX 16384u

/* As Python packs it: words of 8 bytes. Probabilities are numbers of 2^-53. */
struct impair_config {
    uint64_t seed;
    uint64_t delay_ns, jitter_ns, keep_order;
    uint64_t loss_good, loss_bad, to_bad, to_good;
    uint64_t duplicate, corrupt, reorder;
    uint64_t rate_bps, limit_ns; /* rate_bps 0: no rate */
};

struct impair_state {
    uint64_t frames; /* how many had their fate decided */
    bool bad;
    uint64_t free_at_ns, carry; /* when the rate has sent all; and what is left of a nanosecond, times rate_bps */
    uint64_t last_due_ns;
};

enum impair_draw { DRAW_STATE, DRAW_LOSS, DRAW_DUPLICATE, DRAW_CORRUPT, DRAW_BIT, DRAW_REORDER, DRAW_JITTER, DRAWS = 8 };

struct impair_fate {
    bool lost;         /* by chance */
    bool reordered;    /* overtakes what waits */
    bool corrupted;    /* `bit`, counted from the frame's first, is turned */
    uint32_t copies;   /* that leave: 0 to 2 */
    uint32_t dropped;  /* copies for which the rate's queue had no room */
    uint32_t bit;
    uint64_t due_ns[2];
};

static inline uint64_t impair_draw(uint64_t seed, uint64_t frame, enum impair_draw question) {
    uint64_t z = seed + (frame * DRAWS + question + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline bool impair_lost(struct impair_state *s, const struct impair_config *c, uint64_t frame) {
    bool lost = impair_draw(c->seed, frame, DRAW_LOSS) >> 11 < (s->bad ? c->loss_bad : c->loss_good);
    if (impair_draw(c->seed, frame, DRAW_STATE) >> 11 < (s->bad ? c->to_good : c->to_bad))
        s->bad = !s->bad;
    return lost;
}

/* When a frame of `size` bytes that comes now has left through the rate; false: its queue is too long. */
static inline bool impair_pass_rate(struct impair_state *s, const struct impair_config *c, uint64_t now_ns,
                                    uint32_t size, uint64_t *left_ns) {
    *left_ns = now_ns;
    if (c->rate_bps == 0)
        return true;
    if (s->free_at_ns <= now_ns) {
        s->free_at_ns = now_ns;
        s->carry = 0;
    } else if (s->free_at_ns - now_ns > c->limit_ns)
        return false;
    uint64_t work = (uint64_t)size * 8 * 1000000000u + s->carry;
    s->free_at_ns += work / c->rate_bps;
    s->carry = work % c->rate_bps;
    *left_ns = s->free_at_ns;
    return true;
}

static inline uint64_t impair_delay_ns(const struct impair_config *c, uint64_t frame, const int32_t *table,
                                       uint32_t length) {
    int64_t delay_ns = (int64_t)c->delay_ns;
    if (c->jitter_ns && length)
        delay_ns += (int64_t)c->jitter_ns * table[impair_draw(c->seed, frame, DRAW_JITTER) % length] / IMPAIR_SCALE;
    return delay_ns > 0 ? (uint64_t)delay_ns : 0;
}

/* What becomes of the next frame, which has `size` bytes from its Ethernet header on and comes now. */
static inline struct impair_fate impair_decide(struct impair_state *s, const struct impair_config *c,
                                               const int32_t *table, uint32_t length, uint64_t now_ns,
                                               uint32_t size) {
    struct impair_fate fate = {0};
    uint64_t n = s->frames++;
    fate.lost = impair_lost(s, c, n);
    if (fate.lost)
        return fate;
    uint32_t wanted = impair_draw(c->seed, n, DRAW_DUPLICATE) >> 11 < c->duplicate ? 2 : 1;
    if (size > IMPAIR_HEADER_SIZE && impair_draw(c->seed, n, DRAW_CORRUPT) >> 11 < c->corrupt) {
        fate.corrupted = true;
        fate.bit = IMPAIR_HEADER_SIZE * 8 +
                   (uint32_t)(impair_draw(c->seed, n, DRAW_BIT) % ((size - IMPAIR_HEADER_SIZE) * 8));
    }
    fate.reordered = impair_draw(c->seed, n, DRAW_REORDER) >> 11 < c->reorder;
    uint64_t delay_ns = fate.reordered ? 0 : impair_delay_ns(c, n, table, length);
    for (uint32_t copy = 0; copy < wanted; copy++) {
        uint64_t left_ns;
        if (!impair_pass_rate(s, c, now_ns, size, &left_ns)) {
            fate.dropped++;
            continue;
        }
        uint64_t due_ns = left_ns + delay_ns;
        if (c->keep_order && !fate.reordered) {
            due_ns = due_ns > s->last_due_ns ? due_ns : s->last_due_ns;
            s->last_due_ns = due_ns;
        }
        fate.due_ns[fate.copies++] = due_ns;
    }
    return fate;
}

#endif
