/* Links: both windows and the rings of both directions; the calls that never wait. */

#include "native.h"

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
    for (int side = 0; side < SIDES; side++)
        waiter_set(&self->sides[side][ring].waiter, WAIT_ADAPTIVE, SPIN_MAX_US_DEFAULT * 1000);
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
    for (int side = 0; side < SIDES; side++)
        for (int ring = 0; ring < RINGS; ring++)
            self->sides[side][ring].nudge = -1;
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
        for (int side = 0; side < SIDES; side++)
            for (int ring = 0; ring < RINGS; ring++)
                close_if_open(&self->sides[side][ring].nudge);
    }
    Py_XDECREF((PyObject *)self->own);
    Py_XDECREF((PyObject *)self->peer);
    free_object(object);
}

static PyObject *violation_text(Link *self) {
    int fault = atomic_load(&self->fault);
    return PyUnicode_FromFormat("%s ring: %s", RING_NAME[fault >> 8], FAULT_TEXT[fault & 0xff]);
}

/* Wake the waiters at this link, but for one's own side. */
static void nudge_waiters(Link *self, const struct side *but) {
    for (int side = 0; side < SIDES; side++)
        for (int ring = 0; ring < RINGS; ring++) {
            struct side *other = &self->sides[side][ring];
            if (other != but && atomic_load(&other->busy)) {
                add_shared(&self->counters[ring].nudges, 1);
                kick(other->nudge);
            }
        }
}

static bool raise_violation(Link *self) {
    nudge_waiters(self, NULL);
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

/* The same, for one side of a ring that nobody waits at. */
static bool side_usable(Link *self, int side, long ring) {
    if (!link_usable(self, ring))
        return false;
    if (!atomic_load_explicit(&self->sides[side][ring].busy, memory_order_relaxed))
        return true;
    PyErr_SetString(PyExc_RuntimeError, "another thread waits at this ring");
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

/* Reserve the payload of one record: 1 done, 0 no room, -1 exception. Nothing in here runs Python code. */
static int link_reserve(Link *self, long ring, Py_ssize_t size, uint8_t **payload) {
    if (!side_usable(self, OUT, ring) || !payload_fits(ring, size))
        return -1;
    *payload = producer_reserve(&self->out[ring], (uint32_t)size);
    if (*payload)
        return 1;
    add(&self->out[ring].counters->full, 1);
    return link_faulted(self) ? -1 : 0;
}

/* Stage one record: 1 done, 0 no room, -1 exception. Nothing in here runs Python code. */
static int link_stage(Link *self, long ring, const void *bytes, Py_ssize_t size, uint32_t tag) {
    uint8_t *payload;
    int reserved = link_reserve(self, ring, size, &payload);
    if (reserved > 0) {
        memcpy(payload, bytes, (size_t)size);
        producer_stage(&self->out[ring], (uint32_t)size, tag);
    }
    return reserved;
}

/* The same for a payload in two pieces. */
static int link_stage_pieces(Link *self, long ring, const Py_buffer *head, const Py_buffer *body, uint32_t tag) {
    uint8_t *payload;
    Py_ssize_t size = head->len + body->len; /* both exist, so their sum is no overflow */
    int reserved = link_reserve(self, ring, size, &payload);
    if (reserved > 0) {
        memcpy(payload, head->buf, (size_t)head->len);
        memcpy(payload + head->len, body->buf, (size_t)body->len);
        producer_stage(&self->out[ring], (uint32_t)size, tag);
    }
    return reserved;
}

static int link_stage_tuple(Link *self, long ring, PyObject *pieces, uint32_t tag) {
    Py_buffer head, body;
    int staged = -1;
    if (PyTuple_Size(pieces) != 2)
        PyErr_SetString(PyExc_TypeError, "a payload in pieces has two of them");
    else if (PyObject_GetBuffer(PyTuple_GetItem(pieces, 0), &head, PyBUF_SIMPLE) == 0) {
        if (PyObject_GetBuffer(PyTuple_GetItem(pieces, 1), &body, PyBUF_SIMPLE) == 0) {
            staged = link_stage_pieces(self, ring, &head, &body, tag);
            PyBuffer_Release(&body);
        }
        PyBuffer_Release(&head);
    }
    return staged;
}

/* The same for any object with bytes in it. Acquiring its buffer may run Python code, so that comes first. */
static int link_stage_object(Link *self, long ring, PyObject *data, uint32_t tag) {
    if (PyBytes_Check(data))
        return link_stage(self, ring, PyBytes_AsString(data), PyBytes_Size(data), tag);
    if (PyTuple_Check(data))
        return link_stage_tuple(self, ring, data, tag);
    Py_buffer buffer;
    if (PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE) < 0)
        return -1;
    int staged = link_stage(self, ring, buffer.buf, buffer.len, tag);
    PyBuffer_Release(&buffer);
    return staged;
}

static void link_publish(Link *self, long ring) {
    if (!atomic_load_explicit(&self->sides[OUT][ring].busy, memory_order_relaxed)) /* see link_release */
        producer_publish(&self->out[ring]);
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

/* The arguments (ring, data, tag=0): 1 staged, 0 no room, -1 exception. */
static int link_stage_arguments(Link *self, const char *name, PyObject *const *args, Py_ssize_t count,
                                PyObject *names, long *ring) {
    uint32_t tag = 0;
    count += names ? PyTuple_Size(names) : 0;
    if (!takes_arguments(name, count, 2, 3) || !only_keyword(names, "tag") || !as_ring(args[0], ring) ||
        (count == 3 && !as_tag(args[2], &tag)))
        return -1;
    return link_stage_object(self, *ring, args[1], tag);
}

static PyObject *link_stage_only(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    long ring;
    int staged = link_stage_arguments((Link *)object, "stage", args, count, names, &ring);
    return staged < 0 ? NULL : PyBool_FromLong(staged);
}

static PyObject *link_publish_staged(PyObject *object, PyObject *number) {
    Link *self = (Link *)object;
    long ring;
    if (!as_ring(number, &ring) || !side_usable(self, OUT, ring))
        return NULL;
    producer_publish(&self->out[ring]);
    Py_RETURN_NONE;
}

static PyObject *link_position(PyObject *object, PyObject *number) {
    Link *self = (Link *)object;
    long ring;
    if (!as_ring(number, &ring) || !link_usable(self, ring))
        return NULL;
    return Py_BuildValue("(KK)", (unsigned long long)self->out[ring].staged,
                         (unsigned long long)self->in[ring].taken);
}

static PyObject *link_send(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    Link *self = (Link *)object;
    long ring;
    int staged = link_stage_arguments(self, "send", args, count, names, &ring);
    if (staged < 0)
        return NULL;
    if (staged == 0)
        Py_RETURN_FALSE;
    link_publish(self, ring);
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
    if (!takes_arguments("send_many", count, 2, 2) || !as_ring(args[0], &ring) ||
        !side_usable(self, OUT, ring))
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
    link_publish(self, ring); /* what was staged before an exception is sent nevertheless */
    return staged < 0 ? NULL : PyLong_FromSsize_t(sent);
}

/* Give back what was taken, and tell the waiter that its sleep has ended. While another thread waits here (it
 * came while Python code ran, say in the garbage collector) the ring is its own, and it gave back already. */
static void link_release(Link *self, long ring) {
    struct side *side = &self->sides[IN][ring];
    if (atomic_load_explicit(&side->busy, memory_order_relaxed))
        return;
    if (side->waiter.since_ns && self->in[ring].taken != self->in[ring].released)
        waiter_found(&side->waiter, 0, clock_ns());
    consumer_release(&self->in[ring]);
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
    if (!as_ring(number, &ring) || !side_usable(self, IN, ring))
        return NULL;
    int taken = link_take(self, ring, &record);
    if (taken < 0)
        return NULL;
    if (taken == 0)
        Py_RETURN_NONE;
    link_release(self, ring);
    return record;
}

/* The end of taking many: `records`, or NULL with the exception set. `taken` is what the last try came to. */
static PyObject *link_taken(Link *self, long ring, PyObject *records, int taken) {
    bool some = records && PyList_Size(records) > 0;
    if (taken < 0 && some && PyErr_ExceptionMatches(violation_error)) { /* hand over the good ones; the next
    call raises */
        PyErr_Clear();
        taken = 0;
    }
    if (taken > 0 && some && self->in[ring].produced_seen != self->in[ring].taken)
        add(&self->counters[ring].budget_exhausted, 1);
    link_release(self, ring);
    if (taken < 0)
        Py_CLEAR(records);
    return records;
}

/* At most `budget` records; NULL with the exception set. */
static PyObject *link_take_many(Link *self, long ring, long budget) {
    PyObject *records = PyList_New(0);
    int taken = records ? 1 : -1;
    while (taken > 0 && budget-- > 0 && (taken = side_usable(self, IN, ring) ? 1 : -1) > 0) {
        PyObject *record;
        taken = link_take(self, ring, &record);
        if (taken > 0) {
            taken = PyList_Append(records, record) == 0 ? 1 : -1;
            Py_DECREF(record);
        }
    }
    return link_taken(self, ring, records, taken);
}

static PyObject *link_receive_many(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    Link *self = (Link *)object;
    long ring;
    if (!takes_arguments("receive_many", count, 2, 2) || !as_ring(args[0], &ring))
        return NULL;
    long budget = PyLong_AsLong(args[1]);
    if ((budget == -1 && PyErr_Occurred()) || !side_usable(self, IN, ring))
        return NULL;
    return link_take_many(self, ring, budget);
}

static PyObject *link_arm(PyObject *object, PyObject *number) {
    Link *self = (Link *)object;
    long ring;
    if (!as_ring(number, &ring) || !side_usable(self, IN, ring))
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
    if (!as_ring(number, &ring) || !side_usable(self, IN, ring))
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
    if ((size == -1 && PyErr_Occurred()) || !side_usable(self, OUT, ring) || !payload_fits(ring, size))
        return NULL;
    if (size < 0) {
        PyErr_SetString(PyExc_ValueError, "a size is not negative");
        return NULL;
    }
    producer_publish(&self->out[ring]); /* room for the staged comes only after them */
    if (producer_arm(&self->out[ring], (uint32_t)size))
        Py_RETURN_TRUE;
    if (link_faulted(self))
        return NULL;
    Py_RETURN_FALSE;
}

static PyObject *link_disarm_room(PyObject *object, PyObject *number) {
    Link *self = (Link *)object;
    long ring;
    if (!as_ring(number, &ring) || !side_usable(self, OUT, ring))
        return NULL;
    producer_disarm(&self->out[ring]);
    Py_RETURN_NONE;
}

/* The windows stay mapped until the last reference to the link goes: a pump may be in the middle of a frame.
*/
static PyObject *link_close(PyObject *object, PyObject *unused) {
    (void)unused;
    Link *self = (Link *)object;
    atomic_store(&self->closed, true);
    nudge_waiters(self, NULL);
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
