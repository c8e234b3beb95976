/*
 * Windows, links and the frame pump: the only C of popnet, and the only place that touches shared memory.
 *
 * THEORY OF OPERATION
 * ===================
 *
 * A link joins two kernels. Each of the two owns one window, a sealed memfd that it alone has mapped
 * writable; the other maps it read-only. So nobody can write what another kernel owns: a crashed or mad peer
 * can only let us read nonsense. Each window carries three rings (high, normal, frames) that its owner
 * produces, and all the words its owner writes:
 *
 *   word (64 bit, own 128-byte slot)    written by                        read by
 *   produced[ring]                      owner, producing this ring        peer, to find records
 *   consumed[ring]                      owner, consuming the PEER's ring  peer, to find room
 *   armed_data[ring]                    owner, before sleeping for data   peer, after it published
 *   armed_room[ring]                    owner, before sleeping for room   peer, after it consumed
 *   heartbeat                           owner, at its pace                anybody
 *
 * produced and consumed count bytes and only grow (modulo 2^64); the ring is full when produced - consumed ==
 * its size. A record is u32 length, u32 tag, payload, padded to a cache line. Data areas are mapped twice
 * back to back, so a record is contiguous wherever it starts. Producer and consumer keep their own positions
 * privately; the words merely publish them.
 *
 *   producer                                              consumer
 *   --------                                              --------
 *   room?  load-acquire consumed, check it                 data?  load-acquire produced, check it
 *   stage: write the record past `published`               take:  load length ONCE, check it, use the payload
 *   publish: store-release produced                        release: store-release consumed
 *   FENCE; load armed_data; kick if new                    FENCE; load armed_room; kick if new and half empty
 *   wait: arm for room, FENCE, look again, sleep           wait: arm for data, FENCE, look again, sleep
 *
 * The doorbell. Each side stores its own word, fences (seq_cst) and only then loads the other's. At least one
 * of the two therefore sees the other's store: the sleeper finds the record, or the publisher finds it armed.
 * Without either fence or without the second look a wake-up is lost (tests/model proves both). The peer
 * cannot clear our armed word, so each arming stores a new sequence number and the peer remembers the last
 * one it kicked for: one kick for one arming. A kick may be early or spurious; whoever wakes must look, and
 * arm again before sleeping again.
 *
 * Forbidden, and why
 *   - loading a word, length or tag of the peer's window twice: it may change in between. Load once, check,
 *     use the copy.
 *   - staging over bytes the consumer has not released: it may be reading them. (Room is computed from
 *     `consumed`.)
 *   - publishing without the fence before the look at armed_data; arming without the fence before the second
 *     look.
 *   - a consumer that releases without looking at armed_room: the producer may sleep forever.
 *   - trusting the peer's header: its layout is compiled in, the header is only compared at attach.
 *   - blocking on a peer: a doorbell is a non-blocking eventfd, and EAGAIN there means that it is rung
 *     already.
 *
 * What the peer did wrong is a violation: recorded once in the link, which then refuses all work (Violation).
 *
 * Threads. The high and normal rings of a link belong to Python code (its calls hold the GIL and never
 * release it inside); the frames ring belongs to the pump's thread while the link is attached to a pump, else
 * to Python too. The two share nothing of the link but `fault` and `closed`, which are atomic, and the
 * windows, which live until both let go.
 *
 * A window serves one link: sequence numbers of arming start anew with each, and must not repeat.
 *
 * Known and accepted: a peer can see frames for others that were read into its ring on a wrong guess, until
 * overwritten; and one that makes its own doorbell blocking and fills it to the brim can hang whoever kicks
 * it, which the hung kernel's heartbeat then shows (both share the open file, and with it that flag).
 */

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef F_GET_SEALS
#define F_GET_SEALS 1034
#define F_SEAL_SEAL 0x0001
#define F_SEAL_SHRINK 0x0002
#define F_SEAL_GROW 0x0004
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "popnet's windows need lock-free 64-bit loads from read-only memory: x86_64 or aarch64"
#endif

/* ------------------------------------------------------------------------------------- layout of a window */

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
enum { SLOT_PRODUCED = 1, SLOT_CONSUMED = 4, SLOT_ARMED_DATA = 7, SLOT_ARMED_ROOM = 10, SLOT_HEARTBEAT = 13 };

static uint64_t load(const word *from) { return atomic_load_explicit((word *)from, memory_order_acquire); }
static void store(word *to, uint64_t value) { atomic_store_explicit(to, value, memory_order_release); }
static void fence(void) { atomic_thread_fence(memory_order_seq_cst); }

static word *slot(uint8_t *header, int index) { return (word *)(header + index * SLOT_SIZE); }

/* ----------------------------------------------------------------------------------- windows: the mapping */

typedef struct {
    PyObject_HEAD
    uint8_t *header;      /* start of the address range; NULL: not mapped */
    uint8_t *data[RINGS]; /* start of each double mapping */
    bool writable;
} Window;

static PyTypeObject *window_type; /* the module is created once a process: single-phase initialisation */

static bool map_part(uint8_t *at, size_t size, int fd, off_t offset, bool writable) {
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    return mmap(at, size, protection, MAP_SHARED | MAP_FIXED, fd, offset) != MAP_FAILED;
}

/* Reserve the whole address range, then put header and rings into it; false with errno set. */
static bool map_window(Window *self, int fd) {
    uint8_t *base = mmap(NULL, ADDRESS_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return false;
    self->header = base;
    bool mapped = map_part(base, HEADER_SIZE, fd, 0, self->writable);
    uint8_t *at = base + HEADER_SIZE;
    for (int ring = 0; ring < RINGS && mapped; ring++) {
        self->data[ring] = at;
        for (int copy = 0; copy < 2 && mapped; copy++, at += RING_SIZE[ring])
            mapped = map_part(at, RING_SIZE[ring], fd, RING_OFFSET[ring], self->writable);
    }
    return mapped;
}

/* A peer's memfd can hurt us if it shrinks (SIGBUS) or if we could be tricked into sharing a writable one. */
static const char *why_unfit(int fd, bool writable) {
    struct stat status;
    if (fstat(fd, &status) < 0)
        return NULL; /* errno speaks, at mmap */
    if (!S_ISREG(status.st_mode) || status.st_size != (off_t)WINDOW_SIZE)
        return "not the size of a window";
    if (writable)
        return NULL;
    int seals = fcntl(fd, F_GET_SEALS);
    int wanted = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE;
    if (seals < 0 || (seals & wanted) != wanted)
        return "not sealed against shrinking, growing, writing and unsealing";
    return NULL;
}

static PyObject *window_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {"fd", "writable", NULL};
    int fd, writable;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "ip", names, &fd, &writable))
        return NULL;
    const char *unfit = why_unfit(fd, writable);
    if (unfit) {
        PyErr_SetString(PyExc_ValueError, unfit);
        return NULL;
    }
    Window *self = (Window *)PyType_GenericAlloc(type, 0);
    if (!self)
        return NULL;
    self->writable = writable;
    if (!map_window(self, fd)) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    word *header = slot(self->header, 0);
    if (!writable && (load(&header[HEADER_MAGIC]) != MAGIC || load(&header[HEADER_VERSION]) != VERSION)) {
        PyErr_SetString(PyExc_ValueError, "not a window of this version (magic or version differs)");
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void free_object(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static void window_dealloc(PyObject *object) {
    Window *self = (Window *)object;
    if (self->header)
        munmap(self->header, ADDRESS_SIZE);
    free_object(object);
}

static bool require_writable(const Window *self) {
    if (!self->writable)
        PyErr_SetString(PyExc_ValueError, "this window belongs to the peer: it is mapped read-only");
    return self->writable;
}

static PyObject *window_initialise(PyObject *object, PyObject *args, PyObject *keywords) {
    static char *names[] = {"kid", "generation", "peer_kid", NULL};
    Window *self = (Window *)object;
    unsigned int kid, generation, peer_kid;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "III", names, &kid, &generation, &peer_kid) ||
        !require_writable(self))
        return NULL;
    word *header = slot(self->header, 0);
    store(&header[HEADER_VERSION], VERSION);
    store(&header[HEADER_KID], kid);
    store(&header[HEADER_GENERATION], generation);
    store(&header[HEADER_PEER_KID], peer_kid);
    for (int ring = 0; ring < RINGS; ring++)
        store(&header[HEADER_RING_SIZE + ring], RING_SIZE[ring]);
    store(&header[HEADER_MAGIC], MAGIC);
    Py_RETURN_NONE;
}

static PyObject *window_beat(PyObject *object, PyObject *unused) {
    (void)unused;
    Window *self = (Window *)object;
    if (!require_writable(self))
        return NULL;
    word *heartbeat = slot(self->header, SLOT_HEARTBEAT);
    store(heartbeat, load(heartbeat) + 1);
    Py_RETURN_NONE;
}

static PyObject *window_get_heartbeat(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(load(slot(((Window *)object)->header, SLOT_HEARTBEAT)));
}

static PyObject *window_get_header(PyObject *object, void *index) {
    return PyLong_FromUnsignedLongLong(load(slot(((Window *)object)->header, 0) + (intptr_t)index));
}

static bool set_number(PyObject *dict, const char *name, uint64_t value) {
    PyObject *number = PyLong_FromUnsignedLongLong(value);
    bool done = number && PyDict_SetItemString(dict, name, number) == 0;
    Py_XDECREF(number);
    return done;
}

/* The name and byte offset of every word: for statistics, and for tests that write garbage there. */
struct word_name {
    const char *name;
    int slot;
};
static const struct word_name WORD_NAMES[] = {
    {"produced_high", SLOT_PRODUCED + HIGH},
    {"produced_normal", SLOT_PRODUCED + NORMAL},
    {"produced_frames", SLOT_PRODUCED + FRAMES},
    {"consumed_high", SLOT_CONSUMED + HIGH},
    {"consumed_normal", SLOT_CONSUMED + NORMAL},
    {"consumed_frames", SLOT_CONSUMED + FRAMES},
    {"armed_data_high", SLOT_ARMED_DATA + HIGH},
    {"armed_data_normal", SLOT_ARMED_DATA + NORMAL},
    {"armed_data_frames", SLOT_ARMED_DATA + FRAMES},
    {"armed_room_high", SLOT_ARMED_ROOM + HIGH},
    {"armed_room_normal", SLOT_ARMED_ROOM + NORMAL},
    {"armed_room_frames", SLOT_ARMED_ROOM + FRAMES},
    {"heartbeat", SLOT_HEARTBEAT},
};
#define WORD_COUNT (sizeof WORD_NAMES / sizeof *WORD_NAMES)

static PyObject *window_words(PyObject *object, PyObject *unused) {
    (void)unused;
    Window *self = (Window *)object;
    PyObject *words = PyDict_New();
    for (size_t i = 0; words && i < WORD_COUNT; i++)
        if (!set_number(words, WORD_NAMES[i].name, load(slot(self->header, WORD_NAMES[i].slot))))
            Py_CLEAR(words);
    return words;
}

/* Where byte `offset` of the memfd is mapped: ring data areas are farther apart in memory than in the file.
*/
static uint8_t *byte_at(Window *self, uint32_t offset) {
    for (int ring = RINGS - 1; ring >= 0; ring--)
        if (offset >= RING_OFFSET[ring])
            return self->data[ring] + (offset - RING_OFFSET[ring]);
    return self->header + offset;
}

static PyObject *window_poke(PyObject *object, PyObject *args) {
    Window *self = (Window *)object;
    unsigned int offset;
    Py_buffer bytes;
    if (!PyArg_ParseTuple(args, "Iy*", &offset, &bytes))
        return NULL;
    bool fits = offset <= WINDOW_SIZE && (size_t)bytes.len <= WINDOW_SIZE - offset;
    if (!fits)
        PyErr_SetString(PyExc_ValueError, "outside the window");
    if (fits && require_writable(self))
        for (Py_ssize_t i = 0; i < bytes.len; i++)
            *(volatile uint8_t *)byte_at(self, offset + (uint32_t)i) = ((const uint8_t *)bytes.buf)[i];
    PyBuffer_Release(&bytes);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef window_methods[] = {
    {"initialise", (PyCFunction)(void (*)(void))window_initialise, METH_VARARGS | METH_KEYWORDS, NULL},
    {"beat", window_beat, METH_NOARGS, NULL},
    {"words", window_words, METH_NOARGS, NULL},
    {"poke", window_poke, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef window_properties[] = {
    {"heartbeat", window_get_heartbeat, NULL, NULL, NULL},
    {"kid", window_get_header, NULL, NULL, (void *)(intptr_t)HEADER_KID},
    {"generation", window_get_header, NULL, NULL, (void *)(intptr_t)HEADER_GENERATION},
    {"peer_kid", window_get_header, NULL, NULL, (void *)(intptr_t)HEADER_PEER_KID},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot window_slots[] = {
    {Py_tp_new, window_new},
    {Py_tp_dealloc, window_dealloc},
    {Py_tp_methods, window_methods},
    {Py_tp_getset, window_properties},
    {0, NULL},
};

static PyType_Spec window_spec = {"popnet.transport._native.Window", sizeof(Window), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, window_slots};

/* --------------------------------------------------------------------------- rings: producer and consumer */

/* Counters of one ring of a link; written by whoever owns the ring, read by anybody: hence atomic, but never
 * contended. */
#define RING_COUNTERS(X)                                                                                     \
    X(sent) X(sent_bytes) X(received) X(received_bytes) X(full) X(kicks) X(kicks_suppressed) X(room_kicks)

struct ring_counters {
#define X(name) _Atomic uint64_t name;
    RING_COUNTERS(X)
#undef X
};

static void add(_Atomic uint64_t *counter, uint64_t amount) {
    uint64_t old = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, old + amount, memory_order_relaxed);
}

/* What a peer can do wrong. */
enum fault {
    FAULT_NONE,
    FAULT_PRODUCED_UNALIGNED,
    FAULT_PRODUCED_TOO_FAR,
    FAULT_PRODUCED_BACKWARDS,
    FAULT_CONSUMED_UNALIGNED,
    FAULT_CONSUMED_BEYOND,
    FAULT_CONSUMED_BACKWARDS,
    FAULT_LENGTH,
    FAULT_FRAME_LENGTH,
};
static const char *const FAULT_TEXT[] = {
    [FAULT_NONE] = "",
    [FAULT_PRODUCED_UNALIGNED] = "produced is not a multiple of 64",
    [FAULT_PRODUCED_TOO_FAR] = "produced is more than a ring ahead of consumed",
    [FAULT_PRODUCED_BACKWARDS] = "produced went backwards",
    [FAULT_CONSUMED_UNALIGNED] = "consumed is not a multiple of 64",
    [FAULT_CONSUMED_BEYOND] = "consumed is beyond what was produced",
    [FAULT_CONSUMED_BACKWARDS] = "consumed went backwards",
    [FAULT_LENGTH] = "a record is longer than what was published or allowed",
    [FAULT_FRAME_LENGTH] = "a frame is shorter than its headers",
};

typedef _Atomic int fault_cell; /* 0, or ring << 8 | enum fault; the first fault stays */

static void set_fault(fault_cell *cell, int ring, enum fault fault) {
    int none = FAULT_NONE;
    atomic_compare_exchange_strong(cell, &none, ring << 8 | (int)fault);
}

/* Our end of a ring in our own window. staged >= published >= consumed_seen, all within one ring size. */
struct producer {
    uint8_t *data;
    uint64_t size;
    word *produced, *armed_room;       /* ours */
    const word *consumed, *armed_data; /* the peer's */
    uint64_t staged, published;        /* staged is private until published */
    uint64_t consumed_seen;            /* the last `consumed` that passed its checks */
    uint64_t arm_sequence, kicked_for; /* ours for room; the peer's for data that was last kicked for */
    int bell, ring;
    fault_cell *fault;
    struct ring_counters *counters;
};

/* Our end of a ring in the peer's window. produced_seen >= taken >= released, all within one ring size. */
struct consumer {
    const uint8_t *data;
    uint64_t size;
    uint32_t payload_max;
    const word *produced, *armed_room; /* the peer's */
    word *consumed, *armed_data;       /* ours */
    uint64_t taken, released;          /* taken is private until released */
    uint64_t produced_seen;            /* the last `produced` that passed its checks */
    uint64_t arm_sequence, kicked_for; /* ours for data; the peer's for room that was last kicked for */
    int bell, ring;
    fault_cell *fault;
    struct ring_counters *counters;
};

static uint64_t span_of(uint32_t payload_size) {
    return ((uint64_t)payload_size + RECORD_HEADER_SIZE + RECORD_ALIGN - 1) & ~(uint64_t)(RECORD_ALIGN - 1);
}

/* The peer's eventfd. EAGAIN: its count is at the brim, so it is rung anyway; any other error: the peer is
 * gone. */
static void kick(int bell) {
    uint64_t one = 1;
    ssize_t written = bell < 0 ? 0 : write(bell, &one, sizeof one);
    (void)written;
}

/* ---- producing */

/* Load the peer's `consumed`, once, and believe it only if it lies between what we knew and what we
 * published. */
static bool producer_look(struct producer *p) {
    uint64_t consumed = load(p->consumed);
    uint64_t unconsumed = p->published - consumed;
    if (consumed % RECORD_ALIGN)
        set_fault(p->fault, p->ring, FAULT_CONSUMED_UNALIGNED);
    else if (unconsumed > p->size)
        set_fault(p->fault, p->ring, FAULT_CONSUMED_BEYOND);
    else if (unconsumed > p->published - p->consumed_seen)
        set_fault(p->fault, p->ring, FAULT_CONSUMED_BACKWARDS);
    else {
        p->consumed_seen = consumed;
        return true;
    }
    return false;
}

static uint64_t producer_free(const struct producer *p) { return p->size - (p->staged - p->consumed_seen); }

/* Where the payload of the next record goes, if `payload_size` bytes fit; else NULL (full, or a fault). */
static uint8_t *producer_reserve(struct producer *p, uint32_t payload_size) {
    uint64_t span = span_of(payload_size);
    if (producer_free(p) < span && (!producer_look(p) || producer_free(p) < span))
        return NULL;
    return p->data + (p->staged & (p->size - 1)) + RECORD_HEADER_SIZE;
}

/* The reserved payload is written: make it a record. Still private. */
static void producer_stage(struct producer *p, uint32_t payload_size, uint32_t tag) {
    uint32_t header[2] = {payload_size, tag};
    memcpy(p->data + (p->staged & (p->size - 1)), header, sizeof header);
    p->staged += span_of(payload_size);
    add(&p->counters->sent, 1);
    add(&p->counters->sent_bytes, payload_size);
}

/* Make all staged records visible, and wake the peer if it asked for that and has not been woken since. */
static void producer_publish(struct producer *p) {
    if (p->published == p->staged)
        return;
    p->published = p->staged;
    store(p->produced, p->published);
    fence();
    uint64_t armed = load(p->armed_data);
    if (armed == 0 || armed == p->kicked_for) {
        add(&p->counters->kicks_suppressed, 1);
        return;
    }
    p->kicked_for = armed;
    add(&p->counters->kicks, 1);
    kick(p->bell);
}

/* Ask to be woken for room. Must be followed by a fence and a look. */
static void producer_declare(struct producer *p) { store(p->armed_room, ++p->arm_sequence); }

static void producer_disarm(struct producer *p) { store(p->armed_room, 0); }

/* True: sleep now; false: there is room (or a fault), do not sleep. */
static bool producer_arm(struct producer *p, uint32_t payload_size) {
    producer_declare(p);
    fence();
    bool sane = producer_look(p);
    if (sane && producer_free(p) < span_of(payload_size))
        return true;
    producer_disarm(p);
    return false;
}

/* ---- consuming */

/* Load the peer's `produced`, once, and believe it only if it lies between what we knew and one ring past
 * `released`. */
static bool consumer_look(struct consumer *c) {
    uint64_t produced = load(c->produced);
    uint64_t unreleased = produced - c->released;
    if (produced % RECORD_ALIGN)
        set_fault(c->fault, c->ring, FAULT_PRODUCED_UNALIGNED);
    else if (unreleased > c->size)
        set_fault(c->fault, c->ring, FAULT_PRODUCED_TOO_FAR);
    else if (unreleased < c->produced_seen - c->released)
        set_fault(c->fault, c->ring, FAULT_PRODUCED_BACKWARDS);
    else {
        c->produced_seen = produced;
        return true;
    }
    return false;
}

/* The payload of the next record and its length and tag; NULL if there is none, or a fault. */
static const uint8_t *consumer_peek(struct consumer *c, uint32_t *length, uint32_t *tag) {
    if (c->produced_seen == c->taken && (!consumer_look(c) || c->produced_seen == c->taken))
        return NULL;
    const uint8_t *record = c->data + (c->taken & (c->size - 1));
    half_word *header = (half_word *)record;
    *length = atomic_load_explicit(&header[0], memory_order_relaxed);
    *tag = atomic_load_explicit(&header[1], memory_order_relaxed);
    if (*length > c->payload_max || span_of(*length) > c->produced_seen - c->taken) {
        set_fault(c->fault, c->ring, FAULT_LENGTH);
        return NULL;
    }
    return record + RECORD_HEADER_SIZE;
}

/* Done with the record that was peeked. Its space is the producer's again only after the release. */
static void consumer_take(struct consumer *c, uint32_t length) {
    c->taken += span_of(length);
    add(&c->counters->received, 1);
    add(&c->counters->received_bytes, length);
}

/* Give the space of all taken records back, and wake the producer if it waits for room and has a good half of
 * the ring. */
static void consumer_release(struct consumer *c) {
    if (c->released == c->taken)
        return;
    c->released = c->taken;
    store(c->consumed, c->released);
    fence();
    uint64_t armed = load(c->armed_room);
    if (armed == 0 || armed == c->kicked_for)
        return;
    uint64_t used = load(c->produced) - c->released; /* nonsense here only makes a kick early or spares one */
    if (used > c->size - WAKE_FREE(c->size))
        return;
    c->kicked_for = armed;
    add(&c->counters->room_kicks, 1);
    kick(c->bell);
}

static void consumer_disarm(struct consumer *c) { store(c->armed_data, 0); }

/* Ask to be woken for data. Must be followed by a fence and a look. */
static void consumer_declare(struct consumer *c) { store(c->armed_data, ++c->arm_sequence); }

/* True: sleep now; false: there is data (or a fault), do not sleep. */
static bool consumer_arm(struct consumer *c) {
    consumer_declare(c);
    fence();
    if (consumer_look(c) && c->produced_seen == c->taken)
        return true;
    consumer_disarm(c);
    return false;
}

/* -------------------------------------------------------------------------------------------------- links */

typedef struct {
    PyObject_HEAD
    Window *own, *peer; /* held: they stay mapped until the link is freed */
    struct producer out[RINGS];
    struct consumer in[RINGS];
    struct ring_counters counters[RINGS];
    fault_cell fault;
    atomic_bool closed;
    bool pumped; /* the frames ring belongs to a pump (GIL) */
    int message_bell, frame_bell;
} Link;

static PyTypeObject *link_type;
static PyObject *violation_error, *closed_error;

/* A position of our own that Python code set up (only tests start anywhere but at 0). Never the peer's. */
static bool start_at(uint64_t *first, uint64_t *second, const word *from) {
    *first = *second = load(from);
    if (*first % RECORD_ALIGN)
        PyErr_SetString(PyExc_ValueError, "our own window has an unaligned position");
    return *first % RECORD_ALIGN == 0;
}

static bool link_join(Link *self, int ring) {
    uint8_t *own = self->own->header, *peer = self->peer->header;
    int bell = ring == FRAMES ? self->frame_bell : self->message_bell;
    self->out[ring] = (struct producer){
        .data = self->own->data[ring],
        .size = RING_SIZE[ring],
        .produced = slot(own, SLOT_PRODUCED + ring),
        .armed_room = slot(own, SLOT_ARMED_ROOM + ring),
        .consumed = slot(peer, SLOT_CONSUMED + ring),
        .armed_data = slot(peer, SLOT_ARMED_DATA + ring),
        .bell = bell,
        .ring = ring,
        .fault = &self->fault,
        .counters = &self->counters[ring],
    };
    self->in[ring] = (struct consumer){
        .data = self->peer->data[ring],
        .size = RING_SIZE[ring],
        .payload_max = PAYLOAD_MAX[ring],
        .produced = slot(peer, SLOT_PRODUCED + ring),
        .armed_room = slot(peer, SLOT_ARMED_ROOM + ring),
        .consumed = slot(own, SLOT_CONSUMED + ring),
        .armed_data = slot(own, SLOT_ARMED_DATA + ring),
        .bell = bell,
        .ring = ring,
        .fault = &self->fault,
        .counters = &self->counters[ring],
    };
    struct producer *out = &self->out[ring];
    struct consumer *in = &self->in[ring];
    if (!start_at(&out->staged, &out->published, out->produced) ||
        !start_at(&in->taken, &in->released, in->consumed))
        return false;
    out->consumed_seen = out->published - out->size; /* as if full: the first use looks */
    in->produced_seen = in->taken;                   /* as if empty: the same */
    return true;
}

static int duplicate(int fd) { return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3); }

static PyObject *link_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {"own", "peer", "message_bell", "frame_bell", NULL};
    PyObject *own, *peer;
    int message_bell, frame_bell;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!O!ii", names, window_type, &own, window_type, &peer,
                                     &message_bell, &frame_bell) ||
        !require_writable((Window *)own))
        return NULL;
    Link *self = (Link *)PyType_GenericAlloc(type, 0);
    if (!self)
        return NULL;
    self->own = (Window *)Py_NewRef(own);
    self->peer = (Window *)Py_NewRef(peer);
    self->message_bell = duplicate(message_bell);
    self->frame_bell = duplicate(frame_bell);
    if ((self->message_bell < 0) != (message_bell < 0) || (self->frame_bell < 0) != (frame_bell < 0)) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    for (int ring = 0; ring < RINGS; ring++)
        if (!link_join(self, ring)) {
            Py_DECREF(self);
            return NULL;
        }
    return (PyObject *)self;
}

static void close_if_open(int *fd) {
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void link_dealloc(PyObject *object) {
    Link *self = (Link *)object;
    if (self->own) {
        close_if_open(&self->message_bell);
        close_if_open(&self->frame_bell);
    }
    Py_XDECREF((PyObject *)self->own);
    Py_XDECREF((PyObject *)self->peer);
    free_object(object);
}

static PyObject *violation_text(Link *self) {
    int fault = atomic_load(&self->fault);
    return PyUnicode_FromFormat("%s ring: %s", RING_NAME[fault >> 8], FAULT_TEXT[fault & 0xff]);
}

static bool raise_violation(Link *self) {
    PyObject *text = violation_text(self);
    if (text)
        PyErr_SetObject(violation_error, text);
    Py_XDECREF(text);
    return false;
}

/* May Python work on this link? Else false, with the exception set. Call it after everything that may run
Python code. */
static bool link_usable(Link *self, long ring) {
    if (atomic_load(&self->closed))
        PyErr_SetString(closed_error, "the link is closed");
    else if (atomic_load(&self->fault))
        raise_violation(self);
    else if (ring < 0 || ring >= RINGS)
        PyErr_SetString(PyExc_ValueError, "no such ring (0 high, 1 normal, 2 frames)");
    else if (ring == FRAMES && self->pumped)
        PyErr_SetString(PyExc_ValueError, "the frames ring belongs to the pump this link is attached to");
    else
        return true;
    return false;
}

/* After a refusal by the ring: was it a fault? Then raises. */
static bool link_faulted(Link *self) { return atomic_load(&self->fault) && !raise_violation(self); }

static bool payload_fits(long ring, Py_ssize_t size) {
    if (size <= (Py_ssize_t)PAYLOAD_MAX[ring])
        return true;
    PyErr_Format(PyExc_ValueError, "a payload of %zd bytes is larger than the %u that the %s ring takes",
                 size, (unsigned)PAYLOAD_MAX[ring], RING_NAME[ring]);
    return false;
}

static bool as_tag(PyObject *number, uint32_t *tag) {
    unsigned long value = PyLong_AsUnsignedLong(number);
    if (value == (unsigned long)-1 && PyErr_Occurred())
        return false;
    if (value > UINT32_MAX) {
        PyErr_SetString(PyExc_OverflowError, "a tag has 32 bits");
        return false;
    }
    *tag = (uint32_t)value;
    return true;
}

static bool as_ring(PyObject *number, long *ring) {
    *ring = PyLong_AsLong(number);
    return *ring != -1 || !PyErr_Occurred();
}

/* Stage one record: 1 done, 0 no room, -1 exception. Nothing in here runs Python code. */
static int link_stage(Link *self, long ring, const void *bytes, Py_ssize_t size, uint32_t tag) {
    if (!link_usable(self, ring) || !payload_fits(ring, size))
        return -1;
    struct producer *out = &self->out[ring];
    uint8_t *payload = producer_reserve(out, (uint32_t)size);
    if (!payload) {
        add(&out->counters->full, 1);
        return link_faulted(self) ? -1 : 0;
    }
    memcpy(payload, bytes, (size_t)size);
    producer_stage(out, (uint32_t)size, tag);
    return 1;
}

/* The same for any object with bytes in it. Acquiring its buffer may run Python code, so that comes first. */
static int link_stage_object(Link *self, long ring, PyObject *data, uint32_t tag) {
    if (PyBytes_Check(data))
        return link_stage(self, ring, PyBytes_AsString(data), PyBytes_Size(data), tag);
    Py_buffer buffer;
    if (PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE) < 0)
        return -1;
    int staged = link_stage(self, ring, buffer.buf, buffer.len, tag);
    PyBuffer_Release(&buffer);
    return staged;
}

static bool takes_arguments(const char *name, Py_ssize_t count, Py_ssize_t least, Py_ssize_t most) {
    if (count >= least && count <= most)
        return true;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd to %zd positional arguments, got %zd", name, least, most,
                 count);
    return false;
}

/* Keyword arguments follow the positional ones: `tag` may be given so, as the third argument. */
static bool only_keyword(PyObject *names, const char *name) {
    if (!names ||
        (PyTuple_Size(names) == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GetItem(names, 0), name) == 0))
        return true;
    PyErr_Format(PyExc_TypeError, "the only keyword argument is %s", name);
    return false;
}

static PyObject *link_send(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    Link *self = (Link *)object;
    long ring;
    uint32_t tag = 0;
    count += names ? PyTuple_Size(names) : 0;
    if (!takes_arguments("send", count, 2, 3) || !only_keyword(names, "tag") || !as_ring(args[0], &ring) ||
        (count == 3 && !as_tag(args[2], &tag)))
        return NULL;
    int staged = link_stage_object(self, ring, args[1], tag);
    if (staged < 0)
        return NULL;
    if (staged == 0)
        Py_RETURN_FALSE;
    producer_publish(&self->out[ring]);
    Py_RETURN_TRUE;
}

/* One (tag, bytes) of send_many. */
static int link_stage_item(Link *self, long ring, PyObject *item) {
    uint32_t tag;
    if (!PyTuple_Check(item) || PyTuple_Size(item) != 2) {
        PyErr_SetString(PyExc_TypeError, "items are tuples (tag, bytes)");
        return -1;
    }
    if (!as_tag(PyTuple_GetItem(item, 0), &tag))
        return -1;
    return link_stage_object(self, ring, PyTuple_GetItem(item, 1), tag);
}

static PyObject *link_send_many(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    Link *self = (Link *)object;
    long ring;
    if (!takes_arguments("send_many", count, 2, 2) || !as_ring(args[0], &ring) || !link_usable(self, ring))
        return NULL;
    Py_ssize_t total = PySequence_Size(args[1]), sent = 0;
    if (total < 0)
        return NULL;
    int staged = 1;
    while (sent < total && staged > 0) {
        PyObject *item = PySequence_GetItem(args[1], sent);
        staged = item ? link_stage_item(self, ring, item) : -1;
        Py_XDECREF(item);
        sent += staged > 0;
    }
    producer_publish(&self->out[ring]); /* what was staged before an exception is sent nevertheless */
    return staged < 0 ? NULL : PyLong_FromSsize_t(sent);
}

/* The next record as (tag, payload): 1, 0 if there is none, -1 exception. The ring is in order before Python
 * code may run. */
static int link_take(Link *self, long ring, PyObject **record) {
    struct consumer *in = &self->in[ring];
    uint32_t length, tag;
    const uint8_t *payload = consumer_peek(in, &length, &tag);
    if (!payload)
        return link_faulted(self) ? -1 : 0;
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)payload, length);
    if (!bytes)
        return -1;
    consumer_take(in, length);
    PyObject *number = PyLong_FromUnsignedLong(tag);
    *record = number ? PyTuple_New(2) : NULL;
    if (!*record) {
        Py_XDECREF(number);
        Py_DECREF(bytes);
        return -1;
    }
    PyTuple_SetItem(*record, 0, number);
    PyTuple_SetItem(*record, 1, bytes);
    return 1;
}

static PyObject *link_receive(PyObject *object, PyObject *number) {
    Link *self = (Link *)object;
    long ring;
    PyObject *record;
    if (!as_ring(number, &ring) || !link_usable(self, ring))
        return NULL;
    int taken = link_take(self, ring, &record);
    if (taken < 0)
        return NULL;
    if (taken == 0)
        Py_RETURN_NONE;
    consumer_release(&self->in[ring]);
    return record;
}

static PyObject *link_receive_many(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    Link *self = (Link *)object;
    long ring;
    if (!takes_arguments("receive_many", count, 2, 2) || !as_ring(args[0], &ring))
        return NULL;
    long budget = PyLong_AsLong(args[1]);
    if ((budget == -1 && PyErr_Occurred()) || !link_usable(self, ring))
        return NULL;
    PyObject *records = PyList_New(0);
    int taken = records ? 1 : -1;
    while (taken > 0 && budget-- > 0 && (taken = link_usable(self, ring) ? 1 : -1) > 0) {
        PyObject *record;
        taken = link_take(self, ring, &record);
        if (taken > 0) {
            taken = PyList_Append(records, record) == 0 ? 1 : -1;
            Py_DECREF(record);
        }
    }
    bool some = records && PyList_Size(records) > 0;
    if (taken < 0 && some && PyErr_ExceptionMatches(violation_error)) { /* hand over the good ones; the next
    call raises */
        PyErr_Clear();
        taken = 0;
    }
    consumer_release(&self->in[ring]);
    if (taken < 0)
        Py_CLEAR(records);
    return records;
}

static PyObject *link_arm(PyObject *object, PyObject *number) {
    Link *self = (Link *)object;
    long ring;
    if (!as_ring(number, &ring) || !link_usable(self, ring))
        return NULL;
    if (consumer_arm(&self->in[ring]))
        Py_RETURN_TRUE;
    if (link_faulted(self))
        return NULL;
    Py_RETURN_FALSE;
}

static PyObject *link_disarm(PyObject *object, PyObject *number) {
    Link *self = (Link *)object;
    long ring;
    if (!as_ring(number, &ring) || !link_usable(self, ring))
        return NULL;
    consumer_disarm(&self->in[ring]);
    Py_RETURN_NONE;
}

static PyObject *link_arm_room(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    Link *self = (Link *)object;
    long ring;
    if (!takes_arguments("arm_room", count, 2, 2) || !as_ring(args[0], &ring))
        return NULL;
    Py_ssize_t size = PyLong_AsSsize_t(args[1]);
    if ((size == -1 && PyErr_Occurred()) || !link_usable(self, ring) || !payload_fits(ring, size))
        return NULL;
    if (size < 0) {
        PyErr_SetString(PyExc_ValueError, "a size is not negative");
        return NULL;
    }
    if (producer_arm(&self->out[ring], (uint32_t)size))
        Py_RETURN_TRUE;
    if (link_faulted(self))
        return NULL;
    Py_RETURN_FALSE;
}

static PyObject *link_disarm_room(PyObject *object, PyObject *number) {
    Link *self = (Link *)object;
    long ring;
    if (!as_ring(number, &ring) || !link_usable(self, ring))
        return NULL;
    producer_disarm(&self->out[ring]);
    Py_RETURN_NONE;
}

/* The windows stay mapped until the last reference to the link goes: a pump may be in the middle of a frame.
*/
static PyObject *link_close(PyObject *object, PyObject *unused) {
    (void)unused;
    atomic_store(&((Link *)object)->closed, true);
    Py_RETURN_NONE;
}

static PyObject *link_get_closed(PyObject *object, void *unused) {
    (void)unused;
    return PyBool_FromLong(atomic_load(&((Link *)object)->closed));
}

static PyObject *link_get_violation(PyObject *object, void *unused) {
    (void)unused;
    Link *self = (Link *)object;
    if (atomic_load(&self->fault) == 0)
        Py_RETURN_NONE;
    return violation_text(self);
}

static bool set_ring_number(PyObject *dict, int ring, const char *what, _Atomic uint64_t *counter) {
    char name[64];
    PyOS_snprintf(name, sizeof name, "%s_%s", RING_NAME[ring], what);
    return set_number(dict, name, atomic_load_explicit(counter, memory_order_relaxed));
}

static PyObject *link_counters(PyObject *object, PyObject *unused) {
    (void)unused;
    Link *self = (Link *)object;
    PyObject *counters = PyDict_New();
    bool good = counters != NULL;
    for (int ring = 0; ring < RINGS; ring++) {
#define X(name) good = good && set_ring_number(counters, ring, #name, &self->counters[ring].name);
        RING_COUNTERS(X)
#undef X
    }
    good = good && set_number(counters, "violations", atomic_load(&self->fault) != 0);
    if (!good)
        Py_CLEAR(counters);
    return counters;
}

#define FAST(function) ((PyCFunction)(void (*)(void))(function))
static PyMethodDef link_methods[] = {
    {"send", FAST(link_send), METH_FASTCALL | METH_KEYWORDS, NULL},
    {"send_many", FAST(link_send_many), METH_FASTCALL, NULL},
    {"receive", link_receive, METH_O, NULL},
    {"receive_many", FAST(link_receive_many), METH_FASTCALL, NULL},
    {"arm", link_arm, METH_O, NULL},
    {"disarm", link_disarm, METH_O, NULL},
    {"arm_room", FAST(link_arm_room), METH_FASTCALL, NULL},
    {"disarm_room", link_disarm_room, METH_O, NULL},
    {"close", link_close, METH_NOARGS, NULL},
    {"counters", link_counters, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef link_properties[] = {
    {"violation", link_get_violation, NULL, NULL, NULL},
    {"closed", link_get_closed, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot link_slots[] = {
    {Py_tp_new, link_new},
    {Py_tp_dealloc, link_dealloc},
    {Py_tp_methods, link_methods},
    {Py_tp_getset, link_properties},
    {0, NULL},
};

static PyType_Spec link_spec = {"popnet.transport._native.Link", sizeof(Link), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, link_slots};

/* ----------------------------------------------------------------------------------------------- captures */

/*
 * A capture is a tap on one NIC: it copies what its filter accepts into a buffer that Python empties. There
 * are two halves: the pump fills one, Python parses the other, and capture_read() swaps them at the gate; so
 * neither waits while the other copies. What finds no room is counted as dropped. Frames do not know they
 * are captured.
 */

struct bpf_insn;
typedef unsigned (*bpf_filter_function)(const struct bpf_insn *, const uint8_t *, unsigned, unsigned);
#define BPF_INSN_SIZE 8

enum direction { TO_GUEST, FROM_GUEST };

struct captured {
    int64_t time_ns;
    uint32_t direction, original, kept;
    uint32_t padding;
};

struct capture {
    struct capture *next;
    int id;
    uint32_t snap_length;
    struct bpf_insn *program; /* NULL: everything */
    bpf_filter_function filter;
    int notify; /* eventfd of the reader: rung when the half being filled stops being empty */
    size_t half_size;
    uint8_t *filling, *draining;
    size_t filled;                 /* bytes in `filling`; the pump's */
    size_t drained, filled_before; /* the reader's place in `draining`, and its end; the GIL's */
    _Atomic uint64_t dropped;
    bool busy; /* a reader is at work; the GIL's */
};

static size_t captured_size(uint32_t kept) { return (sizeof(struct captured) + kept + 7) & ~(size_t)7; }

/* Copy from memory that a peer may be writing: each byte is loaded once. For headers, not for payloads. */
static void snapshot(uint8_t *to, const volatile uint8_t *from, size_t size) {
    for (size_t i = 0; i < size; i++)
        to[i] = from[i];
}

/* The Internet checksum's sum (RFC 1071) in the byte order of memory: it is the same in any. */
static uint16_t ones_sum(const uint8_t *bytes, uint32_t size) {
    uint64_t sum = 0;
    uint32_t next = 0;
    for (; size >= sizeof next; bytes += sizeof next, size -= (uint32_t)sizeof next) {
        memcpy(&next, bytes, sizeof next);
        sum += next;
    }
    next = 0;
    memcpy(&next, bytes, size);
    sum += next;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/* struct virtio_net_hdr (linux/virtio_net.h), in the byte order of the host as a TAP has it. */
enum { VNET_FLAGS = 0, VNET_CHECKSUM_START = 6, VNET_CHECKSUM_OFFSET = 8, VNET_NEEDS_CHECKSUM = 1 };

/* With checksum offload the field holds the sum of the pseudo header; we add the rest, in the copy. */
static void complete_checksum(const uint8_t *vnet_header, const uint8_t *packet, uint32_t size, uint8_t *copy,
                              uint32_t kept) {
    uint8_t header[VNET_HEADER_SIZE];
    snapshot(header, vnet_header, sizeof header);
    uint16_t start, offset;
    memcpy(&start, header + VNET_CHECKSUM_START, sizeof start);
    memcpy(&offset, header + VNET_CHECKSUM_OFFSET, sizeof offset);
    uint32_t field = (uint32_t)start + offset;
    if (!(header[VNET_FLAGS] & VNET_NEEDS_CHECKSUM) || start >= size || field + 2 > kept)
        return;
    uint16_t sum = (uint16_t)~ones_sum(packet + start, size - start);
    if (sum == 0)
        sum = 0xffff; /* UDP's zero means "none"; to TCP both zeros are the same */
    memcpy(copy + field, &sum, sizeof sum);
}

static int64_t wall_clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Offer one frame, vnet header first. */
static void capture_offer(struct capture *c, enum direction direction, const uint8_t *frame, uint32_t size) {
    const uint8_t *packet = frame + VNET_HEADER_SIZE;
    uint32_t original = size - VNET_HEADER_SIZE, kept = c->snap_length;
    if (c->program) {
        uint32_t wanted = c->filter(c->program, packet, original, original);
        if (wanted == 0)
            return;
        kept = kept < wanted ? kept : wanted;
    }
    kept = kept < original ? kept : original;
    if (captured_size(kept) > c->half_size - c->filled) {
        add(&c->dropped, 1);
        return;
    }
    uint8_t *at = c->filling + c->filled;
    struct captured header = {wall_clock_ns(), direction, original, kept, 0};
    memcpy(at, &header, sizeof header);
    memcpy(at + sizeof header, packet, kept);
    complete_checksum(frame, packet, original, at + sizeof header, kept);
    if (c->filled == 0)
        kick(c->notify);
    c->filled += captured_size(kept);
}

static void capture_free(struct capture *c) {
    if (c->notify >= 0)
        close(c->notify);
    free(c->program);
    free(c->filling);
    free(c->draining);
    free(c);
}

/* ----------------------------------------------------------------------------------------------- the pump */

/*
 * THE FRAME PUMP moves frames between the TAP of one kernel and the frames rings of its links. It is the
 * body of one native thread (a Python thread inside run(), without the GIL), and does all of both
 * directions:
 *
 *   once around:  each link -> TAP (budget frames each);  TAP -> links (budget);  publish;  if any: again
 *   nothing:      poll for poll_us, yielding the core each time;  arm every ring, FENCE, look again, sleep
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
 *
 * The gate. Python's calls (attach, detach, captures, counters, ...) and the thread exclude each other by a
 * mutex, which the thread holds while it is busy and gives up once around and while it sleeps. A mutex alone
 * would starve Python; so whoever wants in takes `next` first and keeps it until inside, and the thread must
 * queue for it too. Python never waits for the gate with the GIL held, and never does anything slow or
 * Pythonic inside. At the gate nothing is staged and unpublished.
 *
 * Violations. A link whose peer wrote nonsense is retired: no ring of it is touched again, its kid is on the
 * `violations` list, and its reference is kept until detach().
 */

#define KIDS 256
#define INJECTED_MAX 64
#define CAPTURES_MAX 16
#define FRAME_RECORD_MAX (VNET_HEADER_SIZE + FRAME_SIZE_MAX)
#define FRAME_RECORD_MIN (VNET_HEADER_SIZE + ETHERNET_HEADER_SIZE)
#define LARGE_FRAME 8192u        /* published and released at once, */
#define PUBLISH_FRAMES 16        /* small ones in batches */
#define STALL_NS 20000000u       /* 20 ms */
#define ASK_AGAIN_NS 1000000000u /* a direct link that was not given is asked for again after 1 s */

static const uint8_t MAC_PREFIX[5] = {0x02, 'p', 'o', 'p', 'n'};

/* clang-format off */
#define PUMP_COUNTERS(X)                                                                                  \
    X(tx_frames)          /* from the guest: read from the TAP, or injected */                            \
    X(tx_bytes)           /* without vnet headers */                                                      \
    X(rx_frames)          /* to the guest: written to the TAP */                                          \
    X(rx_bytes)                                                                                           \
    X(injected_frames)    /* of tx_frames */                                                              \
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
    X(drop_nic_down)      /* the guest took its interface down */                                         \
    X(drop_nic_gone)      /* the guest deleted its interface */                                           \
    X(drop_refused)       /* the kernel did not like the vnet header */                                   \
    X(drop_no_memory)     /* the kernel would not take it now */                                          \
    X(ring_full)          /* times the TAP was left waiting for room */                                   \
    X(stalls)             /* times a consumer stood still */                                              \
    X(wrong_guesses)      /* frames that cost a copy */                                                   \
    X(violations)         /* links retired for nonsense */                                                \
    X(upcalls)            /* times Python was called */                                                   \
    X(sleeps)                                                                                             \
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
    bool full, stalled; /* no room at the last try; and no progress for STALL_NS */
    uint64_t full_since_ns, consumed_then;
};

struct gate {
    pthread_mutex_t inside, next;
    atomic_int waiting;
};

struct injected {
    uint32_t size;
    uint8_t frame[]; /* with vnet header */
};

enum source { SOURCE_TAP, SOURCE_BELL, SOURCE_CONTROL, SOURCES };

typedef struct {
    PyObject_HEAD
    int tap, bell, upcall, control, epoll; /* control: our own eventfd, by which Python wakes the thread */
    int kid;
    bool relay;
    int budget;
    uint64_t poll_ns;
    struct gate gate;
    atomic_bool stopping;
    bool running; /* the GIL's */

    /* all below: inside the gate only */
    bool link_up, tap_gone, tap_watched;
    struct port ports[KIDS];
    struct port *active[KIDS]; /* those in use, packed */
    int active_count;
    struct port *guess;       /* where the last unicast frame went */
    struct port *waiting_for; /* whose room the held frame needs */
    uint32_t held_size;       /* 0: no frame is held */
    uint8_t held[FRAME_RECORD_MAX + 1];
    struct injected *injected[INJECTED_MAX]; /* a queue: `injected_count` from `injected_first` on */
    int injected_first, injected_count;
    uint64_t wanted[KIDS / 64], violated[KIDS / 64]; /* bit sets of kids */
    uint64_t asked_ns[KIDS];
    struct capture *captures; /* the list the thread goes through */
    struct pump_counters counters;

    struct capture *opened[CAPTURES_MAX]; /* the same captures for Python to find; the GIL's */
    int opened_ever;
} Pump;

static PyTypeObject *pump_type;

static uint64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

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

static void capture_all(Pump *pump, enum direction direction, const uint8_t *frame, uint32_t size) {
    for (struct capture *c = pump->captures; c; c = c->next)
        capture_offer(c, direction, frame, size);
}

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

static void give_to_guest(Pump *pump, const uint8_t *frame, uint32_t size) {
    if (!pump->link_up) {
        pump->counters.drop_link_down++;
        return;
    }
    if (pump->tap_gone) {
        pump->counters.drop_nic_gone++;
        return;
    }
    if (pump->captures)
        capture_all(pump, TO_GUEST, frame, size);
    if (write(pump->tap, frame, size) < 0) {
        count_refused_write(pump, errno);
        return;
    }
    pump->counters.rx_frames++;
    pump->counters.rx_bytes += size - VNET_HEADER_SIZE;
}

/* The relay's: a frame that came over `from` for kernel `kid`. */
static void forward(Pump *pump, struct port *from, int kid, const uint8_t *frame, uint32_t size) {
    struct port *port = port_of(pump, kid);
    if (!port || port == from)
        pump->counters.drop_no_link++;
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
    give_to_guest(pump, frame, size);
    if (kid < 0)
        flood(pump, frame, size, from, NULL);
}

/* How many frames came. */
static int receive_from(Pump *pump, struct port *port) {
    struct consumer *in = port->in;
    const uint8_t *frame;
    uint32_t size, tag;
    int done = 0, unreleased = 0;
    while (done < pump->budget && (frame = consumer_peek(in, &size, &tag))) {
        if (size < FRAME_RECORD_MIN) {
            set_fault(in->fault, FRAMES, FAULT_FRAME_LENGTH);
            break;
        }
        accept_frame(pump, port, frame, size);
        consumer_take(in, size);
        done++;
        if (++unreleased >= PUBLISH_FRAMES || size > LARGE_FRAME) {
            consumer_release(in);
            unreleased = 0;
        }
    }
    consumer_release(in);
    return done;
}

/* ---- from the guest to the links */

/* What was held or injected goes first. False: it still has to wait. */
static bool send_waiting(Pump *pump, int *done) {
    if (pump->held_size) {
        if (!route(pump, pump->held, pump->held_size, NULL))
            return false;
        pump->held_size = 0;
        ++*done;
    }
    while (pump->injected_count) {
        struct injected *next = pump->injected[pump->injected_first];
        if (!route(pump, next->frame, next->size, NULL))
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
    if (pump->captures)
        capture_all(pump, FROM_GUEST, frame, size);
    if (route(pump, frame, size, reserved))
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
    while (done < pump->budget) {
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
        done += receive_from(pump, pump->active[i]);
    done += send_from_guest(pump);
    publish_all(pump);
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

/* -1: for ever, else milliseconds until the port that is waited for counts as stalled. */
static int sleep_ms(const Pump *pump) {
    if (!waits_for_room(pump))
        return -1;
    uint64_t waited_ns = clock_ns() - pump->waiting_for->full_since_ns;
    return waited_ns >= STALL_NS ? 0 : (int)((STALL_NS - waited_ns) / 1000000 + 1);
}

/* While a frame is held the TAP must not wake us; one that is gone would wake us for ever. */
static void watch_tap(Pump *pump) {
    bool watch = pump->held_size == 0 && pump->injected_count == 0 && !pump->tap_gone;
    if (watch == pump->tap_watched)
        return;
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = SOURCE_TAP};
    epoll_ctl(pump->epoll, watch ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, pump->tap, &event);
    pump->tap_watched = watch;
}

static void drain(int bell) {
    uint64_t count;
    ssize_t got = read(bell, &count, sizeof count);
    (void)got;
}

static void sleep_until_kicked(Pump *pump) {
    declare_all(pump);
    fence();
    if (look_again(pump)) {
        disarm_all(pump);
        return;
    }
    watch_tap(pump);
    pump->counters.sleeps++;
    int timeout_ms = sleep_ms(pump);
    struct epoll_event events[SOURCES];
    gate_leave(&pump->gate);
    int count = epoll_wait(pump->epoll, events, SOURCES, timeout_ms);
    gate_enter(&pump->gate);
    disarm_all(pump);
    for (int i = 0; i < count; i++)
        if (events[i].data.u32 == SOURCE_BELL)
            drain(pump->bell);
        else if (events[i].data.u32 == SOURCE_CONTROL)
            drain(pump->control);
        else if (events[i].events & (EPOLLERR | EPOLLHUP))
            pump->tap_gone = true;
}

/* Nothing to do: is it too early to sleep? Others may run meanwhile, perhaps those we wait for. */
static bool poll_a_while(Pump *pump, uint64_t *idle_since_ns) {
    uint64_t now_ns = clock_ns();
    if (*idle_since_ns == 0)
        *idle_since_ns = now_ns;
    if (now_ns - *idle_since_ns >= pump->poll_ns)
        return false;
    gate_leave(&pump->gate);
    sched_yield();
    gate_enter(&pump->gate);
    return true;
}

static void pump_loop(Pump *pump) {
    uint64_t idle_since_ns = 0;
    gate_enter(&pump->gate);
    while (!atomic_load_explicit(&pump->stopping, memory_order_relaxed)) {
        gate_let_others_in(&pump->gate);
        if (pump_once(pump))
            idle_since_ns = 0;
        else if (!poll_a_while(pump, &idle_since_ns)) {
            sleep_until_kicked(pump);
            idle_since_ns = 0;
        }
    }
    gate_leave(&pump->gate);
}

/* ---- made and freed */

static bool watch(int epoll, int fd, enum source source) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = source};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

static bool pump_open(Pump *self, int tap, int bell, int upcall_fd) {
    self->tap = fcntl(tap, F_DUPFD_CLOEXEC, 3);
    self->bell = fcntl(bell, F_DUPFD_CLOEXEC, 3);
    self->upcall = fcntl(upcall_fd, F_DUPFD_CLOEXEC, 3);
    self->control = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    self->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (self->tap < 0 || self->bell < 0 || self->upcall < 0 || self->control < 0 || self->epoll < 0)
        return false;
    int flags = fcntl(self->tap, F_GETFL);
    self->tap_watched = true;
    return flags >= 0 && fcntl(self->tap, F_SETFL, flags | O_NONBLOCK) == 0 &&
           watch(self->epoll, self->tap, SOURCE_TAP) && watch(self->epoll, self->bell, SOURCE_BELL) &&
           watch(self->epoll, self->control, SOURCE_CONTROL);
}

static PyObject *pump_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {"tap_fd", "bell_fd", "upcall_fd", "kid", "relay", "budget", "poll_us", NULL};
    int tap, bell, upcall_fd, kid, relay, budget = 64, poll_us = 20;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "iiiip|ii", names, &tap, &bell, &upcall_fd, &kid, &relay,
                                     &budget, &poll_us))
        return NULL;
    if (kid < 0 || kid >= KIDS || budget < 1 || poll_us < 0) {
        PyErr_SetString(PyExc_ValueError, "kid is 0 to 255, budget at least 1, poll_us not negative");
        return NULL;
    }
    Pump *self = (Pump *)PyType_GenericAlloc(type, 0);
    if (!self)
        return NULL;
    self->tap = self->bell = self->upcall = self->control = self->epoll = -1;
    self->kid = kid;
    self->relay = relay;
    self->budget = budget;
    self->poll_ns = (uint64_t)poll_us * 1000;
    self->link_up = true;
    pthread_mutex_init(&self->gate.inside, NULL);
    pthread_mutex_init(&self->gate.next, NULL);
    if (!pump_open(self, tap, bell, upcall_fd)) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void port_release(Link *link) {
    if (!link)
        return;
    link->pumped = false;
    Py_DECREF(link);
}

/* run() holds a reference, so the thread is not in here. */
static void pump_dealloc(PyObject *object) {
    Pump *self = (Pump *)object;
    for (int kid = 0; kid < KIDS; kid++)
        port_release(self->ports[kid].link);
    for (; self->injected_count; self->injected_count--) {
        free(self->injected[self->injected_first]);
        self->injected_first = (self->injected_first + 1) % INJECTED_MAX;
    }
    while (self->captures) {
        struct capture *c = self->captures;
        self->captures = c->next;
        capture_free(c);
    }
    int *fds[] = {&self->tap, &self->bell, &self->upcall, &self->control, &self->epoll};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        close_if_open(fds[i]);
    pthread_mutex_destroy(&self->gate.inside);
    pthread_mutex_destroy(&self->gate.next);
    free_object(object);
}

/* ---- what Python calls */

/* Run a statement inside the gate, without the GIL: no Python in there. */
#define VISIT(pump, statement)                                                                               \
    do {                                                                                                     \
        Py_BEGIN_ALLOW_THREADS;                                                                              \
        gate_visit(&(pump)->gate);                                                                           \
        statement;                                                                                           \
        gate_leave(&(pump)->gate);                                                                           \
        Py_END_ALLOW_THREADS;                                                                                \
    } while (0)

static PyObject *pump_run(PyObject *object, PyObject *unused) {
    (void)unused;
    Pump *self = (Pump *)object;
    if (self->running) {
        PyErr_SetString(PyExc_RuntimeError, "this pump runs already");
        return NULL;
    }
    self->running = true;
    Py_BEGIN_ALLOW_THREADS;
    pump_loop(self);
    Py_END_ALLOW_THREADS;
    self->running = false;
    Py_RETURN_NONE;
}

static PyObject *pump_stop(PyObject *object, PyObject *unused) {
    (void)unused;
    Pump *self = (Pump *)object;
    atomic_store(&self->stopping, true);
    kick(self->control);
    Py_RETURN_NONE;
}

/* Put `link` (or NULL) where kernel `kid` is; inside the gate. Returns the link that was there. */
static Link *port_exchange(Pump *pump, int kid, Link *link) {
    struct port *port = &pump->ports[kid];
    Link *old = port->link;
    if (old) {
        struct ring_counters *counters = &old->counters[FRAMES];
        pump->counters.kicks += counters->kicks + counters->room_kicks;
        pump->counters.kicks_suppressed += counters->kicks_suppressed;
    }
    *port = (struct port){.link = link};
    if (link) {
        port->out = &link->out[FRAMES];
        port->in = &link->in[FRAMES];
    }
    pump->asked_ns[kid] = 0;
    pump->wanted[kid / 64] &= ~(1ull << (kid % 64));
    pump->violated[kid / 64] &= ~(1ull << (kid % 64));
    port_forget(pump, port);
    kick(pump->control);
    return old;
}

static bool kid_in_range(int kid) {
    if (kid < 0 || kid >= KIDS)
        PyErr_SetString(PyExc_ValueError, "a kid is 0 to 255");
    return kid >= 0 && kid < KIDS;
}

static PyObject *pump_attach(PyObject *object, PyObject *args) {
    Pump *self = (Pump *)object;
    int kid;
    Link *link, *old = NULL;
    if (!PyArg_ParseTuple(args, "iO!", &kid, link_type, &link) || !kid_in_range(kid) ||
        !link_usable(link, FRAMES))
        return NULL;
    link->pumped = true;
    Py_INCREF((PyObject *)link);
    VISIT(self, old = port_exchange(self, kid, link));
    port_release(old);
    Py_RETURN_NONE;
}

static PyObject *pump_detach(PyObject *object, PyObject *number) {
    Pump *self = (Pump *)object;
    long kid = PyLong_AsLong(number);
    Link *old = NULL;
    if ((kid == -1 && PyErr_Occurred()) || !kid_in_range((int)kid))
        return NULL;
    VISIT(self, old = port_exchange(self, (int)kid, NULL));
    port_release(old);
    Py_RETURN_NONE;
}

static PyObject *kids_in(const uint64_t set[KIDS / 64]) {
    PyObject *kids = PyList_New(0);
    for (int kid = 0; kids && kid < KIDS; kid++) {
        if (!(set[kid / 64] >> (kid % 64) & 1))
            continue;
        PyObject *number = PyLong_FromLong(kid);
        if (!number || PyList_Append(kids, number) < 0)
            Py_CLEAR(kids);
        Py_XDECREF(number);
    }
    return kids;
}

static void move_set(uint64_t to[KIDS / 64], uint64_t from[KIDS / 64]) {
    memcpy(to, from, KIDS / 8);
    memset(from, 0, KIDS / 8);
}

static PyObject *pump_wanted(PyObject *object, PyObject *unused) {
    (void)unused;
    Pump *self = (Pump *)object;
    uint64_t set[KIDS / 64];
    VISIT(self, move_set(set, self->wanted));
    return kids_in(set);
}

static PyObject *pump_violations(PyObject *object, PyObject *unused) {
    (void)unused;
    Pump *self = (Pump *)object;
    uint64_t set[KIDS / 64];
    VISIT(self, move_set(set, self->violated));
    return kids_in(set);
}

/* Inside the gate. False: the queue is full. */
static bool enqueue(Pump *pump, struct injected *injected) {
    if (pump->injected_count == INJECTED_MAX)
        return false;
    if (!pump->link_up) {
        pump->counters.drop_link_down++;
        free(injected);
        return true;
    }
    capture_all(pump, FROM_GUEST, injected->frame, injected->size);
    pump->injected[(pump->injected_first + pump->injected_count) % INJECTED_MAX] = injected;
    pump->injected_count++;
    pump->counters.injected_frames++;
    pump->counters.tx_frames++;
    pump->counters.tx_bytes += injected->size - VNET_HEADER_SIZE;
    kick(pump->control);
    return true;
}

static PyObject *pump_inject(PyObject *object, PyObject *data) {
    Pump *self = (Pump *)object;
    Py_buffer buffer;
    if (PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE) < 0)
        return NULL;
    struct injected *injected = NULL;
    bool queued = false;
    if (buffer.len < (Py_ssize_t)ETHERNET_HEADER_SIZE || buffer.len > (Py_ssize_t)FRAME_SIZE_MAX)
        PyErr_Format(PyExc_ValueError, "a frame has 14 to %u bytes, not %zd", FRAME_SIZE_MAX, buffer.len);
    else if (!(injected = calloc(1, sizeof *injected + VNET_HEADER_SIZE + (size_t)buffer.len)))
        PyErr_NoMemory();
    else {
        injected->size = VNET_HEADER_SIZE + (uint32_t)buffer.len;
        memcpy(injected->frame + VNET_HEADER_SIZE, buffer.buf, (size_t)buffer.len);
        VISIT(self, queued = enqueue(self, injected));
        if (!queued)
            free(injected);
    }
    PyBuffer_Release(&buffer);
    return injected ? PyBool_FromLong(queued) : NULL;
}

static PyObject *pump_set_link_up(PyObject *object, PyObject *up) {
    Pump *self = (Pump *)object;
    int truth = PyObject_IsTrue(up);
    if (truth < 0)
        return NULL;
    VISIT(self, self->link_up = truth);
    kick(self->control);
    Py_RETURN_NONE;
}

/* Inside the gate: all counters, those of attached links included. */
static struct pump_counters pump_totals(const Pump *pump) {
    struct pump_counters totals = pump->counters;
    for (int kid = 0; kid < KIDS; kid++)
        if (pump->ports[kid].link) {
            struct ring_counters *counters = &pump->ports[kid].link->counters[FRAMES];
            totals.kicks += counters->kicks + counters->room_kicks;
            totals.kicks_suppressed += counters->kicks_suppressed;
        }
    return totals;
}

static PyObject *pump_get_counters(PyObject *object, PyObject *unused) {
    (void)unused;
    Pump *self = (Pump *)object;
    struct pump_counters totals;
    VISIT(self, totals = pump_totals(self));
    PyObject *counters = PyDict_New();
    bool good = counters != NULL;
#define X(name) good = good && set_number(counters, #name, totals.name);
    PUMP_COUNTERS(X)
    X(kicks)
    X(kicks_suppressed)
#undef X
    if (!good)
        Py_CLEAR(counters);
    return counters;
}

/* ---- captures, as Python calls them */

static struct capture *capture_make(Py_ssize_t size, Py_ssize_t snap_length, const Py_buffer *program,
                                    unsigned long long filter, int notify) {
    struct capture *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    bool limited = snap_length > 0 && snap_length < (Py_ssize_t)FRAME_SIZE_MAX;
    c->snap_length = limited ? (uint32_t)snap_length : FRAME_SIZE_MAX;
    size_t least = captured_size(c->snap_length), half = size > 0 ? (size_t)size / 2 : 0;
    c->half_size = half > least ? half : least;
    c->filling = malloc(c->half_size);
    c->draining = malloc(c->half_size);
    c->notify = duplicate(notify);
    bool good = c->filling && c->draining && (c->notify >= 0) == (notify >= 0);
    if (program->buf) {
        c->filter = (bpf_filter_function)(uintptr_t)filter;
        c->program = malloc((size_t)program->len);
        good = good && c->program;
        if (good)
            memcpy(c->program, program->buf, (size_t)program->len);
    }
    if (good)
        return c;
    capture_free(c);
    return NULL;
}

/* Where capture `id` is, or a free place (0), or NULL. */
static struct capture **capture_place(Pump *pump, long id) {
    for (struct capture **place = pump->opened; place < pump->opened + CAPTURES_MAX; place++)
        if (*place ? (*place)->id == id : id == 0)
            return place;
    return NULL;
}

/* Inside the gate. */
static void capture_link(Pump *pump, struct capture *c) {
    c->next = pump->captures;
    pump->captures = c;
}

static PyObject *pump_capture_open(PyObject *object, PyObject *args) {
    Pump *self = (Pump *)object;
    Py_ssize_t size, snap_length;
    Py_buffer program;
    unsigned long long filter;
    int notify;
    if (!PyArg_ParseTuple(args, "nnz*Ki", &size, &snap_length, &program, &filter, &notify))
        return NULL;
    struct capture *c = NULL, **place = capture_place(self, 0);
    if (program.buf && (program.len == 0 || program.len % BPF_INSN_SIZE || filter == 0))
        PyErr_SetString(PyExc_ValueError, "a filter is whole bpf_insns, and comes with bpf_filter's address");
    else if (!place)
        PyErr_Format(PyExc_RuntimeError, "there are %d captures already", CAPTURES_MAX);
    else if (!(c = capture_make(size, snap_length, &program, filter, notify)))
        PyErr_SetString(PyExc_OSError, "no memory for the capture, or notify_fd is bad");
    else {
        c->id = ++self->opened_ever;
        *place = c;
        VISIT(self, capture_link(self, c));
    }
    PyBuffer_Release(&program);
    return c ? PyLong_FromLong(c->id) : NULL;
}

/* The capture that Python means, if nobody else is at it; else NULL with the exception set. */
static struct capture **capture_find(Pump *pump, long id) {
    struct capture **place = id > 0 ? capture_place(pump, id) : NULL;
    if (!place)
        PyErr_SetString(PyExc_KeyError, "no such capture");
    else if ((*place)->busy) {
        PyErr_SetString(PyExc_RuntimeError, "another thread is reading this capture");
        place = NULL;
    }
    return place;
}

/* Inside the gate. */
static void capture_swap(struct capture *c) {
    uint8_t *empty = c->draining;
    c->draining = c->filling;
    c->filled_before = c->filled;
    c->drained = 0;
    c->filling = empty;
    c->filled = 0;
}

static PyObject *captured_next(struct capture *c) {
    struct captured header;
    const uint8_t *at = c->draining + c->drained;
    memcpy(&header, at, sizeof header);
    c->drained += captured_size(header.kept);
    return Py_BuildValue("(LIIy#)", (long long)header.time_ns, header.direction, header.original,
                         at + sizeof header, (Py_ssize_t)header.kept);
}

static PyObject *captured_list(struct capture *c, long budget) {
    PyObject *frames = PyList_New(0);
    while (frames && budget-- > 0 && c->drained < c->filled_before) {
        PyObject *frame = captured_next(c);
        if (!frame || PyList_Append(frames, frame) < 0)
            Py_CLEAR(frames);
        Py_XDECREF(frame);
    }
    return frames;
}

static PyObject *pump_capture_read(PyObject *object, PyObject *args) {
    Pump *self = (Pump *)object;
    long id, budget;
    if (!PyArg_ParseTuple(args, "ll", &id, &budget))
        return NULL;
    struct capture **place = capture_find(self, id);
    if (!place)
        return NULL;
    struct capture *c = *place;
    c->busy = true;
    if (c->drained == c->filled_before)
        VISIT(self, capture_swap(c));
    PyObject *frames = captured_list(c, budget);
    c->busy = false;
    return frames;
}

static PyObject *pump_capture_dropped(PyObject *object, PyObject *number) {
    long id = PyLong_AsLong(number);
    struct capture **place = id > 0 ? capture_place((Pump *)object, id) : NULL;
    if (place)
        return PyLong_FromUnsignedLongLong(atomic_load(&(*place)->dropped));
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_KeyError, "no such capture");
    return NULL;
}

/* Inside the gate. */
static void capture_unlink(Pump *pump, struct capture *c) {
    struct capture **place = &pump->captures;
    while (*place != c)
        place = &(*place)->next;
    *place = c->next;
}

static PyObject *pump_capture_close(PyObject *object, PyObject *number) {
    Pump *self = (Pump *)object;
    long id = PyLong_AsLong(number);
    struct capture **place = id == -1 && PyErr_Occurred() ? NULL : capture_find(self, id);
    if (!place)
        return NULL;
    struct capture *c = *place;
    *place = NULL;
    VISIT(self, capture_unlink(self, c));
    uint64_t dropped = atomic_load(&c->dropped);
    capture_free(c);
    return PyLong_FromUnsignedLongLong(dropped);
}

static PyMethodDef pump_methods[] = {
    {"run", pump_run, METH_NOARGS, NULL},
    {"stop", pump_stop, METH_NOARGS, NULL},
    {"attach", pump_attach, METH_VARARGS, NULL},
    {"detach", pump_detach, METH_O, NULL},
    {"wanted", pump_wanted, METH_NOARGS, NULL},
    {"violations", pump_violations, METH_NOARGS, NULL},
    {"inject", pump_inject, METH_O, NULL},
    {"set_link_up", pump_set_link_up, METH_O, NULL},
    {"counters", pump_get_counters, METH_NOARGS, NULL},
    {"capture_open", pump_capture_open, METH_VARARGS, NULL},
    {"capture_read", pump_capture_read, METH_VARARGS, NULL},
    {"capture_dropped", pump_capture_dropped, METH_O, NULL},
    {"capture_close", pump_capture_close, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot pump_slots[] = {
    {Py_tp_new, pump_new},
    {Py_tp_dealloc, pump_dealloc},
    {Py_tp_methods, pump_methods},
    {0, NULL},
};

static PyType_Spec pump_spec = {"popnet.transport._native.Pump", sizeof(Pump), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, pump_slots};

/* ------------------------------------------------------------------------------------------------- module */

static bool add_numbers(PyObject *module, const char *name, const uint32_t numbers[RINGS]) {
    PyObject *tuple = Py_BuildValue("(III)", numbers[HIGH], numbers[NORMAL], numbers[FRAMES]);
    bool added = tuple && PyModule_AddObjectRef(module, name, tuple) == 0;
    Py_XDECREF(tuple);
    return added;
}

/* Byte offsets of the words in a window, by name. */
static bool add_offsets(PyObject *module) {
    PyObject *offsets = PyDict_New();
    bool added = offsets != NULL;
    for (size_t i = 0; added && i < WORD_COUNT; i++)
        added = set_number(offsets, WORD_NAMES[i].name, (uint64_t)WORD_NAMES[i].slot * SLOT_SIZE);
    added = added && PyModule_AddObjectRef(module, "WORD_OFFSETS", offsets) == 0;
    Py_XDECREF(offsets);
    return added;
}

static PyTypeObject *add_type(PyObject *module, PyType_Spec *spec) {
    PyObject *type = PyType_FromSpec(spec);
    if (type && PyModule_AddType(module, (PyTypeObject *)type) < 0)
        Py_CLEAR(type);
    return (PyTypeObject *)type;
}

static PyObject *add_error(PyObject *module, const char *full_name, const char *name, const char *text) {
    PyObject *error = PyErr_NewExceptionWithDoc(full_name, text, NULL, NULL);
    if (error && PyModule_AddObjectRef(module, name, error) < 0)
        Py_CLEAR(error);
    return error;
}

static bool fill_module(PyObject *module) {
    window_type = add_type(module, &window_spec);
    link_type = add_type(module, &link_spec);
    pump_type = add_type(module, &pump_spec);
    violation_error = add_error(module, "popnet.transport._native.Violation", "Violation",
                                "The peer wrote nonsense into its window.");
    closed_error =
        add_error(module, "popnet.transport._native.LinkClosed", "LinkClosed", "This end closed the link.");
    return window_type && link_type && pump_type && violation_error && closed_error && add_offsets(module) &&
           add_numbers(module, "RING_SIZES", RING_SIZE) && add_numbers(module, "RING_OFFSETS", RING_OFFSET) &&
           add_numbers(module, "PAYLOAD_MAX", PAYLOAD_MAX) &&
           PyModule_AddIntConstant(module, "WINDOW_SIZE", WINDOW_SIZE) == 0;
}

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "popnet.transport._native",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit__native(void);
PyMODINIT_FUNC PyInit__native(void) {
    PyObject *module = PyModule_Create(&module_definition);
    if (module && !fill_module(module))
        Py_CLEAR(module);
    return module;
}
