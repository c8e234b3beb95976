/* The extension among mad peers, led by coverage: its windows, links and pump as Python calls them.
 *
 * A target of libFuzzer with an interpreter in it. An input is one life, of a pump (guest, relay or not, and three
 * peers) or of a link; its bytes are what the dice show. Peers write into every word of their windows (counts, armed
 * words, generation, ring sizes, MTU, heartbeat), forge records, and frames with headers that are nearly right; the
 * guest sends such frames as well; time passes when the dice say so. What may happen is a frame, a record, a counted
 * drop or a Violation. What may not: the sanitizers' findings, a frame for the TAP that is too long or whose vnet
 * header lies, an exception of another kind, a count outside its ring.
 *
 * With CARELESS in the environment every length is believed, which has to be found.
 *
 * One thread, and a clock and a TAP of its own: an input does the same each time. How to wait is not in here.
 */

#define clock_ns real_clock_ns
#define consumer_peek honest_peek
#include "native.h"

#include <stdio.h>
#undef clock_ns
#undef consumer_peek

static uint64_t time_ns;
static bool careless;

/* Each look costs a microsecond, so that whoever waits gets to the end. */
static uint64_t clock_ns(void) { return time_ns += 1000; }

static const uint8_t *consumer_peek(struct consumer *c, uint32_t *length, uint32_t *tag) {
    if (!careless)
        return honest_peek(c, length, tag);
    if (!consumer_look(c) || c->produced_seen == c->taken)
        return NULL;
    const uint8_t *record = c->data + (c->taken & (c->size - 1));
    memcpy(length, record, 4), memcpy(tag, record + 4, 4);
    return record + RECORD_HEADER_SIZE;
}

static ssize_t tap_read(int fd, void *to, size_t size);
static ssize_t tap_write(int fd, const void *from, size_t size);
#define read tap_read
#define write tap_write
#include "module.c"
#undef read
#undef write

#define PEERS 3
#define TURNS 40
#define WRITES 4096

#define must(condition)                                                                                      \
    do                                                                                                       \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "Found: %s\n", #condition);                                                      \
            abort();                                                                                         \
        }                                                                                                    \
    while (0)

/* ---- dice, and what the peers wrote */

static const uint8_t *shown, *shown_end;

static uint64_t throw(size_t size) {
    uint64_t value = 0;
    size_t left = (size_t)(shown_end - shown), used = left < size ? left : size;
    memcpy(&value, shown, used);
    shown += used;
    return value;
}

static uint64_t below(uint64_t limit) { return throw(limit <= 256 ? 1 : 4) % limit; }

struct peer {
    int kid;
    PyObject *window, *own, *seen; /* the peer's; ours for it; the peer's as we see it */
    PyObject *link;
    uint64_t at[RINGS]; /* what it has forged up to */
};

static struct peer peers[PEERS];
static int bell, tap;
static struct written {
    uint8_t *at;
    uint32_t size;
} written[WRITES];
static size_t writes;

static uint8_t *put_bytes(uint8_t *at, uint32_t size) {
    must(writes < WRITES);
    written[writes++] = (struct written){at, size};
    return at;
}

/* The next life finds none of it: to clear whole windows is most of the time. */
static void forget(void) {
    while (writes--)
        memset(written[writes].at, 0, written[writes].size);
    writes = 0;
}

static Window *window(PyObject *object) { return (Window *)object; }

static uint64_t near(uint64_t count, uint64_t size) {
    switch (below(8)) {
    case 0: return throw(8);
    case 1: return count + size;
    case 2: return count + size + 64 * below(3) - 64;
    case 3: return count - 64 * below(1024);
    case 4: return count + below(3) - 1;
    default: return count + 64 * below(64);
    }
}

static void lie(struct peer *peer) {
    uint8_t *header = window(peer->window)->header;
    int ring = (int)below(RINGS), which = (int)below(18);
    if (which < 4)
        store(slot(header, SLOT_PRODUCED + ring), near(((Link *)peer->link)->in[ring].taken, RING_SIZE[ring]));
    else if (which < 8)
        store(slot(header, SLOT_CONSUMED + ring), near(((Link *)peer->link)->out[ring].published, RING_SIZE[ring]));
    else if (which < 16) /* armed words, heartbeat, MTU */
        store(slot(header, which == 14 ? SLOT_MTU : 7 + (int)below(8)), throw(8) >> below(64));
    else
        store(slot(header, 0) + below(8), throw(8));
}

/* ---- frames */

static void be16(uint8_t *at, uint32_t value) { at[0] = (uint8_t)(value >> 8), at[1] = (uint8_t)value; }

static uint32_t packet4(uint8_t *at, uint32_t length) {
    at[0] = (uint8_t)(below(8) ? 0x45 : throw(1));
    be16(at + 2, below(8) ? length : (uint32_t)throw(2));
    be16(at + 6, below(4) ? 0 : (uint32_t)throw(2)); /* may not be cut, or is a piece */
    at[8] = 64;
    at[9] = (uint8_t[]){6, 17, 1, (uint8_t)throw(1)}[below(4)];
    memcpy(at + 12, (uint8_t[]){10, 1, 2, 3, 10, 1, 2, (uint8_t)below(5)}, 8);
    at[20 + 12] = (uint8_t)(below(4) ? 0x50 : throw(1)); /* TCP's offset of its data */
    at[20 + 13] = (uint8_t)throw(1);
    be16(at + 20 + 4, (uint32_t)throw(2)); /* UDP's length */
    return 20;
}

static uint32_t packet6(uint8_t *at, uint32_t length) {
    at[0] = (uint8_t)(below(8) ? 0x60 : throw(1));
    be16(at + 4, below(8) ? length - 40 : (uint32_t)throw(2));
    at[6] = (uint8_t[]){6, 17, 58, 44, 0, (uint8_t)throw(1)}[below(6)];
    at[7] = 64;
    at[40 + 12] = (uint8_t)(below(4) ? 0x50 : throw(1));
    return 40;
}

/* A frame of `size` bytes with its vnet header, of which at most the first 128 are not 0. */
static void make_frame(uint8_t *frame, uint32_t size) {
    uint8_t work[256] = {0}, *at = work + VNET_HEADER_SIZE;
    uint32_t start = ETHERNET_HEADER_SIZE, network = 20;
    if (below(8))
        memcpy(at, MAC_PREFIX, 5), at[5] = (uint8_t)(below(8) ? below(5) : throw(1));
    else
        memset(at, below(2) ? 0xff : 0x33, 6);
    memcpy(at + 6, MAC_PREFIX, 5), at[11] = (uint8_t)below(5);
    if (below(8) == 0)
        be16(at + 12, 0x8100), start = 18;
    switch (below(4)) {
    case 0: be16(at + start - 2, (uint32_t)throw(2)); break;
    case 1: be16(at + start - 2, 0x86dd), network = packet6(at + start, size - VNET_HEADER_SIZE - start); break;
    default: be16(at + start - 2, 0x0800), network = packet4(at + start, size - VNET_HEADER_SIZE - start);
    }
    if (below(3) == 0) {
        struct vnet vnet = {.flags = 1, .checksum_start = (uint16_t)(start + network), .checksum_offset = 16};
        vnet.gso_type = (uint8_t)(uint8_t[]){0, 1, 4, 5, 0x81, (uint8_t)throw(1)}[below(6)];
        vnet.header_size = (uint16_t)(start + network + 20);
        vnet.gso_size = (uint16_t)(below(4) ? 1448 : throw(2));
        memcpy(work, &vnet, sizeof vnet);
    }
    for (uint64_t changes = below(4); changes; changes--)
        work[below(96)] = (uint8_t)throw(1);
    memcpy(frame, work, size < 128 ? size : 128);
}

static uint32_t frame_size(void) {
    switch (below(8)) {
    case 0: return (uint32_t)below(FRAME_RECORD_MAX + 3);
    case 1: return FRAME_RECORD_MAX - (uint32_t)below(3);
    case 2: return FRAME_RECORD_MIN - 2 + (uint32_t)below(4);
    case 3: return VNET_HEADER_SIZE + 1400 + (uint32_t)below(200);
    default: return VNET_HEADER_SIZE + 14 + (uint32_t)below(256);
    }
}

/* Records one behind the other, as a good peer writes them but for what the dice want; then made known. */
static void forge(struct peer *peer, int ring) {
    uint64_t released = ((Link *)peer->link)->in[ring].released, *at = &peer->at[ring];
    for (uint64_t n = 1 + below(12); n; n--) {
        uint32_t size = ring == FRAMES ? frame_size() : (uint32_t)below(below(4) ? 300 : PAYLOAD_MAX[ring] + 1);
        if (size > PAYLOAD_MAX[ring] || *at + span_of(size) - released > RING_SIZE[ring])
            break;
        uint8_t *record = window(peer->window)->data[ring] + (*at & (RING_SIZE[ring] - 1));
        put_bytes(record, RECORD_HEADER_SIZE + (size < 128 ? size : 128));
        uint32_t told = below(16) ? size : size + (uint32_t)throw(4), tag = (uint32_t)throw(1);
        memcpy(record, &told, 4), memcpy(record + 4, &tag, 4);
        if (ring == FRAMES)
            make_frame(record + RECORD_HEADER_SIZE, size);
        *at += span_of(size);
    }
    store(slot(window(peer->window)->header, SLOT_PRODUCED + ring), *at);
}

/* ---- the guest */

static uint64_t sum, from_guest;

static ssize_t tap_read(int fd, void *to, size_t size) {
    if (fd != tap)
        return read(fd, to, size);
    if (!from_guest) {
        errno = EAGAIN;
        return -1;
    }
    from_guest--;
    uint32_t told = frame_size();
    told = told < size ? told : (uint32_t)size;
    memset(to, 0, told);
    make_frame(to, told);
    return told ? told : 1;
}

static ssize_t tap_write(int fd, const void *from, size_t size) {
    if (fd != tap)
        return write(fd, from, size);
    must(size >= FRAME_RECORD_MIN && size <= FRAME_RECORD_MAX);
    struct vnet vnet = vnet_load(from);
    must(vnet_sane(&vnet, (uint32_t)size));
    for (size_t i = 0; i < size; i++)
        sum += ((const volatile uint8_t *)from)[i];
    if (below(32))
        return (ssize_t)size;
    errno = (int[]){EIO, EINVAL, ENOBUFS, EBADFD}[below(4)];
    return -1;
}

/* ---- Python */

/* What a call came to; an exception has to be one of those that a peer may cause. */
static void seen(PyObject *result) {
    if (!result) {
        bool foreseen = PyErr_ExceptionMatches(violation_error) || PyErr_ExceptionMatches(closed_error) ||
                        PyErr_ExceptionMatches(PyExc_ValueError);
        if (!foreseen)
            PyErr_Print();
        must(foreseen);
        PyErr_Clear();
    }
    Py_XDECREF(result);
}

#define CALL(object, ...) seen(PyObject_CallMethod((PyObject *)(object), __VA_ARGS__))

static void new_link(struct peer *peer) {
    Py_CLEAR(peer->link);
    uint64_t start = below(2) ? 0 : 0ull - 64 * below(4096);
    for (int i = 1; i <= SLOT_MTU; i++) {
        bool counts = i < SLOT_ARMED_DATA;
        store(slot(window(peer->own)->header, i), counts ? start : 0);
        store(slot(window(peer->window)->header, i), counts ? start : 0);
    }
    for (int ring = 0; ring < RINGS; ring++)
        peer->at[ring] = start;
    peer->link = PyObject_CallFunction((PyObject *)link_type, "OOii", peer->own, peer->seen, bell, bell);
    must(peer->link);
}

static void check_link(struct peer *peer) {
    Link *link = (Link *)peer->link;
    int fault = atomic_load(&link->fault);
    must((fault & 0xff) <= FAULT_FRAME_LENGTH && fault >> 8 < RINGS);
    for (int ring = 0; ring < RINGS; ring++) {
        must(link->out[ring].staged - link->out[ring].consumed_seen <= RING_SIZE[ring]);
        must(link->in[ring].taken - link->in[ring].released <= RING_SIZE[ring]);
    }
}

/* What the daemon does now and then. */
static void call_pump(Pump *pump, struct peer *peer) {
    char frame[256] = {0};
    static const char *const MODES[] = {"poll", "adaptive", "interrupt"};
    struct impair_config config = {.seed = throw(1), .delay_ns = below(2) * 1000 * throw(2)};
    switch (below(13)) {
    case 0:
        new_link(peer);
        CALL(pump, "attach", "iO", peer->kid, peer->link);
        break;
    case 1: CALL(pump, "detach", "i", peer->kid); break;
    case 2:
        make_frame((uint8_t *)frame, sizeof frame);
        CALL(pump, "inject", "y#i", frame + VNET_HEADER_SIZE, (Py_ssize_t)below(sizeof frame - VNET_HEADER_SIZE),
             (int)below(2));
        break;
    case 3: CALL(pump, "set_link_up", "i", (int)below(4) != 0); break;
    case 4: CALL(pump, "set_mode", "is", peer->kid, MODES[below(3)]); break;
    case 5: CALL(pump, "set_mtu", "i", (int)below(1 << 16)); break;
    case 6: CALL(pump, "counters", NULL); break;
    case 7: CALL(pump, "wanted", NULL), CALL(pump, "violations", NULL); break;
    case 8: /* a capture of it all, or of the first bytes of each */
        if (pump->opened_ever < 2)
            CALL(pump, "capture_open", "nnzKi", (Py_ssize_t)(1 << below(20)), (Py_ssize_t)below(200), NULL, 0ull, bell);
        break;
    case 9:
        if (pump->captures)
            CALL(pump, "capture_blocks", "iIn", pump->captures->id, 0u, (Py_ssize_t)65536),
                CALL(pump, "capture_read", "ii", pump->captures->id, (int)below(8));
        break;
    case 10:
        if (pump->captures)
            CALL(pump, "capture_divert", "iii", pump->captures->id, (int)below(2), (int)below(2));
        break;
    case 11:
        config.jitter_ns = 0;
        config.duplicate = below(2) << 52, config.corrupt = below(2) << 52, config.loss_good = below(2) << 51;
        config.rate_bps = below(2) * 1000000, config.limit_ns = 1000000 * throw(1);
        CALL(pump, "impair", "iiy#y#zK", (int)below(3), peer->kid, &config, (Py_ssize_t)sizeof config, "",
             (Py_ssize_t)0, NULL, 0ull);
        break;
    default: CALL(pump, "impair_down", "iii", (int)below(3), peer->kid, (int)below(2));
    }
}

static void live_as_pump(void) {
    static const int MTUS[] = {0, 68, 576, 1500, 9000, 65535};
    bool relay = below(3) == 0;
    Pump *pump = (Pump *)PyObject_CallFunction((PyObject *)pump_type, "iiiiiiiii", tap, bell, bell, relay ? 0 : 1, relay,
                                               (int)(1 + below(64)), 0, MTUS[below(6)], (int)below(2));
    must(pump);
    int given = tap;
    tap = pump->tap; /* it has a copy */
    for (int i = 0; i < PEERS; i++) {
        peers[i].kid = relay ? i + 1 : (i ? i + 1 : 0);
        new_link(&peers[i]);
        CALL(pump, "attach", "iO", peers[i].kid, peers[i].link);
    }
    for (uint64_t turns = 1 + below(TURNS); turns; turns--) {
        struct peer *peer = &peers[below(PEERS)];
        uint8_t *its = window(peer->window)->header;
        switch (below(10)) {
        case 0: lie(peer); break;
        case 1:
        case 2:
        case 3: forge(peer, FRAMES); break;
        case 4:
        case 5: from_guest = below(20); break;
        case 6: store(slot(its, SLOT_CONSUMED + FRAMES), ((Link *)peer->link)->out[FRAMES].published); break;
        case 7: time_ns += (uint64_t[]){100, 1000000, 30000000, STALL_NS, 2000000000}[below(5)]; break;
        default: call_pump(pump, peer);
        }
        gate_enter(&pump->gate);
        for (int rounds = 0; rounds < 8 && pump_once(pump); rounds++)
            ;
        if (below(4) == 0) {
            kick(pump->control); /* so it does not sleep long */
            sleep_until_kicked(pump);
        }
        gate_leave(&pump->gate);
        for (int i = 0; i < PEERS; i++)
            check_link(&peers[i]);
    }
    from_guest = 0;
    Py_DECREF((PyObject *)pump);
    tap = given;
}

static void call_link(struct peer *peer, PyObject *pipe) {
    static char bytes[1 << 17];
    int ring = (int)below(RINGS);
    Py_ssize_t size = (Py_ssize_t)(below(4) ? below(300) : below(sizeof bytes));
    switch (below(14)) {
    case 0: CALL(peer->link, "receive", "i", ring); break;
    case 1: CALL(peer->link, "receive_many", "ii", ring, (int)below(70)); break;
    case 2: CALL(peer->link, "send", "iy#I", ring, bytes, size, (unsigned)throw(4)); break;
    case 3: CALL(peer->link, "stage", "iy#", ring, bytes, size); break;
    case 4: CALL(peer->link, "publish", "i", ring); break;
    case 5: CALL(peer->link, "arm", "i", ring), CALL(peer->link, "disarm", "i", ring); break;
    case 6: CALL(peer->link, "arm_room", "in", ring, size), CALL(peer->link, "disarm_room", "i", ring); break;
    case 7: CALL(peer->link, "send_many", "i((Iy#)(Iy#))", ring, 1u, bytes, size, 2u, bytes, size); break;
    case 8: CALL(pipe, "receive", NULL); break;
    case 9: CALL(pipe, "receive_many", "i", (int)below(70)); break;
    case 10: CALL(pipe, "send", "y#", bytes, size); break;
    case 11: CALL(peer->link, "counters", NULL), CALL(peer->link, "position", "i", ring); break;
    case 12: CALL(peer->seen, "words", NULL), CALL(peer->own, "beat", NULL); break;
    default:
        seen(PyObject_GetAttrString(peer->seen, below(2) ? "heartbeat" : "generation"));
        seen(PyObject_GetAttrString(peer->link, "violation"));
    }
}

/* A window as a peer might hand it over: another size, without a seal, another header. */
static void odd_window(void) {
    int fd = memfd_create("odd", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    must(fd >= 0 && ftruncate(fd, (off_t)(below(2) ? WINDOW_SIZE : throw(3))) == 0);
    uint64_t header[8] = {below(2) ? MAGIC : throw(8), below(2) ? VERSION : throw(8)};
    must(pwrite(fd, header, sizeof header, 0) >= 0);
    fcntl(fd, F_ADD_SEALS, (int)(F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE) & (below(2) ? 31 : (int)throw(1)));
    seen(PyObject_CallFunction((PyObject *)window_type, "ii", fd, 0));
    close(fd);
}

static void live_as_link(void) {
    struct peer *peer = &peers[0];
    new_link(peer);
    int ring = (int)below(RINGS);
    PyObject *pipe = PyObject_CallMethod(peer->link, "plain", "i", ring);
    must(pipe);
    if (below(8) == 0)
        odd_window();
    for (uint64_t turns = 1 + below(TURNS); turns && !atomic_load(&((Link *)peer->link)->fault); turns--) {
        if (below(4) == 0)
            lie(peer);
        if (below(2) == 0)
            forge(peer, below(2) ? ring : (int)below(RINGS));
        if (below(4) == 0)
            store(slot(window(peer->window)->header, SLOT_CONSUMED + ring), ((Link *)peer->link)->out[ring].published);
        call_link(peer, pipe);
        check_link(peer);
    }
    call_link(peer, pipe); /* once more, after a violation */
    if (below(8) == 0)
        CALL(peer->link, "close", NULL), call_link(peer, pipe);
    Py_DECREF(pipe);
}

static void make_windows(struct peer *peer) {
    int fd = memfd_create("window", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int ours = memfd_create("own", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    must(fd >= 0 && ours >= 0 && ftruncate(fd, WINDOW_SIZE) == 0 && ftruncate(ours, WINDOW_SIZE) == 0);
    peer->window = PyObject_CallFunction((PyObject *)window_type, "ii", fd, 1);
    peer->own = PyObject_CallFunction((PyObject *)window_type, "ii", ours, 1);
    must(peer->window && peer->own);
    CALL(peer->window, "initialise", "III", 2u, 1u, 1u);
    must(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE) == 0);
    peer->seen = PyObject_CallFunction((PyObject *)window_type, "ii", fd, 0);
    must(peer->seen);
    close(fd), close(ours);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    careless = getenv("CARELESS") != NULL;
    PyImport_AppendInittab("popnet_native", PyInit__native);
    Py_InitializeEx(0);
    must(PyImport_ImportModule("popnet_native"));
    bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), tap = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    for (int i = 0; i < PEERS; i++)
        make_windows(&peers[i]);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    shown = bytes, shown_end = bytes + size;
    time_ns = 1000000000;
    if (below(4))
        live_as_pump();
    else
        live_as_link();
    for (int i = 0; i < PEERS; i++)
        Py_CLEAR(peers[i].link);
    forget();
    return 0;
}
