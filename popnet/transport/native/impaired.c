/*
 * Impairments in the pump's path: which frame meets which, what waits, and what leaves when it is due.
 *
 *   a frame of our guest      nic_out                               then routed, as any
 *   a frame for our guest     from[kid] (the link), then nic_in     then written to the TAP
 *
 * A link from a to b is impaired where its frames arrive, at b. So it does not matter by which way they came:
 * by the direct link, by way of the relay, or as one of a broadcast's copies; who sent a frame that the relay
 * brought, its source MAC says. What the relay only forwards meets nothing here.
 *
 * Frames that meet an impairment are cut first into what a wire would carry (offload.c), and each has a fate of
 * its own (impair.h); then it waits in one of two queues (delay_queue.h), `out` or `in`, also if it is due at
 * once: so none overtakes by chance. Everything happens inside the gate. While no impairment was ever set,
 * `impairments` is NULL, and that is all the others see of it.
 *
 * New settings hold for frames that come; those that wait keep what they were given. Each setting begins an
 * epoch, with figures of its own; a frame counts in the epoch in which it came, if that still goes on.
 */

#include "pump.h"

#include <sys/timerfd.h>

enum impair_place { PLACE_LINK, PLACE_NIC_IN, PLACE_NIC_OUT, PLACES };

static void give_to_guest(Pump *pump, const uint8_t *frame, uint32_t size);

/* ---- figures */

/* Eight steps to a power of two. */
static void histogram_add(uint32_t histogram[HISTOGRAM_SIZE], uint64_t value) {
    if (value < 8) {
        histogram[value]++;
        return;
    }
    uint32_t power = 63 - (uint32_t)__builtin_clzll(value);
    histogram[(power - 2) * 8 + (value >> (power - 3) & 7)]++;
}

/* The middle of the step that `part` of 1000 values do not exceed; 0 if there are none. */
static uint64_t histogram_at(const uint32_t histogram[HISTOGRAM_SIZE], uint32_t part) {
    uint64_t count = 0, seen = 0;
    for (int i = 0; i < HISTOGRAM_SIZE; i++)
        count += histogram[i];
    for (int i = 0; count && i < HISTOGRAM_SIZE; i++) {
        seen += histogram[i];
        if (seen * 1000 >= count * part) {
            if (i < 8)
                return (uint64_t)i;
            uint32_t shift = (uint32_t)i / 8 - 1;
            return ((uint64_t)(8 + i % 8) << shift) + (1ull << shift >> 1);
        }
    }
    return 0;
}

/* ---- which */

static bool impair_active(const struct impair *impair) { return impair && (impair->set || impair->down); }

/* Has the frame to suffer? Those that the filter spares are counted. */
static bool impair_meets(struct impair *impair, const uint8_t *frame, uint32_t size) {
    if (!impair_active(impair))
        return false;
    if (impair->down || !impair->program)
        return true;
    uint32_t length = size - VNET_HEADER_SIZE;
    if (impair->filter(impair->program, frame + VNET_HEADER_SIZE, length, length))
        return true;
    impair->figures.unmatched++;
    return false;
}

/* Whose guest sent what came over `from`. The relay brings frames of others: their source MAC tells. */
static int sender(const Pump *pump, const struct port *from, const uint8_t *frame) {
    int kid = port_kid(pump, from);
    if (kid != 0)
        return kid;
    uint8_t mac[6];
    snapshot(mac, frame + VNET_HEADER_SIZE + 6, sizeof mac);
    return memcmp(mac, MAC_PREFIX, sizeof MAC_PREFIX) == 0 ? mac[5] : 0;
}

/* ---- in */

struct meeting {
    Pump *pump;
    struct impair *impair;
    struct delay_queue *queue;
};

static void impair_wait(struct meeting *m, const uint8_t *record, uint32_t size, const struct impair_fate *fate,
                        uint64_t now_ns, uint64_t due_ns) {
    struct impair *impair = m->impair;
    struct delayed *d = delay_queue_make(m->queue, size);
    if (!d) {
        impair->figures.drop_queue++;
        m->pump->counters.drop_impair_queue++;
        return;
    }
    memcpy(d->frame, record, size);
    if (fate->corrupted)
        d->frame[VNET_HEADER_SIZE + fate->bit / 8] ^= (uint8_t)(1u << fate->bit % 8);
    d->due_ns = due_ns;
    d->came_ns = now_ns;
    d->impair = impair;
    d->epoch = impair->epoch;
    delay_queue_push(m->queue, d);
    impair->queued++;
}

/* One frame, as the wire would carry it. */
static void impair_meet(void *context, const uint8_t *record, uint32_t size) {
    struct meeting *m = context;
    struct impair *impair = m->impair;
    struct impair_figures *figures = &impair->figures;
    struct pump_counters *counters = &m->pump->counters;
    uint64_t now_ns = clock_ns();
    struct impair_fate fate = impair_decide(&impair->state, &impair->config, impair->table, impair->table_length,
                                            now_ns, size - VNET_HEADER_SIZE);
    bool twice = fate.copies + fate.dropped == 2;
    figures->frames++;
    figures->bytes += size - VNET_HEADER_SIZE;
    figures->drop_loss += fate.lost;
    figures->drop_limit += fate.dropped;
    figures->duplicated += twice;
    figures->reordered += fate.reordered;
    figures->corrupted += fate.corrupted;
    counters->impaired_frames++;
    counters->impaired_copies += twice;
    counters->drop_impair_loss += fate.lost;
    counters->drop_impair_limit += fate.dropped;
    for (uint32_t copy = 0; copy < fate.copies; copy++)
        impair_wait(m, record, size, &fate, now_ns, fate.due_ns[copy]);
}

static void impair_offer(Pump *pump, struct impair *impair, struct delay_queue *queue, const uint8_t *frame,
                         uint32_t size) {
    struct impairments *all = pump->impairments;
    if (impair->down) {
        impair->figures.frames++;
        impair->figures.bytes += size - VNET_HEADER_SIZE;
        impair->figures.drop_down++;
        pump->counters.impaired_frames++;
        pump->counters.drop_impair_down++;
        return;
    }
    struct meeting m = {pump, impair, queue};
    memcpy(all->whole, frame, size); /* it may lie in a peer's window; from here on it is ours */
    if (!make_plain(all->whole, size, all->piece, impair_meet, &m))
        pump->counters.drop_malformed++;
}

/* A frame of our guest. False: nothing impairs it. */
static bool impair_departure(Pump *pump, const uint8_t *frame, uint32_t size) {
    struct impair *impair = pump->impairments->nic_out;
    if (!impair_meets(impair, frame, size))
        return false;
    impair_offer(pump, impair, &pump->impairments->out, frame, size);
    return true;
}

static int impair_release_in(Pump *pump);

/* A frame for our guest, which came over `from`. False: nothing impairs it, and what is due before it has gone:
 * a filter shall not make frames overtake others that are not late. */
static bool impair_arrival(Pump *pump, const struct port *from, const uint8_t *frame, uint32_t size) {
    struct impairments *all = pump->impairments;
    struct impair *impair = all->from[sender(pump, from, frame)];
    if (!impair_meets(impair, frame, size))
        impair = impair_meets(all->nic_in, frame, size) ? all->nic_in : NULL;
    if (impair)
        impair_offer(pump, impair, &all->in, frame, size);
    else if (delay_queue_first(&all->in))
        impair_release_in(pump);
    return impair != NULL;
}

/* ---- out */

static void impair_count_passed(const struct delayed *d, uint64_t now_ns) {
    struct impair *impair = d->impair;
    impair->queued--;
    if (d->epoch != impair->epoch)
        return;
    struct impair_figures *figures = &impair->figures;
    figures->passed++;
    figures->delay_total_ns += now_ns - d->came_ns;
    histogram_add(figures->delays, now_ns - d->came_ns);
    histogram_add(figures->late, now_ns - d->due_ns);
}

/* A round's budget, in frames of a wire: a super-frame is up to 45 of them. */
static int impair_budget(const Pump *pump) { return 8 * pump->budget; }

/* While more is due than a round takes, ports whose frames would add to it wait: their rings push back. */
static bool impair_behind(const Pump *pump, const struct port *port) {
    const struct impairments *all = pump->impairments;
    return all->in_behind && (impair_active(all->nic_in) || impair_active(all->from[port_kid(pump, port)]));
}

/* What is due for our guest. Returns how many frames. */
static int impair_release_in(Pump *pump) {
    struct impairments *all = pump->impairments;
    struct delayed *d;
    int done = 0;
    uint64_t now_ns = clock_ns();
    all->in_behind = false;
    while ((d = delay_queue_first(&all->in)) && d->due_ns <= now_ns) {
        if (done++ == impair_budget(pump)) {
            all->in_behind = true;
            break;
        }
        delay_queue_pop(&all->in);
        impair_count_passed(d, clock_ns());
        if (d->impair != all->nic_in && impair_meets(all->nic_in, d->frame, d->size))
            impair_offer(pump, all->nic_in, &all->in, d->frame, d->size);
        else
            give_to_guest(pump, d->frame, d->size);
        free(d);
    }
    return done;
}

/* What is due from our guest; `done` counts what went. False: more is due, and must go before what comes. */
static bool impair_release_out(Pump *pump, int *done) {
    struct impairments *all = pump->impairments;
    struct delayed *d;
    all->out_blocked = false;
    uint64_t now_ns = clock_ns();
    for (int budget = impair_budget(pump); (d = delay_queue_first(&all->out)) && d->due_ns <= now_ns; budget--) {
        if (budget == 0)
            return false;
        if (!route(pump, d->frame, d->size, NULL)) {
            all->out_blocked = true;
            return false;
        }
        delay_queue_pop(&all->out);
        impair_count_passed(d, clock_ns());
        free(d);
        ++*done;
    }
    return true;
}

/* Wake us when the next frame is due; what is due but has no room waits for that. */
static void impair_set_timer(Pump *pump) {
    struct impairments *all = pump->impairments;
    const struct delayed *in = delay_queue_first(&all->in);
    const struct delayed *out = all->out_blocked ? NULL : delay_queue_first(&all->out);
    uint64_t due_ns = in && (!out || in->due_ns < out->due_ns) ? in->due_ns : out ? out->due_ns : 0;
    if (due_ns == all->timer_ns)
        return;
    struct itimerspec when = {.it_value = {(time_t)(due_ns / 1000000000u), (long)(due_ns % 1000000000u)}};
    timerfd_settime(all->timer, TFD_TIMER_ABSTIME, &when, NULL);
    all->timer_ns = due_ns;
}

static void impair_timer_rang(Pump *pump) {
    drain(pump->impairments->timer);
    pump->impairments->timer_ns = 0;
}

/* ---- made, set and freed */

static struct impair **impair_place(struct impairments *all, enum impair_place place, int kid) {
    return place == PLACE_LINK ? &all->from[kid] : place == PLACE_NIC_IN ? &all->nic_in : &all->nic_out;
}

static void impair_free(struct impair *impair) {
    if (!impair)
        return;
    free(impair->table);
    free(impair->program);
    free(impair);
}

static void impairments_free(struct impairments *all) {
    if (!all)
        return;
    delay_queue_free(&all->in);
    delay_queue_free(&all->out);
    for (int kid = 0; kid < KIDS; kid++)
        impair_free(all->from[kid]);
    impair_free(all->nic_in);
    impair_free(all->nic_out);
    close_if_open(&all->timer);
    free(all);
}

static struct impairments *impairments_make(int epoll) {
    struct impairments *all = calloc(1, sizeof *all);
    if (!all)
        return NULL;
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = SOURCE_TIMER};
    all->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (all->timer >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, all->timer, &event) == 0)
        return all;
    impairments_free(all);
    return NULL;
}

/* Inside the gate: `fresh`, all of it but `down`, is what holds from now on; the table and the program that
 * held before are in `fresh` afterwards, to be freed. */
static void impair_exchange(struct impair *impair, struct impair *fresh) {
    struct impair old = *impair;
    impair->set = fresh->set;
    impair->config = fresh->config;
    impair->table = fresh->table;
    impair->table_length = fresh->table_length;
    impair->program = fresh->program;
    impair->filter = fresh->filter;
    impair->state = (struct impair_state){0};
    impair->figures = (struct impair_figures){0};
    impair->epoch++;
    fresh->table = old.table;
    fresh->program = old.program;
}
