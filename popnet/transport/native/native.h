/*
 * What the parts of the extension share. They are one file to the compiler (module.c): everything is static,
 * and the rings' functions melt into their callers.
 *
 *   layout.h, ring.h   windows and rings: plain C, no Python
 *   wait.h             how to wait at a ring: plain C, no Python
 *   window.c           a window's mapping, as a Python object
 *   link.c             a link: both windows, three rings each way; its calls that never wait
 *   plain.c            one ring of a link as a pipe of payloads: the fewest objects a record
 *   link_wait.c        those that do
 *   look.c             a short wait at many links at once
 *   offload.c          what NICs do in hardware: checksums, segments; and "too big"
 *   capture.c          copies of a NIC's frames, and as blocks of pcapng
 *   impair.h           the fate of frames on an impaired wire: plain C, no Python
 *   delay_queue.h      frames that wait for their time: plain C, no Python
 *   pump.h             the frame pump: its theory, its state, its gate
 *   route.c, pump.c    which frame goes where; the thread
 *   impaired.c         impairments in the pump's path; impair_python.c, as Python calls them
 *   pump_python.c      the pump and its captures, as Python calls them
 *   anchor.c           the child in which a kernel's namespaces are made; nothing to do with the rest
 *
 * A link joins two kernels. Each of the two owns one window; see layout.h. What the peer did wrong is
 * recorded once in the link, which then refuses all work (Violation).
 *
 * Threads. Each side of a ring (its producer, its consumer) belongs to one thread at a time. For the high and
 * normal rings that is whoever holds the GIL: calls that do not wait never release it. One that waits
 * (receive_wait, send_wait, look) marks its side `busy`, waits without the GIL, and takes it again before it
 * stages or takes a record; until then every other call for that side raises RuntimeError. The frames ring
 * belongs to the pump's thread while the link is attached to a pump, else to Python too. They share nothing
 * of the link but `fault` and `closed`, counters, modes and nudges, which are atomic, and the windows,
 * which live until everybody let go.
 *
 * Nudges. A doorbell wakes a process, not a thread; several waiters of one link may sleep at the same one.
 * Whoever drains it therefore nudges the other waiters of the link, each at an eventfd of its own; a nudge is
 * never passed on, so this ends. close(), set_mode() and whoever finds a violation nudge all. Waiters of
 * different links must not share a doorbell: the one would drain it for the other.
 *
 * Known and accepted: a peer can see frames for others that were read into its ring on a wrong guess, until
 * overwritten; and one that makes its own doorbell blocking and fills it to the brim can hang whoever kicks
 * it, which the hung kernel's heartbeat then shows (both share the open file, and with it that flag).
 */

#ifndef POPNET_NATIVE_H
#define POPNET_NATIVE_H

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "ring.h"
#include "wait.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#ifndef F_GET_SEALS
#define F_GET_SEALS 1034
#define F_SEAL_SEAL 0x0001
#define F_SEAL_SHRINK 0x0002
#define F_SEAL_GROW 0x0004
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

typedef struct {
    PyObject_HEAD
    uint8_t *header;      /* start of the address range; NULL: not mapped */
    uint8_t *data[RINGS]; /* start of each double mapping */
    bool writable;
} Window;

static PyTypeObject *window_type; /* the module is created once a process: single-phase initialisation */

enum { IN, OUT, SIDES };

/* One side of a ring, as waiters see it. */
struct side {
    struct waiter waiter;
    atomic_bool busy; /* somebody waits; set and cleared with the GIL */
    int nudge;        /* eventfd, made at the first sleep; -1: not yet */
};

typedef struct {
    PyObject_HEAD
    Window *own, *peer; /* held: they stay mapped until the link is freed */
    struct producer out[RINGS];
    struct consumer in[RINGS];
    struct side sides[SIDES][RINGS];
    struct ring_counters counters[RINGS];
    fault_cell fault;
    atomic_bool closed;
    bool pumped; /* the frames ring belongs to a pump (GIL) */
    int message_bell, frame_bell;
} Link;

static PyTypeObject *link_type;
static PyObject *violation_error, *closed_error;

#endif
