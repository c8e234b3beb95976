/*
 * look(): for loops that serve many links and sleep elsewhere (asyncio): is there something, or will there
 * be very soon? Spins for the longest window that any ring would spin for, then says no; the caller arms
 * every ring and sleeps. The rings learn from it: the one that has data hit, when there was none all of them
 * missed, and what receive() takes after that was slept for (link_release).
 */

#include "native.h"

#define LOOK_LINKS_MAX 256

struct looker {
    Link *links[LOOK_LINKS_MAX];
    Py_ssize_t count;
    uint64_t began_ns, max_ns;
};

/* The rings that are looked at. */
#define EACH_RING(ring) for (int ring = HIGH; ring <= NORMAL; ring++)

/* Is there anything at this ring for its receiver to find: data, or a fault? */
static bool ring_has_news(Link *link, int ring) {
    struct consumer *in = &link->in[ring];
    return atomic_load_explicit(&link->closed, memory_order_relaxed) ||
           atomic_load_explicit(&link->fault, memory_order_relaxed) || !consumer_look(in) ||
           in->produced_seen != in->taken;
}

/* Once around; true if any ring has news. Those that have, learn: it came at now_ns (0: before we began). */
static bool look_around(struct looker *l, uint64_t now_ns) {
    bool news = false;
    for (Py_ssize_t i = 0; i < l->count; i++)
        EACH_RING(ring) if (ring_has_news(l->links[i], ring)) {
            news = true;
            if (now_ns) {
                waiter_found(&l->links[i]->sides[IN][ring].waiter, l->began_ns, now_ns);
                add_shared(&l->links[i]->counters[ring].spin_hits, 1);
            }
        }
    return news;
}

/* The longest window of all rings, at most max_ns; a ring that would spin has not slept. */
static uint64_t longest_window(struct looker *l, bool begins) {
    uint64_t longest_ns = 0;
    for (Py_ssize_t i = 0; i < l->count; i++)
        EACH_RING(ring) {
            struct waiter *waiter = &l->links[i]->sides[IN][ring].waiter;
            uint64_t window_ns = waiter_window_ns(waiter);
            if (window_ns && begins)
                waiter->since_ns = 0;
            longest_ns = window_ns > longest_ns ? window_ns : longest_ns;
        }
    return longest_ns < l->max_ns ? longest_ns : l->max_ns;
}

static void all_missed(struct looker *l) {
    for (Py_ssize_t i = 0; i < l->count; i++)
        EACH_RING(ring) {
            struct waiter *waiter = &l->links[i]->sides[IN][ring].waiter;
            if (waiter->spin.window_ns && waiter_mode(waiter) == WAIT_ADAPTIVE)
                add_shared(&l->links[i]->counters[ring].spin_misses, 1);
            waiter_missed(waiter, l->began_ns);
        }
}

/* Without the GIL. */
static bool look_for_a_while(struct looker *l) {
    uint64_t window_ns = longest_window(l, true), now_ns = l->began_ns;
    while (window_ns && now_ns - l->began_ns < window_ns) {
        sched_yield();
        now_ns = clock_ns();
        if (look_around(l, now_ns))
            return true;
    }
    all_missed(l);
    return false;
}

/* Take the links that are usable, none of whose rings has a waiter. False: exception. */
static bool looker_fill(struct looker *l, PyObject *links) {
    Py_ssize_t count = PySequence_Size(links);
    if (count > LOOK_LINKS_MAX)
        PyErr_Format(PyExc_ValueError, "more than %d links", LOOK_LINKS_MAX);
    if (count < 0 || count > LOOK_LINKS_MAX)
        return false;
    for (l->count = 0; l->count < count; l->count++) {
        PyObject *link = PySequence_GetItem(links, l->count);
        if (link && !PyObject_TypeCheck(link, link_type)) {
            PyErr_SetString(PyExc_TypeError, "look() takes links");
            Py_CLEAR(link);
        }
        if (!link)
            return false;
        l->links[l->count] = (Link *)link;
    }
    return true;
}

static void looker_end(struct looker *l) {
    while (l->count > 0)
        Py_DECREF((PyObject *)l->links[--l->count]);
}

/* looks(): would look() spin at these links now? */
static PyObject *native_looks(PyObject *module, PyObject *links) {
    (void)module;
    struct looker l = {.max_ns = SPIN_FOREVER};
    bool good = looker_fill(&l, links);
    bool spins = good && longest_window(&l, false) > 0;
    looker_end(&l);
    return good ? PyBool_FromLong(spins) : NULL;
}

/* Mark all rings busy; false: one is already, and none is marked. */
static bool looker_occupy(struct looker *l) {
    for (Py_ssize_t i = 0; i < l->count; i++)
        EACH_RING(ring) {
            if (atomic_load(&l->links[i]->sides[IN][ring].busy))
                return false;
        }
    for (Py_ssize_t i = 0; i < l->count; i++)
        EACH_RING(ring) atomic_store(&l->links[i]->sides[IN][ring].busy, true);
    return true;
}

static void looker_leave(struct looker *l) {
    for (Py_ssize_t i = 0; i < l->count; i++)
        EACH_RING(ring) atomic_store(&l->links[i]->sides[IN][ring].busy, false);
}

static PyObject *native_look(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    struct looker l = {.count = 0};
    if (!takes_arguments("look", count, 2, 2))
        return NULL;
    long spin_us = PyLong_AsLong(args[1]);
    if (spin_us == -1 && PyErr_Occurred())
        return NULL;
    bool news = false, good = looker_fill(&l, args[0]);
    if (good && !(good = looker_occupy(&l)))
        PyErr_SetString(PyExc_RuntimeError, "another thread waits at a ring of these links");
    else if (good) {
        l.max_ns = spin_us > 0 ? (uint64_t)spin_us * 1000 : 0;
        news = look_around(&l, 0);
        if (!news) {
            l.began_ns = clock_ns();
            Py_BEGIN_ALLOW_THREADS;
            news = look_for_a_while(&l);
            Py_END_ALLOW_THREADS;
        }
        looker_leave(&l);
    }
    looker_end(&l);
    return good ? PyBool_FromLong(news) : NULL;
}

