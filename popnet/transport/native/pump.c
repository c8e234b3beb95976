/* The pump at work: from the links to the guest, from the guest to the links, and the thread around both. */

#include "pump.h"

/* ---- from the links to the guest */

static void count_refused_write(Pump *pump, int error) {
    switch (error) {
    case EIO: /* the interface is down: not an error, the guest did it */
        pump->counters.drop_nic_down++;
        break;
    case EINVAL: /* the kernel does not like the vnet header */
        pump->counters.drop_refused++;
        break;
    case EBADFD: /* the interface was deleted */
        pump->tap_gone = true;
        pump->counters.drop_nic_gone++;
        break;
    default:
        pump->counters.drop_no_memory++;
    }
}

/* Can a frame reach the guest at all? Counts it if not. */
static bool guest_listens(Pump *pump) {
    if (!pump->link_up)
        pump->counters.drop_link_down++;
    else if (pump->tap_gone)
        pump->counters.drop_nic_gone++;
    else
        return true;
    return false;
}

static void write_frame(void *context, const uint8_t *frame, uint32_t size) {
    Pump *pump = context;
    if (write(pump->tap, frame, size) < 0) {
        count_refused_write(pump, errno);
        return;
    }
    pump->counters.rx_frames++;
    pump->counters.rx_bytes += size - VNET_HEADER_SIZE;
}

/* To a guest with offloads as it is, else as the wire would carry it. */
static void write_to_guest(Pump *pump, const uint8_t *frame, uint32_t size) {
    if (!pump->plain) {
        write_frame(pump, frame, size);
        return;
    }
    memcpy(pump->copy, frame, size);
    pump->counters.cut_frames += vnet_load(pump->copy).gso_type != GSO_NONE;
    if (!make_plain(pump->copy, size, pump->piece, write_frame, pump))
        pump->counters.drop_bad_header++;
}

static void give_to_guest(Pump *pump, const uint8_t *frame, uint32_t size) {
    struct vnet vnet = vnet_load(frame);
    if (!guest_listens(pump))
        return;
    if (!vnet_sane(&vnet, size)) {
        pump->counters.drop_bad_header++;
        return;
    }
    if (pump->captures && capture_all(pump, TO_GUEST, frame, size)) {
        pump->counters.drop_diverted++;
        return;
    }
    write_to_guest(pump, frame, size);
}

/* The relay's: a frame that came over `from` for kernel `kid`. */
static void forward(Pump *pump, struct port *from, int kid, const uint8_t *frame, uint32_t size) {
    struct port *port = port_of(pump, kid);
    if (!port || port == from)
        pump->counters.drop_no_link++;
    else if (!fits(pump, port, frame, size, from))
        return;
    else if (port_copy(port, frame, size))
        pump->counters.relayed_frames++;
    else
        pump->counters.drop_relay_full++;
}

static void accept_frame(Pump *pump, struct port *from, const uint8_t *frame, uint32_t size) {
    int kid = pump->relay ? destination(frame) : pump->kid;
    if (kid >= 0 && kid != pump->kid) {
        forward(pump, from, kid, frame, size);
        return;
    }
    if (!pump->impairments || !impair_arrival(pump, from, frame, size))
        give_to_guest(pump, frame, size);
    if (kid < 0)
        flood(pump, frame, size, from, NULL);
}

/* What one source may cost once around; a frame costs its bytes and FRAME_COST. */
static int64_t quantum(const Pump *pump) { return (int64_t)pump->budget * FRAME_COST; }

/* Work came from a source; if that ended an idle time, the source learns. True: it was a spin that it ended. */
static bool source_found(Pump *pump, struct waiter *waiter) {
    if (!pump->idle_since_ns && !waiter->since_ns)
        return false;
    waiter_found(waiter, pump->idle_since_ns, clock_ns());
    return pump->idle_since_ns != 0;
}

/* How many frames came. */
static int receive_from(Pump *pump, struct port *port) {
    struct consumer *in = port->in;
    const uint8_t *frame;
    uint32_t size, tag;
    int done = 0, unreleased = 0;
    port->credit += quantum(pump);
    while (port->credit > 0 && (frame = consumer_peek(in, &size, &tag))) {
        if (size < FRAME_RECORD_MIN) {
            set_fault(in->fault, FRAMES, FAULT_FRAME_LENGTH);
            break;
        }
        accept_frame(pump, port, frame, size);
        consumer_take(in, size);
        port->credit -= (int64_t)size + FRAME_COST;
        done++;
        if (++unreleased >= PUBLISH_FRAMES || size > LARGE_FRAME) {
            consumer_release(in);
            unreleased = 0;
        }
    }
    consumer_release(in);
    if (done && source_found(pump, &pump->waiters[port_kid(pump, port)]))
        add(&in->counters->spin_hits, 1);
    bool more = in->produced_seen != in->taken;
    if (more && port->credit <= 0)
        add(&in->counters->budget_exhausted, 1);
    if (!more && port->credit > 0)
        port->credit = 0; /* an idle source saves nothing up */
    return done;
}

/* ---- from the guest to the links */

/* A frame of our guest, as route() has it. */
static bool depart(Pump *pump, const uint8_t *frame, uint32_t size, struct port *reserved) {
    if (pump->impairments && impair_departure(pump, frame, size))
        return true;
    return route(pump, frame, size, reserved);
}

/* What was held, delayed or injected goes first. False: it still has to wait. */
static bool send_waiting(Pump *pump, int *done) {
    if (pump->held_size) {
        if (!route(pump, pump->held, pump->held_size, NULL))
            return false;
        pump->held_size = 0;
        ++*done;
    }
    if (pump->impairments && !impair_release_out(pump, done))
        return false;
    while (pump->injected_count) {
        struct injected *next = pump->injected[pump->injected_first];
        if (!depart(pump, next->frame, next->size, NULL))
            return false;
        free(next);
        pump->injected_first = (pump->injected_first + 1) % INJECTED_MAX;
        pump->injected_count--;
        ++*done;
    }
    return true;
}

/* A frame was read to `frame`. False: it is held now, read no more. */
static bool send_read(Pump *pump, const uint8_t *frame, uint32_t size, struct port *reserved) {
    if (size < FRAME_RECORD_MIN || size > FRAME_RECORD_MAX) {
        pump->counters.drop_malformed++;
        return true;
    }
    if (!pump->link_up) {
        pump->counters.drop_link_down++;
        return true;
    }
    pump->counters.tx_frames++;
    pump->counters.tx_bytes += size - VNET_HEADER_SIZE;
    if (pump->captures && capture_all(pump, FROM_GUEST, frame, size)) {
        pump->counters.drop_diverted++;
        return true;
    }
    if (depart(pump, frame, size, reserved))
        return true;
    if (frame != pump->held)
        memcpy(pump->held, frame, size);
    pump->held_size = size;
    return false;
}

/* How many frames went. */
static int send_from_guest(Pump *pump) {
    int done = 0;
    if (!send_waiting(pump, &done) || pump->tap_gone)
        return done;
    int64_t credit = quantum(pump);
    while (credit > 0) {
        struct port *reserved = pump->guess;
        uint8_t *room = reserved ? producer_reserve(reserved->out, FRAME_RECORD_MAX + 1) : NULL;
        if (!room) {
            reserved = NULL;
            room = pump->held;
        }
        ssize_t size = read(pump->tap, room, FRAME_RECORD_MAX + 1);
        if (size <= 0) {
            pump->tap_gone = size == 0 || (errno != EAGAIN && errno != EINTR && errno != EIO);
            break;
        }
        done++;
        credit -= size + FRAME_COST;
        if (!send_read(pump, room, (uint32_t)size, reserved))
            break;
    }
    return done;
}

/* ---- the thread */

static int pump_once(Pump *pump) {
    int done = 0;
    pump->counters.rounds++;
    retire_broken(pump);
    for (int i = 0; i < pump->active_count; i++)
        if (!pump->impairments || !impair_behind(pump, pump->active[i]))
            done += receive_from(pump, pump->active[i]);
    if (pump->impairments)
        done += impair_release_in(pump);
    int sent = send_from_guest(pump);
    publish_all(pump);
    if (sent)
        source_found(pump, &pump->tap_waiter);
    done += sent;
    pump->counters.spin_hits += done && pump->idle_since_ns;
    pump->counters.kicks_spurious += pump->rung && !done;
    pump->rung = false;
    if (done)
        pump->idle_since_ns = 0;
    return done;
}

/* A frame is held for a port that is neither stalled nor gone. */
static bool waits_for_room(const Pump *pump) { return pump->waiting_for != NULL; }

static void declare_all(Pump *pump) {
    for (int i = 0; i < pump->active_count; i++)
        consumer_declare(pump->active[i]->in);
    if (waits_for_room(pump))
        producer_declare(pump->waiting_for->out);
}

static void disarm_all(Pump *pump) {
    for (int i = 0; i < pump->active_count; i++)
        consumer_disarm(pump->active[i]->in);
    if (waits_for_room(pump))
        producer_disarm(pump->waiting_for->out);
}

/* The second look: is there anything to do after all? */
static bool look_again(Pump *pump) {
    for (int i = 0; i < pump->active_count; i++) {
        struct consumer *in = pump->active[i]->in;
        if (!consumer_look(in) || in->produced_seen != in->taken)
            return true;
    }
    struct port *port = pump->waiting_for;
    return port && (!producer_look(port->out) || producer_free(port->out) >= WAKE_FREE(port->out->size));
}

/* -1: for ever, else milliseconds until the port that is waited for counts as stalled or slow. */
static int sleep_ms(const Pump *pump) {
    if (!waits_for_room(pump))
        return -1;
    uint64_t now_ns = clock_ns(), deadline_ns = port_deadline_ns(pump, pump->waiting_for, now_ns);
    return deadline_ns <= now_ns ? 0 : (int)((deadline_ns - now_ns) / 1000000 + 1);
}

/* While a frame is held the TAP must not wake us; one that is gone would wake us for ever. */
static void watch_tap(Pump *pump) {
    bool delayed = pump->impairments && pump->impairments->out_blocked;
    bool watch = pump->held_size == 0 && pump->injected_count == 0 && !pump->tap_gone && !delayed;
    if (watch == pump->tap_watched)
        return;
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = SOURCE_TAP};
    epoll_ctl(pump->epoll, watch ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, pump->tap, &event);
    pump->tap_watched = watch;
}

static void count_sleep(Pump *pump) {
    pump->counters.sleeps++;
    for (int i = 0; i < pump->active_count; i++)
        add(&pump->active[i]->in->counters->armed, 1);
    if (waits_for_room(pump))
        add(&pump->waiting_for->out->counters->armed_for_room, 1);
}

static void sleep_until_kicked(Pump *pump) {
    declare_all(pump);
    fence();
    if (look_again(pump)) {
        disarm_all(pump);
        return;
    }
    watch_tap(pump);
    if (pump->impairments)
        impair_set_timer(pump);
    count_sleep(pump);
    int timeout_ms = sleep_ms(pump);
    struct epoll_event events[SOURCES];
    gate_leave(&pump->gate);
    int count = epoll_wait(pump->epoll, events, SOURCES, timeout_ms);
    gate_enter(&pump->gate);
    disarm_all(pump);
    for (int i = 0; i < count; i++)
        if (events[i].data.u32 == SOURCE_BELL) {
            drain(pump->bell);
            pump->rung = true;
        } else if (events[i].data.u32 == SOURCE_CONTROL)
            drain(pump->control);
        else if (events[i].data.u32 == SOURCE_TIMER)
            impair_timer_rang(pump);
        else if (events[i].events & (EPOLLERR | EPOLLHUP))
            pump->tap_gone = true;
}

/* ---- idle */

/* How long one source would spin; if at all, what it gets from now on it did not sleep for. */
static uint64_t source_window_ns(struct waiter *waiter) {
    uint64_t window_ns = waiter_window_ns(waiter);
    if (window_ns)
        waiter->since_ns = 0;
    return window_ns;
}

static uint64_t longest_of(Pump *pump) {
    uint64_t longest_ns = source_window_ns(&pump->tap_waiter);
    for (int i = 0; i < pump->active_count; i++) {
        uint64_t window_ns = source_window_ns(&pump->waiters[port_kid(pump, pump->active[i])]);
        longest_ns = window_ns > longest_ns ? window_ns : longest_ns;
    }
    return longest_ns;
}

static void all_sources_missed(Pump *pump) {
    pump->counters.spin_misses += pump->window_ns != 0;
    waiter_missed(&pump->tap_waiter, pump->idle_since_ns);
    for (int i = 0; i < pump->active_count; i++) {
        struct waiter *waiter = &pump->waiters[port_kid(pump, pump->active[i])];
        if (waiter_window_ns(waiter))
            add(&pump->active[i]->in->counters->spin_misses, 1);
        waiter_missed(waiter, pump->idle_since_ns);
    }
}

/* Nothing to do: is it too early to sleep? Others may run meanwhile, perhaps those we wait for. */
static bool poll_a_while(Pump *pump) {
    uint64_t now_ns = clock_ns();
    if (pump->idle_since_ns == 0) {
        pump->idle_since_ns = now_ns;
        pump->window_ns = longest_of(pump);
    }
    if (now_ns - pump->idle_since_ns >= pump->window_ns) {
        all_sources_missed(pump);
        return false;
    }
    gate_leave(&pump->gate);
    sched_yield();
    gate_enter(&pump->gate);
    return true;
}

static void pump_loop(Pump *pump) {
    gate_enter(&pump->gate);
    while (!atomic_load_explicit(&pump->stopping, memory_order_relaxed)) {
        gate_let_others_in(&pump->gate);
        if (!pump_once(pump) && !poll_a_while(pump)) {
            pump->idle_since_ns = 0;
            sleep_until_kicked(pump);
        }
    }
    gate_leave(&pump->gate);
}
