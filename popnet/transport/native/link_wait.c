/*
 * Links: the calls that wait, and how (wait.h has the modes, native.h the rule for threads and nudges).
 *
 *   once                     with the GIL     a look; whatever is there is taken without more ado
 *   spin for KEEP_GIL_NS     with the GIL     unless the mode is not to spin at all
 *   spin, by the mode        without          look, relax; after a while yield the core between two looks
 *   sleep                    without          arm, FENCE, look again, ppoll(bell, nudge); disarm; drain; look
 *   each SLICE_NS, or EINTR  with the GIL     PyErr_CheckSignals()
 *
 * A wait ends with data (or room), at its deadline, or because the link was closed or its peer violated.
 */

#include "native.h"

#include <math.h>
#include <poll.h>

#define SLICE_NS 2000000u /* a spinning thread looks for signals this often */
#define LOOKS 16          /* between two looks at the clock */
#define EAGER_NS 2000u    /* spin without yielding the core for so long, */
#define KEEP_GIL_NS 1000u /* and without giving up the GIL, which costs more than a short wait */
#define NS_PER_S 1000000000u

enum waited { FOUND, TIMED_OUT, SPUN_OUT, STOPPED, BAD_BELL };

struct waiting {
    Link *link;
    struct side *side;
    struct producer *out; /* NULL: for data at `in` */
    struct consumer *in;
    struct ring_counters *counters;
    uint64_t span; /* of the record that needs room */
    uint64_t began_ns, deadline_ns;
    int bell;
    bool slept;
};

/* Is there an end to the waiting: data, room, or something wrong? Whoever calls finds out which. */
static bool waiting_is_over(struct waiting *w) {
    if (atomic_load_explicit(&w->link->closed, memory_order_seq_cst) ||
        atomic_load_explicit(&w->link->fault, memory_order_relaxed))
        return true;
    if (w->out)
        return !producer_look(w->out) || producer_free(w->out) >= w->span;
    return !consumer_look(w->in) || w->in->produced_seen != w->in->taken;
}

static uint64_t window_of(struct waiting *w) {
    if (w->bell < 0)
        return SPIN_FOREVER;
    uint64_t window_ns = waiter_window_ns(&w->side->waiter);
    return w->slept && window_ns != SPIN_FOREVER ? 0 : window_ns; /* once a wait, unless it became `poll` */
}

static enum waited spin(struct waiting *w) {
    uint64_t slice_ends_ns = clock_ns() + SLICE_NS;
    for (;;) {
        for (int look = 0; look < LOOKS; look++) {
            if (waiting_is_over(w))
                return FOUND;
            relax();
        }
        uint64_t now_ns = clock_ns();
        if (now_ns - w->began_ns >= window_of(w))
            return SPUN_OUT; /* first: a core that others took for longer than the timeout teaches it, too */
        if (now_ns >= w->deadline_ns)
            return TIMED_OUT;
        if (now_ns >= slice_ends_ns)
            return STOPPED;
        if (now_ns - w->began_ns >= EAGER_NS)
            sched_yield();
    }
}

static void drain(int bell) {
    uint64_t count;
    ssize_t got = read(bell, &count, sizeof count);
    (void)got;
}

static struct timespec until(uint64_t deadline_ns) {
    uint64_t now_ns = clock_ns(), left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
    return (struct timespec){.tv_sec = (time_t)(left_ns / NS_PER_S), .tv_nsec = (long)(left_ns % NS_PER_S)};
}

/* Asleep at both bells until rung. The ring is armed. */
static enum waited sleep_armed(struct waiting *w) {
    struct pollfd bells[] = {{.fd = w->bell, .events = POLLIN}, {.fd = w->side->nudge, .events = POLLIN}};
    bool for_ever = w->deadline_ns == SPIN_FOREVER;
    struct timespec left = until(w->deadline_ns);
    int count = ppoll(bells, 2, for_ever ? NULL : &left, NULL);
    if (count == 0)
        return TIMED_OUT;
    if (count < 0)
        return STOPPED;
    if (bells[1].revents)
        drain(w->side->nudge);
    if (bells[0].revents & ~POLLIN)
        return BAD_BELL;
    if (bells[0].revents) {
        drain(w->bell);
        nudge_waiters(w->link, w->side);
        if (!waiting_is_over(w))
            add_shared(&w->counters->kicks_spurious, 1);
    }
    return waiting_is_over(w) ? FOUND : SPUN_OUT;
}

static enum waited sleep_at_bell(struct waiting *w) {
    if (w->out)
        producer_declare(w->out);
    else
        consumer_declare(w->in);
    fence();
    enum waited waited = FOUND;
    if (!waiting_is_over(w)) {
        add(w->out ? &w->counters->armed_for_room : &w->counters->armed, 1);
        w->slept = true;
        waited = sleep_armed(w);
    }
    if (w->out)
        producer_disarm(w->out);
    else
        consumer_disarm(w->in);
    return waited;
}

/* Without the GIL. FOUND, TIMED_OUT, or STOPPED: let Python see to its signals, and come again. */
static enum waited wait_slice(struct waiting *w) {
    struct waiter *waiter = &w->side->waiter;
    for (;;) {
        uint64_t window_ns = window_of(w);
        enum waited waited = window_ns ? spin(w) : SPUN_OUT;
        if (waited == SPUN_OUT) {
            if (window_ns && window_ns != SPIN_FOREVER)
                add_shared(&w->counters->spin_misses, 1);
            if (!w->slept)
                waiter_missed(waiter, w->began_ns);
            waited = sleep_at_bell(w);
        } else if (waited == FOUND && !w->slept)
            add_shared(&w->counters->spin_hits, 1);
        if (waited == FOUND)
            waiter_found(waiter, w->began_ns, clock_ns());
        if (waited != SPUN_OUT)
            return waited;
    }
}

/* The first part of a spin, before the GIL is given up: did it come? What comes so soon is as good as told by the
 * clock's last reading. */
static bool spin_eagerly(struct waiting *w) {
    uint64_t window_ns = window_of(w), now_ns = w->began_ns;
    window_ns = window_ns < KEEP_GIL_NS ? window_ns : KEEP_GIL_NS;
    while (now_ns - w->began_ns < window_ns && now_ns < w->deadline_ns) {
        for (int look = 0; look < LOOKS; look++) {
            if (waiting_is_over(w)) {
                add_shared(&w->counters->spin_hits, 1);
                waiter_found(&w->side->waiter, w->began_ns, now_ns);
                return true;
            }
            relax();
        }
        now_ns = clock_ns();
    }
    return false;
}

/* Wait, with the GIL given up: 1 it came (or the link is unusable now), 0 timed out, -1 exception. */
static int link_wait(struct waiting *w) {
    struct side *side = w->side;
    if (w->deadline_ns == 0)
        return 0;
    if (side->nudge < 0 && (side->nudge = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    w->began_ns = clock_ns();
    side->waiter.since_ns = 0;
    if (spin_eagerly(w))
        return 1;
    atomic_store(&side->busy, true);
    enum waited waited;
    bool raised;
    do {
        Py_BEGIN_ALLOW_THREADS;
        waited = wait_slice(w);
        Py_END_ALLOW_THREADS;
        raised = waited == STOPPED && PyErr_CheckSignals() < 0;
    } while (waited == STOPPED && !raised);
    side->waiter.since_ns = 0;
    atomic_store(&side->busy, false);
    if (waited == BAD_BELL)
        PyErr_SetString(PyExc_ValueError, "bell_fd is no open doorbell");
    return raised || waited == BAD_BELL ? -1 : waited == FOUND;
}

/* None: for ever; 0: do not wait. */
static bool as_deadline(PyObject *timeout_s, uint64_t *deadline_ns) {
    *deadline_ns = SPIN_FOREVER;
    if (timeout_s == Py_None)
        return true;
    double seconds = PyFloat_AsDouble(timeout_s);
    if (seconds == -1.0 && PyErr_Occurred())
        return false;
    if (isnan(seconds)) {
        PyErr_SetString(PyExc_ValueError, "a timeout is a number of seconds, or None");
        return false;
    }
    if (seconds < 1e9)
        *deadline_ns = seconds > 0 ? clock_ns() + (uint64_t)(seconds * 1e9) : 0;
    return true;
}

static bool as_bell(PyObject *number, int *bell) {
    long value = PyLong_AsLong(number);
    if (value == -1 && PyErr_Occurred())
        return false;
    *bell = value < 0 || value > INT32_MAX ? -1 : (int)value;
    return true;
}

static PyObject *link_receive_wait(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    Link *self = (Link *)object;
    struct waiting w = {.link = self};
    long ring;
    if (!takes_arguments("receive_wait", count, 4, 4) || !as_ring(args[0], &ring))
        return NULL;
    long budget = PyLong_AsLong(args[1]);
    if ((budget == -1 && PyErr_Occurred()) || !as_bell(args[3], &w.bell) || !side_usable(self, IN, ring))
        return NULL;
    if (budget < 1) {
        PyErr_SetString(PyExc_ValueError, "a budget is at least 1");
        return NULL;
    }
    PyObject *records = link_take_many(self, ring, budget);
    if (!records || PyList_Size(records) > 0)
        return records;
    if (!as_deadline(args[2], &w.deadline_ns) || !side_usable(self, IN, ring)) {
        Py_DECREF(records);
        return NULL;
    }
    w.side = &self->sides[IN][ring];
    w.in = &self->in[ring];
    w.counters = &self->counters[ring];
    int found = link_wait(&w);
    if (found == 0 && link_usable(self, ring))
        return records;
    Py_DECREF(records);
    if (found <= 0 || !side_usable(self, IN, ring))
        return NULL;
    return link_take_many(self, ring, budget);
}

/* 1 sent, 0 timed out, -1 exception. */
static int send_waiting_for_room(struct waiting *w, long ring, const Py_buffer *data, uint32_t tag,
                                 PyObject *timeout_s) {
    Link *self = w->link;
    int staged = link_stage(self, ring, data->buf, data->len, tag);
    if (staged == 0 && !as_deadline(timeout_s, &w->deadline_ns))
        return -1;
    while (staged == 0) {
        if (!side_usable(self, OUT, ring))
            return -1;
        producer_publish(&self->out[ring]);
        int found = link_wait(w);
        if (found <= 0)
            return found < 0 || !link_usable(self, ring) ? -1 : 0;
        staged = link_stage(self, ring, data->buf, data->len, tag);
    }
    if (staged > 0)
        link_publish(self, ring);
    return staged;
}

static PyObject *link_send_wait(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    Link *self = (Link *)object;
    struct waiting w = {.link = self};
    long ring;
    uint32_t tag;
    if (!takes_arguments("send_wait", count, 5, 5) || !as_ring(args[0], &ring) || !as_tag(args[2], &tag) ||
        !as_bell(args[4], &w.bell))
        return NULL;
    Py_buffer data;
    if (PyObject_GetBuffer(args[1], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    int sent = -1;
    if (side_usable(self, OUT, ring) && payload_fits(ring, data.len)) {
        w.side = &self->sides[OUT][ring];
        w.out = &self->out[ring];
        w.counters = &self->counters[ring];
        w.span = span_of((uint32_t)data.len);
        sent = send_waiting_for_room(&w, ring, &data, tag, args[3]);
    }
    PyBuffer_Release(&data);
    return sent < 0 ? NULL : PyBool_FromLong(sent);
}

/* ---- modes */

static bool as_mode(const char *name, enum wait_mode *mode) {
    for (*mode = 0; *mode < WAIT_MODES; (*mode)++)
        if (strcmp(name, WAIT_MODE_NAME[*mode]) == 0)
            return true;
    PyErr_SetString(PyExc_ValueError, "a mode is 'poll', 'adaptive' or 'interrupt'");
    return false;
}

static bool as_spin_max(int spin_max_us, uint64_t *spin_max_ns) {
    if (spin_max_us < 0)
        PyErr_SetString(PyExc_ValueError, "spin_max_us is not negative");
    *spin_max_ns = (uint64_t)spin_max_us * 1000;
    return spin_max_us >= 0;
}

static PyObject *link_set_mode(PyObject *object, PyObject *args, PyObject *keywords) {
    static char *names[] = {"ring", "mode", "spin_max_us", NULL};
    Link *self = (Link *)object;
    int ring, spin_max_us = SPIN_MAX_US_DEFAULT;
    const char *name;
    enum wait_mode mode;
    uint64_t spin_max_ns;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "is|i", names, &ring, &name, &spin_max_us) ||
        !link_usable(self, ring) || !as_mode(name, &mode) || !as_spin_max(spin_max_us, &spin_max_ns))
        return NULL;
    for (int side = 0; side < SIDES; side++)
        waiter_set(&self->sides[side][ring].waiter, mode, spin_max_ns);
    nudge_waiters(self, NULL);
    Py_RETURN_NONE;
}

static PyObject *link_mode(PyObject *object, PyObject *number) {
    Link *self = (Link *)object;
    long ring;
    if (!as_ring(number, &ring) || !link_usable(self, ring))
        return NULL;
    return PyUnicode_FromString(WAIT_MODE_NAME[waiter_mode(&self->sides[IN][ring].waiter)]);
}

/* For tests: one step of what adaptive learns, as (max_ns, window_ns, mean_ns, patience, countdown,
 * forgiving). */
static PyObject *native_learn(PyObject *module, PyObject *args) {
    (void)module;
    unsigned long long max_ns, window_ns, mean_ns, gap_ns;
    unsigned int patience, countdown, forgiving;
    const char *what;
    if (!PyArg_ParseTuple(args, "(KKKIII)sK", &max_ns, &window_ns, &mean_ns, &patience, &countdown, &forgiving,
                          &what, &gap_ns))
        return NULL;
    struct spin spin = {max_ns, window_ns, mean_ns, patience, countdown, forgiving};
    if (strcmp(what, "hit") == 0)
        spin_hit(&spin, gap_ns);
    else if (strcmp(what, "missed") == 0)
        spin_missed(&spin);
    else if (strcmp(what, "slept") == 0)
        spin_slept(&spin, gap_ns);
    else
        spin_reset(&spin, gap_ns);
    return Py_BuildValue("(KKKIII)", (unsigned long long)spin.max_ns, (unsigned long long)spin.window_ns,
                         (unsigned long long)spin.mean_ns, spin.patience, spin.countdown,
                         spin.forgiving);
}

#define FAST(function) ((PyCFunction)(void (*)(void))(function))
static PyMethodDef link_methods[] = {
    {"send", FAST(link_send), METH_FASTCALL | METH_KEYWORDS, NULL},
    {"stage", FAST(link_stage_only), METH_FASTCALL | METH_KEYWORDS, NULL},
    {"publish", link_publish_staged, METH_O, NULL},
    {"send_many", FAST(link_send_many), METH_FASTCALL, NULL},
    {"receive", link_receive, METH_O, NULL},
    {"receive_many", FAST(link_receive_many), METH_FASTCALL, NULL},
    {"plain", FAST(link_plain), METH_FASTCALL, NULL},
    {"receive_wait", FAST(link_receive_wait), METH_FASTCALL, NULL},
    {"send_wait", FAST(link_send_wait), METH_FASTCALL, NULL},
    {"set_mode", (PyCFunction)(void (*)(void))link_set_mode, METH_VARARGS | METH_KEYWORDS, NULL},
    {"mode", link_mode, METH_O, NULL},
    {"position", link_position, METH_O, NULL},
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
