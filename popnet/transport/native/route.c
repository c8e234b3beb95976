/* The pump's ports, and the way a frame takes: route(), flood(), forward(). */

#include "pump.h"

/* ---- ports */

static int port_kid(const Pump *pump, const struct port *port) { return (int)(port - pump->ports); }

static void upcall(Pump *pump) {
    pump->counters.upcalls++;
    kick(pump->upcall);
}

static void list_active(Pump *pump) {
    pump->active_count = 0;
    for (struct port *port = pump->ports; port < pump->ports + KIDS; port++)
        if (port->link && !port->retired)
            pump->active[pump->active_count++] = port;
}

/* Nobody may touch the port's rings after this. */
static void port_forget(Pump *pump, struct port *port) {
    if (pump->guess == port)
        pump->guess = NULL;
    if (pump->waiting_for == port)
        pump->waiting_for = NULL; /* the held frame is routed anew */
    port->unpublished = 0;
    list_active(pump);
}

static void port_retire(Pump *pump, struct port *port) {
    if (port->retired)
        return;
    port->retired = true;
    port_forget(pump, port);
    if (atomic_load(&port->link->fault)) {
        int kid = port_kid(pump, port);
        pump->violated[kid / 64] |= 1ull << (kid % 64);
        pump->counters.violations++;
        upcall(pump);
    }
}

static bool port_broken(const struct port *port) {
    return atomic_load_explicit(&port->link->fault, memory_order_relaxed) ||
           atomic_load_explicit(&port->link->closed, memory_order_relaxed);
}

static void retire_broken(Pump *pump) {
    for (int i = pump->active_count - 1; i >= 0; i--) /* downwards: retiring packs the list */
        if (port_broken(pump->active[i]))
            port_retire(pump, pump->active[i]);
}

static struct port *port_of(Pump *pump, int kid) {
    struct port *port = &pump->ports[kid];
    return port->link && !port->retired ? port : NULL;
}

static void port_publish(struct port *port) {
    port->unpublished = 0;
    producer_publish(port->out);
}

static void publish_all(Pump *pump) {
    for (int i = 0; i < pump->active_count; i++)
        if (pump->active[i]->unpublished)
            port_publish(pump->active[i]);
}

static void port_stage(struct port *port, uint32_t size) {
    producer_stage(port->out, size, 0);
    if (port->full)
        port->held_ns += clock_ns() - port->held_since_ns;
    port->full = port->stalled = false;
    if (++port->unpublished >= PUBLISH_FRAMES || size > LARGE_FRAME)
        port_publish(port);
}

/* Copy a frame into the port's ring; false: no room. */
static bool port_copy(struct port *port, const uint8_t *frame, uint32_t size) {
    uint8_t *payload = producer_reserve(port->out, size);
    if (!payload)
        return false;
    memcpy(payload, frame, size);
    port_stage(port, size);
    return true;
}

/* Does the guest send to several ports? Then what is held for one holds up the others. */
static bool others_wait(const Pump *pump, uint64_t now_ns) {
    return pump->mixed_ns && now_ns - pump->mixed_ns < MIXED_NS;
}

/* When the others will have waited for the port for long enough. */
static uint64_t port_slow_ns(const struct port *port) {
    return port->held_ns < HOLD_NS ? port->held_since_ns + HOLD_NS - port->held_ns : port->held_since_ns;
}

/* The port's ring is full, it moves perhaps: have they? */
static bool port_is_slow(Pump *pump, struct port *port, uint64_t now_ns) {
    if (now_ns - port->window_since_ns >= HOLD_WINDOW_NS) {
        port->window_since_ns = port->held_since_ns = now_ns;
        port->held_ns = 0;
        port->slow = false;
    }
    if (!others_wait(pump, now_ns) || now_ns < port_slow_ns(port))
        return false;
    pump->counters.slows += !port->slow;
    return port->slow = true;
}

/* ... has its consumer stood still for too long? */
static bool port_is_stalled(Pump *pump, struct port *port, uint64_t now_ns) {
    if (port->out->consumed_seen != port->consumed_then) {
        port->stalled = false;
        port->full_since_ns = now_ns;
        port->consumed_then = port->out->consumed_seen;
    }
    if (port->stalled || now_ns - port->full_since_ns < STALL_NS)
        return port->stalled;
    pump->counters.stalls++;
    return port->stalled = true;
}

/* May a frame that found the port's ring full wait? If not, its drop is counted. */
static bool port_may_wait(Pump *pump, struct port *port) {
    uint64_t now_ns = clock_ns();
    if (!port->full) {
        pump->counters.ring_full++;
        port->full = true;
        port->held_since_ns = port->full_since_ns = now_ns;
        port->consumed_then = port->out->consumed_seen;
    }
    if (port_is_stalled(pump, port, now_ns))
        pump->counters.drop_stalled++;
    else if (port_is_slow(pump, port, now_ns))
        pump->counters.drop_slow++;
    else
        return true;
    return false;
}

/* When the wait for the port's room is over, whatever comes. */
static uint64_t port_deadline_ns(const Pump *pump, const struct port *port, uint64_t now_ns) {
    uint64_t stalled_ns = port->full_since_ns + STALL_NS, slow_ns = port_slow_ns(port);
    return others_wait(pump, now_ns) && slow_ns < stalled_ns ? slow_ns : stalled_ns;
}

/* ---- routing */

enum { TO_GROUP = -1, TO_ALIEN = -2 };

/* The kid a destination MAC belongs to, or TO_GROUP (multicast, broadcast), or TO_ALIEN. */
static int destination(const uint8_t *frame) {
    uint8_t mac[6];
    snapshot(mac, frame + VNET_HEADER_SIZE, sizeof mac);
    if (memcmp(mac, MAC_PREFIX, sizeof MAC_PREFIX) == 0)
        return mac[5];
    return mac[0] & 1 ? TO_GROUP : TO_ALIEN;
}

static void ask_for_link(Pump *pump, int kid) {
    uint64_t now_ns = clock_ns();
    if (pump->asked_ns[kid] && now_ns - pump->asked_ns[kid] < ASK_AGAIN_NS)
        return;
    pump->asked_ns[kid] = now_ns;
    pump->wanted[kid / 64] |= 1ull << (kid % 64);
    upcall(pump);
}

/* ---- frames that are larger than their receiver takes */

static void give_to_guest(Pump *pump, const uint8_t *frame, uint32_t size);

static uint32_t port_mtu(const struct port *port) {
    uint64_t mtu = atomic_load_explicit((word *)port->mtu, memory_order_relaxed);
    return mtu >= PACKET_MTU_MIN && mtu <= UINT16_MAX ? (uint32_t)mtu : UINT32_MAX;
}

struct cutting {
    Pump *pump;
    struct port *port;
};

static void send_piece(void *context, const uint8_t *record, uint32_t size) {
    struct cutting *cutting = context;
    if (!port_copy(cutting->port, record, size))
        cutting->pump->counters.drop_piece++;
}

/* Tell the sender of pump->copy, who is our guest or behind the port `from`. */
static void tell_too_big(Pump *pump, const struct packet *p, uint32_t mtu, struct port *from) {
    uint8_t answer[ANSWER_MAX];
    uint32_t size = destination(pump->copy) < 0 ? 0 : answer_too_big(pump->copy, p, mtu, answer);
    pump->counters.drop_too_big++;
    if (size == 0)
        return;
    pump->counters.too_big_answers++;
    if (!from)
        give_to_guest(pump, answer, size);
    else if (!port_copy(from, answer, size))
        pump->counters.drop_relay_full++;
}

/* A packet of pump->copy that does not fit `mtu`, whoever sent it. */
static void cut_or_tell(Pump *pump, struct port *port, const struct packet *p, uint32_t size, uint32_t mtu,
                        struct port *from) {
    bool super = vnet_load(pump->copy).gso_type != GSO_NONE;
    const uint8_t *ip = pump->copy + VNET_HEADER_SIZE + p->network;
    if (p->version == 6 && mtu < IPV6_MTU_MIN) /* nobody there has IPv6, and none could be told so */
        pump->counters.drop_too_big++;
    else if (p->version == 6 || super || get16(ip + 6) & IPV4_DONT_FRAGMENT)
        tell_too_big(pump, p, mtu, from);
    else {
        pump->counters.cut_frames++;
        finish_checksum(pump->copy, size);
        cut_fragments(pump->copy, p, mtu, pump->piece, send_piece, &(struct cutting){pump, port});
    }
}

/* The frame is longer than the port's MTU. Are its packets, on the wire? Then they are dealt with here. */
static bool fits_on_the_wire(Pump *pump, struct port *port, const uint8_t *frame, uint32_t size,
                             struct port *from) {
    struct packet p;
    uint32_t mtu = port_mtu(port);
    if (from) /* it may be written while we read it */
        memcpy(pump->copy, frame, size);
    const uint8_t *record = from ? pump->copy : frame;
    struct vnet vnet = vnet_load(record);
    if (!vnet_sane(&vnet, size)) {
        pump->counters.drop_bad_header++;
        return false;
    }
    bool known = packet_parse(&p, record + VNET_HEADER_SIZE, size - VNET_HEADER_SIZE);
    if ((known ? packet_size(&p, &vnet) : size - VNET_HEADER_SIZE - p.network) <= mtu)
        return true;
    if (!from)
        memcpy(pump->copy, frame, size);
    if (known)
        cut_or_tell(pump, port, &p, size, mtu, from);
    else
        pump->counters.drop_too_big++;
    return false;
}

/* False: it does not fit, and is dealt with. */
static bool fits(Pump *pump, struct port *port, const uint8_t *frame, uint32_t size, struct port *from) {
    return size - FRAME_RECORD_MIN <= port_mtu(port) || fits_on_the_wire(pump, port, frame, size, from);
}

/* ---- one frame */

/* The relay's: to every link but `from`. In `reserved`'s ring the frame lies already. How many it went to. */
static int flood(Pump *pump, const uint8_t *frame, uint32_t size, struct port *from, struct port *reserved) {
    int copies = 0;
    for (int i = 0; i < pump->active_count; i++) {
        struct port *port = pump->active[i];
        if (port == from || port == reserved || !fits(pump, port, frame, size, from))
            continue;
        if (port_copy(port, frame, size))
            copies++;
        else
            pump->counters.drop_relay_full++;
    }
    if (reserved && fits(pump, reserved, frame, size, from)) { /* last: then its bytes may be the peer's */
        port_stage(reserved, size);
        copies++;
    }
    pump->counters.flooded_frames += (uint64_t)copies;
    return copies;
}

/* A frame of our guest, for one port. False: hold it. */
static bool send_to_port(Pump *pump, struct port *port, const uint8_t *frame, uint32_t size,
                         struct port *reserved) {
    if (port == reserved) {
        port_stage(port, size);
        return true;
    }
    bool sent = port_copy(port, frame, size);
    if (sent) {
        pump->counters.wrong_guesses += reserved != NULL;
        if (pump->guess && pump->guess != port)
            pump->mixed_ns = clock_ns();
        pump->guess = port;
    } else if (port_broken(port)) {
        port_retire(pump, port);
        pump->counters.drop_violation++;
    } else if (port_may_wait(pump, port)) {
        pump->waiting_for = port;
        return false;
    }
    return true;
}

/* A frame of our guest; `reserved`: it lies in the reserved part of that port's ring. False: hold it. */
static bool route(Pump *pump, const uint8_t *frame, uint32_t size, struct port *reserved) {
    pump->waiting_for = NULL;
    int kid = destination(frame);
    if (kid == pump->kid) {
        pump->counters.drop_self++;
        return true;
    }
    if (kid < 0 && pump->relay) {
        if (flood(pump, frame, size, NULL, reserved) == 0)
            *(kid == TO_ALIEN ? &pump->counters.drop_unknown : &pump->counters.drop_no_link) += 1;
        return true;
    }
    struct port *port = kid < 0 ? NULL : port_of(pump, kid);
    if (port && !fits(pump, port, frame, size, NULL))
        return true;
    if (kid >= 0 && !port)
        ask_for_link(pump, kid);
    if (!port && !pump->relay)
        port = port_of(pump, 0);
    if (port)
        return send_to_port(pump, port, frame, size, reserved);
    *(kid == TO_ALIEN ? &pump->counters.drop_unknown : &pump->counters.drop_no_link) += 1;
    return true;
}

/* True: a capture diverts it, so it goes no further. */
static bool capture_all(Pump *pump, enum direction direction, const uint8_t *frame, uint32_t size) {
    bool diverted = false;
    for (struct capture *c = pump->captures; c; c = c->next)
        diverted |= capture_offer(c, direction, frame, size);
    return diverted;
}
