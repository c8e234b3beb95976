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

/* The port's ring is full: may its frames wait, or has its consumer stood still for too long? */
static bool port_may_wait(Pump *pump, struct port *port) {
    uint64_t now_ns = clock_ns();
    if (!port->full || port->out->consumed_seen != port->consumed_then) {
        pump->counters.ring_full += !port->full;
        port->full = true;
        port->stalled = false;
        port->full_since_ns = now_ns;
        port->consumed_then = port->out->consumed_seen;
        return true;
    }
    if (!port->stalled && now_ns - port->full_since_ns < STALL_NS)
        return true;
    pump->counters.stalls += !port->stalled;
    port->stalled = true;
    return false;
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

/* The relay's: to every link but `from`. In `reserved`'s ring the frame lies already. How many it went to. */
static int flood(Pump *pump, const uint8_t *frame, uint32_t size, struct port *from, struct port *reserved) {
    int copies = 0;
    for (int i = 0; i < pump->active_count; i++) {
        struct port *port = pump->active[i];
        if (port == from || port == reserved)
            continue;
        if (port_copy(port, frame, size))
            copies++;
        else
            pump->counters.drop_relay_full++;
    }
    if (reserved) { /* last: from here on the ring's bytes may be the peer's */
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
        pump->guess = port;
    } else if (port_broken(port)) {
        port_retire(pump, port);
        pump->counters.drop_violation++;
    } else if (port_may_wait(pump, port)) {
        pump->waiting_for = port;
        return false;
    } else
        pump->counters.drop_stalled++;
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
