/* The pump as Python has it: made, called, captured from and freed. */

#include "pump.h"

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

static bool mtu_in_range(long mtu) {
    return mtu == 0 || (mtu >= (long)PACKET_MTU_MIN && mtu <= UINT16_MAX);
}

static PyObject *pump_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {"tap_fd", "bell_fd", "upcall_fd", "kid", "relay", "budget",
                            "poll_us", "mtu", "plain", NULL};
    int tap, bell, upcall_fd, kid, relay, budget = 64, poll_us = 50, mtu = 0, plain = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "iiiip|iiip", names, &tap, &bell, &upcall_fd, &kid, &relay,
                                     &budget, &poll_us, &mtu, &plain))
        return NULL;
    if (kid < 0 || kid >= KIDS || budget < 1 || poll_us < 0 || !mtu_in_range(mtu)) {
        PyErr_SetString(PyExc_ValueError,
                        "kid is 0 to 255, budget at least 1, poll_us not negative, mtu 0 or 68 to 65535");
        return NULL;
    }
    Pump *self = (Pump *)PyType_GenericAlloc(type, 0);
    if (!self)
        return NULL;
    self->tap = self->bell = self->upcall = self->control = self->epoll = -1;
    self->kid = kid;
    self->relay = relay;
    self->budget = budget;
    self->mtu = (uint32_t)mtu;
    self->plain = plain;
    waiter_set(&self->tap_waiter, WAIT_ADAPTIVE, (uint64_t)poll_us * 1000);
    for (int i = 0; i < KIDS; i++)
        waiter_set(&self->waiters[i], WAIT_ADAPTIVE, (uint64_t)poll_us * 1000);
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
    impairments_free(self->impairments);
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
        port->mtu = slot(link->peer->header, SLOT_MTU);
        store(slot(link->own->header, SLOT_MTU), pump->mtu);
    }
    pump->waiters[kid].since_ns = 0;
    pump->idle_since_ns = 0;
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
    capture_all(pump, FROM_GUEST, injected->frame, injected->size); /* never diverted: it may be the diverter's */
    pump->injected[(pump->injected_first + pump->injected_count) % INJECTED_MAX] = injected;
    pump->injected_count++;
    pump->counters.injected_frames++;
    pump->counters.tx_frames++;
    pump->counters.tx_bytes += injected->size - VNET_HEADER_SIZE;
    kick(pump->control);
    return true;
}

/* Inside the gate; `injected` stays the caller's. */
static void inject_to_guest(Pump *pump, const struct injected *injected) {
    if (!guest_listens(pump))
        return;
    capture_all(pump, TO_GUEST, injected->frame, injected->size); /* never diverted, as above */
    pump->counters.injected_to_guest++;
    write_to_guest(pump, injected->frame, injected->size);
}

static PyObject *pump_inject(PyObject *object, PyObject *args, PyObject *keywords) {
    static char *names[] = {"frame", "to_guest", NULL};
    Pump *self = (Pump *)object;
    Py_buffer buffer;
    int to_guest = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "y*|p", names, &buffer, &to_guest))
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
        if (to_guest)
            VISIT(self, inject_to_guest(self, injected));
        else
            VISIT(self, queued = enqueue(self, injected));
        if (!queued)
            free(injected);
        queued |= to_guest;
    }
    PyBuffer_Release(&buffer);
    return injected ? PyBool_FromLong(queued) : NULL;
}

/* Inside the gate: how to wait for frames of one kernel, or (kid < 0) of all and of the guest. */
static void set_modes(Pump *pump, int kid, enum wait_mode mode, uint64_t spin_max_ns) {
    for (int i = 0; i < KIDS; i++)
        if (kid < 0 || kid == i)
            waiter_set(&pump->waiters[i], mode, spin_max_ns);
    if (kid < 0)
        waiter_set(&pump->tap_waiter, mode, spin_max_ns);
    pump->idle_since_ns = 0;
}

static PyObject *pump_set_mode(PyObject *object, PyObject *args, PyObject *keywords) {
    static char *names[] = {"kid", "mode", "spin_max_us", NULL};
    Pump *self = (Pump *)object;
    PyObject *number;
    int spin_max_us = SPIN_MAX_US_DEFAULT;
    const char *name;
    enum wait_mode mode;
    uint64_t spin_max_ns;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "Os|i", names, &number, &name, &spin_max_us) ||
        !as_mode(name, &mode) || !as_spin_max(spin_max_us, &spin_max_ns))
        return NULL;
    long kid = number == Py_None ? -1 : PyLong_AsLong(number);
    if (number != Py_None && ((kid == -1 && PyErr_Occurred()) || !kid_in_range((int)kid)))
        return NULL;
    VISIT(self, set_modes(self, (int)kid, mode, spin_max_ns));
    kick(self->control);
    Py_RETURN_NONE;
}

/* Inside the gate: what packets to our guest may be, shown to all peers. */
static void show_mtu(Pump *pump, uint32_t mtu) {
    pump->mtu = mtu;
    for (int kid = 0; kid < KIDS; kid++)
        if (pump->ports[kid].link)
            store(slot(pump->ports[kid].link->own->header, SLOT_MTU), mtu);
}

static PyObject *pump_set_mtu(PyObject *object, PyObject *number) {
    Pump *self = (Pump *)object;
    long mtu = PyLong_AsLong(number);
    if (mtu == -1 && PyErr_Occurred())
        return NULL;
    if (!mtu_in_range(mtu))
        return PyErr_Format(PyExc_ValueError, "an MTU is 68 to 65535, or 0 for unknown; not %ld", mtu);
    VISIT(self, show_mtu(self, (uint32_t)mtu));
    Py_RETURN_NONE;
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
    c->cutting = malloc(2 * (size_t)CUTTING_SIZE);
    c->notify = duplicate(notify);
    bool good = c->filling && c->draining && c->cutting && (c->notify >= 0) == (notify >= 0);
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

/* How many bytes whole blocks of what was drained have, `size` at most, or the first alone if it is larger. */
static size_t drained_size(const struct capture *c, size_t size, uint64_t *frames, int64_t *last_ns) {
    size_t bytes = 0;
    struct captured header;
    for (size_t at = c->drained; at < c->filled_before; at += captured_size(header.kept)) {
        memcpy(&header, c->draining + at, sizeof header);
        size_t more = block_size(header.kept);
        if (bytes && bytes + more > size)
            break;
        bytes += more;
        ++*frames;
        *last_ns = header.time_ns;
    }
    return bytes;
}

static PyObject *drained_blocks(struct capture *c, uint32_t interface_id, size_t size) {
    uint64_t frames = 0;
    int64_t last_ns = 0;
    size = drained_size(c, size, &frames, &last_ns);
    PyObject *blocks = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (!blocks)
        return NULL;
    uint8_t *at = (uint8_t *)PyBytes_AsString(blocks);
    Py_BEGIN_ALLOW_THREADS;
    for (uint64_t i = 0; i < frames; i++) {
        const uint8_t *record = c->draining + c->drained;
        struct captured header;
        memcpy(&header, record, sizeof header);
        at = block_write(at, &header, record + sizeof header, interface_id);
        c->drained += captured_size(header.kept);
    }
    Py_END_ALLOW_THREADS;
    return Py_BuildValue("(NKL)", blocks, (unsigned long long)frames, (long long)last_ns);
}

/* Begin to read capture `id`: nobody else may until `busy` is false again. NULL: see capture_find(). */
static struct capture *capture_begin(Pump *pump, long id) {
    struct capture **place = capture_find(pump, id);
    if (!place)
        return NULL;
    struct capture *c = *place;
    c->busy = true;
    if (c->drained == c->filled_before)
        VISIT(pump, capture_swap(c));
    return c;
}

static PyObject *pump_capture_read(PyObject *object, PyObject *args) {
    long id, budget;
    if (!PyArg_ParseTuple(args, "ll", &id, &budget))
        return NULL;
    struct capture *c = capture_begin((Pump *)object, id);
    if (!c)
        return NULL;
    PyObject *frames = captured_list(c, budget);
    c->busy = false;
    return frames;
}

static PyObject *pump_capture_blocks(PyObject *object, PyObject *args) {
    long id;
    unsigned interface_id;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "lIn", &id, &interface_id, &size))
        return NULL;
    struct capture *c = capture_begin((Pump *)object, id);
    if (!c)
        return NULL;
    PyObject *blocks = drained_blocks(c, interface_id, size > 0 ? (size_t)size : 0);
    c->busy = false;
    return blocks;
}

static PyObject *pump_capture_divert(PyObject *object, PyObject *args) {
    Pump *self = (Pump *)object;
    long id;
    int to_guest, from_guest;
    if (!PyArg_ParseTuple(args, "lpp", &id, &to_guest, &from_guest))
        return NULL;
    struct capture **place = capture_find(self, id);
    if (!place)
        return NULL;
    struct capture *c = *place;
    unsigned diverts = (unsigned)to_guest << TO_GUEST | (unsigned)from_guest << FROM_GUEST;
    VISIT(self, c->diverts = diverts);
    Py_RETURN_NONE;
}

static PyObject *pump_capture_whole(PyObject *object, PyObject *args) {
    Pump *self = (Pump *)object;
    long id;
    int whole;
    if (!PyArg_ParseTuple(args, "lp", &id, &whole))
        return NULL;
    struct capture **place = capture_find(self, id);
    if (!place)
        return NULL;
    struct capture *c = *place;
    VISIT(self, c->whole = whole);
    Py_RETURN_NONE;
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

#include "impair_python.c"

static PyMethodDef pump_methods[] = {
    {"run", pump_run, METH_NOARGS, NULL},
    {"stop", pump_stop, METH_NOARGS, NULL},
    {"attach", pump_attach, METH_VARARGS, NULL},
    {"detach", pump_detach, METH_O, NULL},
    {"wanted", pump_wanted, METH_NOARGS, NULL},
    {"violations", pump_violations, METH_NOARGS, NULL},
    {"inject", (PyCFunction)(void (*)(void))pump_inject, METH_VARARGS | METH_KEYWORDS, NULL},
    {"set_link_up", pump_set_link_up, METH_O, NULL},
    {"set_mtu", pump_set_mtu, METH_O, NULL},
    {"set_mode", (PyCFunction)(void (*)(void))pump_set_mode, METH_VARARGS | METH_KEYWORDS, NULL},
    {"counters", pump_get_counters, METH_NOARGS, NULL},
    {"capture_open", pump_capture_open, METH_VARARGS, NULL},
    {"capture_divert", pump_capture_divert, METH_VARARGS, NULL},
    {"capture_whole", pump_capture_whole, METH_VARARGS, NULL},
    {"capture_read", pump_capture_read, METH_VARARGS, NULL},
    {"capture_blocks", pump_capture_blocks, METH_VARARGS, NULL},
    {"capture_dropped", pump_capture_dropped, METH_O, NULL},
    {"impair", pump_impair, METH_VARARGS, NULL},
    {"impair_down", pump_impair_down, METH_VARARGS, NULL},
    {"impair_figures", pump_impair_figures, METH_VARARGS, NULL},
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
