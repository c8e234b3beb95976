/*
 * THE FRAME PUMP moves frames between the TAP of one kernel and the frames rings of its links. It is the
 * body of one native thread (a Python thread inside run(), without the GIL), and does all of both
 * directions:
 *
 *   once around:  each link -> TAP (budget frames each);  TAP -> links (budget);  publish;  if any: again
 *   nothing:      poll for a while, yielding the core each time;  arm every ring, FENCE, look again, sleep
 *
 * How long the while is, each source says by its mode (wait.h): the frames ring of each link, and the TAP.
 * The longest window counts; all of them learn from what comes of it.
 *
 * Where a frame from the TAP goes (MAC prefix + kid is the address of a kernel):
 *   own link to that kid         read straight into the ring of the last such link; a wrong guess is a copy
 *   no link to that kid          by way of the relay, kernel 0; the kid is put on the `wanted` list
 *   broadcast, multicast, alien  to the relay; the relay floods it to every link but the one it came from
 * The relay also forwards what others send through it. Relaying never waits: no room there is a counted drop.
 *
 * Back-pressure. A frame whose ring is full is held, and nothing more is read from the TAP, so that the
 * guest's own queue fills and its senders wait; we arm for room. A consumer that stands still for STALL_NS
 * is stalled, and its frames are dropped until it moves again: a hung kernel must not silence the others.
 * Nor must a slow one: while the guest sends to others too, the frames of one port may be held for HOLD_NS of
 * every HOLD_WINDOW_NS. What finds no room after that is dropped: the others keep four fifths of the time.
 *
 * Fairness. Each source, a link or the TAP, may cost a quantum before the next has its turn: `budget` frames,
 * fewer if they are large. What it took beyond that is taken off its next turn (deficit round robin). So a peer
 * that floods gets the time that the others leave, whether its frames are small or large.
 *
 * Sizes. Each kernel shows its MTU in its windows. A packet that will be larger on the wire than its receiver's
 * MTU is treated as a router would: cut if it is IPv4 and may be, else its sender is told by ICMP, in the
 * receiver's name; anything else is dropped and counted. A guest without offloads gets what the wire would
 * carry.
 *
 * The gate. Python's calls (attach, detach, captures, counters, ...) and the thread exclude each other by a
 * mutex, which the thread holds while it is busy and gives up once around and while it sleeps. A mutex alone
 * would starve Python; so whoever wants in takes `next` first and keeps it until inside, and the thread must
 * queue for it too. Python never waits for the gate with the GIL held, and never does anything slow or
 * Pythonic inside. At the gate nothing is staged and unpublished.
 *
 * Impairments (impaired.c) stand between the guest and the rest, in both directions, if there are any.
 *
 * Violations. A link whose peer wrote nonsense is retired: no ring of it is touched again, its kid is on the
 * `violations` list, and its reference is kept until detach().
 */

#ifndef POPNET_PUMP_H
#define POPNET_PUMP_H

#include "native.h"

#include "delay_queue.h"
#include "impair.h"

#define KIDS 256
#define INJECTED_MAX 64
#define CAPTURES_MAX 16
#define FRAME_RECORD_MAX (VNET_HEADER_SIZE + FRAME_SIZE_MAX)
#define FRAME_RECORD_MIN (VNET_HEADER_SIZE + ETHERNET_HEADER_SIZE)
#define LARGE_FRAME 8192u        /* published and released at once, */
#define PUBLISH_FRAMES 16        /* small ones in batches */
#ifndef STALL_NS                 /* a sanitizer that slows all down needs more */
#define STALL_NS 100000000u      /* 100 ms: on a busy machine one that runs may stand still for 20 */
#endif
#define HOLD_NS (STALL_NS / 10)      /* so long of every */
#define HOLD_WINDOW_NS (5ull * HOLD_NS) /* may frames for others wait behind those that one port holds */
#define MIXED_NS STALL_NS                /* for so long after frames went to two ports, there are others */
#define FRAME_COST 8192          /* bytes that cost as much as one frame does: 2 us; 64 KiB take 14 us */
#define PACKET_MTU_MIN 68u       /* RFC 791: what no smaller MTU can be; less in a window is none */
#define ASK_AGAIN_NS 1000000000u /* a direct link that was not given is asked for again after 1 s */

static const uint8_t MAC_PREFIX[5] = {0x02, 'p', 'o', 'p', 'n'};

/* clang-format off */
#define PUMP_COUNTERS(X)                                                                                  \
    X(tx_frames)          /* from the guest: read from the TAP, or injected */                            \
    X(tx_bytes)           /* without vnet headers */                                                      \
    X(rx_frames)          /* to the guest: written to the TAP */                                          \
    X(rx_bytes)                                                                                           \
    X(injected_frames)    /* of tx_frames */                                                              \
    X(injected_to_guest)  /* of rx_frames */                                                              \
    X(relayed_frames)     /* forwarded by the relay from one link to another */                           \
    X(flooded_frames)     /* copies the relay made of group frames */                                     \
    X(drop_no_link)       /* no link to that kernel, nor to the relay */                                  \
    X(drop_unknown)       /* an alien MAC, and nobody to ask */                                           \
    X(drop_self)          /* addressed to ourselves */                                                    \
    X(drop_malformed)     /* shorter or longer than a frame can be */                                     \
    X(drop_link_down)     /* our carrier is off */                                                        \
    X(drop_stalled)       /* the consumer stands still */                                                 \
    X(drop_relay_full)    /* no room when relaying */                                                     \
    X(drop_violation)     /* the peer turned out to be mad */                                             \
    X(drop_diverted)      /* a capture took it away */                                                    \
    X(drop_nic_down)      /* the guest took its interface down */                                         \
    X(drop_nic_gone)      /* the guest deleted its interface */                                           \
    X(drop_bad_header)    /* its vnet header lies */                                                      \
    X(drop_too_big)       /* for the receiver's MTU, and not to be cut */                                 \
    X(drop_piece)         /* a piece of a frame that had to be cut found no room */                       \
    X(drop_slow)          /* the consumer is slow, and frames for others would have waited */             \
    X(drop_refused)       /* the kernel did not like the vnet header */                                   \
    X(drop_no_memory)     /* the kernel would not take it now */                                          \
    X(drop_impair_loss)   /* an impairment lost it */                                                     \
    X(drop_impair_limit)  /* an impairment's rate had too much waiting */                                 \
    X(drop_impair_down)   /* a link or NIC that was taken down */                                         \
    X(drop_impair_queue)  /* too much waits for its delay */                                              \
    X(impaired_frames)    /* that met an impairment */                                                    \
    X(impaired_copies)    /* that an impairment made */                                                   \
    X(ring_full)          /* times the TAP was left waiting for room */                                   \
    X(stalls)             /* times a consumer stood still */                                              \
    X(slows)              /* times one was too slow for the others */                                     \
    X(too_big_answers)    /* times a sender was told the receiver's MTU by ICMP */                        \
    X(cut_frames)         /* into segments or fragments, for who has no offloads or a smaller MTU */      \
    X(wrong_guesses)      /* frames that cost a copy */                                                   \
    X(violations)         /* links retired for nonsense */                                                \
    X(upcalls)            /* times Python was called */                                                   \
    X(sleeps)                                                                                             \
    X(kicks_spurious)     /* times the doorbell woke us, and there was nothing */                         \
    X(spin_hits)          /* idle spins that ended with a frame */                                        \
    X(spin_misses)        /* idle spins that found nothing */                                             \
    X(rounds)             /* of the loop */
/* clang-format on */

struct pump_counters {
#define X(name) uint64_t name;
    PUMP_COUNTERS(X)
#undef X
    uint64_t kicks, kicks_suppressed; /* of links that are detached by now; the others count for themselves */
};

/* An attached link, as the pump sees it. */
struct port {
    Link *link; /* NULL: none */
    struct producer *out;
    struct consumer *in;
    bool retired;       /* closed, or its peer violated: not touched any more */
    int unpublished;    /* frames staged since the last publication */
    const word *mtu;    /* the peer's */
    int64_t credit;     /* of a source with frames left; a debt if negative */
    bool full, stalled; /* no room at the last try; and no progress for STALL_NS */
    bool slow;          /* held others up for HOLD_NS of this window; what finds no room in the rest is dropped */
    uint64_t full_since_ns, consumed_then;
    uint64_t window_since_ns, held_since_ns, held_ns; /* held_ns: of the window, but for the hold that is on */
};

struct gate {
    pthread_mutex_t inside, next;
    atomic_int waiting;
};

struct injected {
    uint32_t size;
    uint8_t frame[]; /* with vnet header */
};

/* clang-format off */
#define IMPAIR_FIGURES(X)                                                                                 \
    X(frames)         /* that met it */                                                                   \
    X(bytes)          /* without vnet headers */                                                          \
    X(unmatched)      /* that its filter spared, as they came, uncut */                                   \
    X(passed)         /* that left, copies included */                                                    \
    X(drop_loss)                                                                                          \
    X(drop_limit)     /* the rate's queue was full */                                                     \
    X(drop_down)                                                                                          \
    X(drop_queue)     /* no room for what waits for its delay */                                          \
    X(duplicated)                                                                                         \
    X(reordered)                                                                                          \
    X(corrupted)                                                                                          \
    X(delay_total_ns) /* of those that passed */
/* clang-format on */

#define HISTOGRAM_SIZE 496

struct impair_figures {
#define X(name) uint64_t name;
    IMPAIR_FIGURES(X)
#undef X
    uint32_t delays[HISTOGRAM_SIZE], late[HISTOGRAM_SIZE]; /* from coming, and from being due, to leaving */
};

/* What impairs one direction of a link or a NIC; inside the gate only. */
struct impair {
    bool set, down;
    uint64_t epoch;  /* counts the settings */
    uint64_t queued; /* frames that wait, of all epochs */
    struct impair_config config;
    struct impair_state state;
    int32_t *table;
    uint32_t table_length;
    struct bpf_insn *program; /* NULL: all frames */
    bpf_filter_function filter;
    struct impair_figures figures;
};

/* All of one pump, from the first that is set until the pump is freed. */
struct impairments {
    struct impair *from[KIDS], *nic_in, *nic_out; /* NULL: never set */
    struct delay_queue in, out;
    bool in_behind;   /* more is due for the guest than a round's budget */
    bool out_blocked; /* the first of `out` is due, but has no room in its ring */
    int timer;
    uint64_t timer_ns; /* what it is set to; 0: nothing */
    uint8_t whole[FRAME_RECORD_MAX], piece[FRAME_RECORD_MAX];
};

enum source { SOURCE_TAP, SOURCE_BELL, SOURCE_CONTROL, SOURCE_TIMER, SOURCES };

typedef struct {
    PyObject_HEAD
    int tap, bell, upcall, control, epoll; /* control: our own eventfd, by which Python wakes the thread */
    int kid;
    bool relay;
    bool plain; /* the guest has no offloads: cut and sum what goes to it */
    int budget;
    struct gate gate;
    atomic_bool stopping;
    bool running; /* the GIL's */

    /* all below: inside the gate only */
    bool link_up, tap_gone, tap_watched;
    bool rung;                   /* the doorbell woke us, and we have not looked yet */
    struct waiter waiters[KIDS]; /* by kid, also of kernels that are not attached */
    struct waiter tap_waiter;
    uint64_t idle_since_ns, window_ns; /* 0: not idle; else since when, and how long to spin */
    struct port ports[KIDS];
    struct port *active[KIDS]; /* those in use, packed */
    int active_count;
    struct port *guess;       /* where the last unicast frame went */
    struct port *waiting_for; /* whose room the held frame needs */
    uint64_t mixed_ns;        /* when the destination last changed */
    uint32_t mtu;             /* of the guest's interface; 0: unknown */
    uint32_t held_size;       /* 0: no frame is held */
    uint8_t held[FRAME_RECORD_MAX + 1];
    uint8_t copy[FRAME_RECORD_MAX + 1], piece[FRAME_RECORD_MAX + 1]; /* for offload.c */
    struct injected *injected[INJECTED_MAX]; /* a queue: `injected_count` from `injected_first` on */
    int injected_first, injected_count;
    uint64_t wanted[KIDS / 64], violated[KIDS / 64]; /* bit sets of kids */
    uint64_t asked_ns[KIDS];
    struct capture *captures; /* the list the thread goes through */
    struct impairments *impairments; /* NULL: there never was any */
    struct pump_counters counters;

    struct capture *opened[CAPTURES_MAX]; /* the same captures for Python to find; the GIL's */
    int opened_ever;
} Pump;

static PyTypeObject *pump_type;

/* ---- the gate */

static void gate_enter(struct gate *gate) {
    pthread_mutex_lock(&gate->next);
    pthread_mutex_lock(&gate->inside);
    pthread_mutex_unlock(&gate->next);
}

static void gate_leave(struct gate *gate) { pthread_mutex_unlock(&gate->inside); }

/* Python's way in. Call it without the GIL. */
static void gate_visit(struct gate *gate) {
    atomic_fetch_add(&gate->waiting, 1);
    gate_enter(gate);
    atomic_fetch_sub(&gate->waiting, 1);
}

static void gate_let_others_in(struct gate *gate) {
    if (atomic_load_explicit(&gate->waiting, memory_order_relaxed)) {
        gate_leave(gate);
        gate_enter(gate);
    }
}

#endif
