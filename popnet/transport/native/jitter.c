/*
 * How punctual a CPU is: how late timers wake a thread, and how long it is taken away from one that runs.
 *
 * Two measurements, as cyclictest and sysjitter (or osnoise) make them. *Wake-ups*: sleep until a fixed time, again and
 * again, and count how late it was. *Noise*: read the clock as fast as it goes; two readings that lie further apart than
 * a threshold are a gap, in which something else had the CPU. It spins in bursts of 80 of each 100 ms: Linux takes the
 * CPU from a real-time thread that leaves nothing of it to others.
 *
 * Histograms are log-linear, 32 buckets for each doubling, so a bucket is within 3 % of what it holds. They are static
 * and touched beforehand; nothing is allocated while it measures, and the interpreter's lock is not held.
 */

#include "native.h"
#include "wait.h"

#include <errno.h>
#include <sys/mman.h>
#include <time.h>

enum { SUB_BUCKETS = 32, BUCKETS = 60 * SUB_BUCKETS, BURST_MS = 80, PAUSE_MS = 20 };

struct spread {
    uint64_t count, total, min, max;
    uint64_t buckets[BUCKETS];
};

static unsigned bucket_of(uint64_t value) {
    if (value < SUB_BUCKETS)
        return (unsigned)value;
    unsigned exponent = 63 - (unsigned)__builtin_clzll(value);
    return (exponent - 4) * SUB_BUCKETS + (unsigned)((value >> (exponent - 5)) & (SUB_BUCKETS - 1));
}

static uint64_t bucket_start(unsigned bucket) {
    if (bucket < SUB_BUCKETS)
        return bucket;
    return (uint64_t)(SUB_BUCKETS + bucket % SUB_BUCKETS) << (bucket / SUB_BUCKETS - 1);
}

static void spread_add(struct spread *spread, uint64_t value) {
    spread->buckets[bucket_of(value)]++;
    spread->count++;
    spread->total += value;
    if (value < spread->min)
        spread->min = value;
    if (value > spread->max)
        spread->max = value;
}

static void sleep_until(uint64_t time_ns) {
    struct timespec until = {.tv_sec = (time_t)(time_ns / 1000000000u), .tv_nsec = (long)(time_ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
    }
}

/* Returns how many intervals were missed altogether, because the one before them ended so late. */
static uint64_t measure_wakeups(struct spread *late, uint64_t duration_ns, uint64_t interval_ns) {
    uint64_t next = clock_ns() + interval_ns, end = next + duration_ns, missed = 0;
    while (next < end) {
        sleep_until(next);
        uint64_t now = clock_ns();
        spread_add(late, now - next);
        next += interval_ns;
        if (next <= now) {
            uint64_t behind = (now - next) / interval_ns + 1;
            missed += behind;
            next += behind * interval_ns;
        }
    }
    return missed;
}

/* Returns for how long it looked. */
static uint64_t measure_noise(struct spread *gaps, uint64_t duration_ns, uint64_t threshold_ns) {
    uint64_t looked = 0, start = clock_ns(), end = start + duration_ns;
    while (start < end) {
        uint64_t burst_end = start + BURST_MS * UINT64_C(1000000), last = start;
        if (burst_end > end)
            burst_end = end;
        while (last < burst_end) {
            uint64_t now = clock_ns();
            if (now - last > threshold_ns)
                spread_add(gaps, now - last);
            last = now;
        }
        looked += last - start;
        if (last < end)
            sleep_until(last + PAUSE_MS * UINT64_C(1000000));
        start = clock_ns();
    }
    return looked;
}

static PyObject *spread_object(const struct spread *spread) {
    PyObject *buckets = PyList_New(0);
    for (unsigned i = 0; buckets && i < BUCKETS; i++) {
        if (!spread->buckets[i])
            continue;
        PyObject *item = Py_BuildValue("(KKK)", (unsigned long long)bucket_start(i), (unsigned long long)bucket_start(i + 1),
                                       (unsigned long long)spread->buckets[i]);
        if (!item || PyList_Append(buckets, item) < 0)
            Py_CLEAR(buckets);
        Py_XDECREF(item);
    }
    if (!buckets)
        return NULL;
    return Py_BuildValue("{s:K,s:K,s:K,s:K,s:N}", "count", (unsigned long long)spread->count, "total_ns",
                         (unsigned long long)spread->total, "min_ns",
                         (unsigned long long)(spread->count ? spread->min : 0), "max_ns",
                         (unsigned long long)spread->max, "buckets", buckets);
}

static void spread_clear(struct spread *spread) {
    memset(spread, 0, sizeof *spread);
    spread->min = UINT64_MAX;
}

static PyObject *native_jitter(PyObject *module, PyObject *args) {
    (void)module;
    static struct spread late, gaps;
    unsigned long long wake_ns, interval_ns, noise_ns, threshold_ns;
    if (!PyArg_ParseTuple(args, "KKKK", &wake_ns, &interval_ns, &noise_ns, &threshold_ns))
        return NULL;
    if (interval_ns < 1000 || interval_ns > UINT64_C(1000000000) || wake_ns > UINT64_C(86400000000000) ||
        noise_ns > UINT64_C(86400000000000)) {
        PyErr_SetString(PyExc_ValueError, "an interval of 1 us to 1 s, and at most a day");
        return NULL;
    }
    spread_clear(&late);
    spread_clear(&gaps);
    bool locked = mlockall(MCL_CURRENT) == 0;
    uint64_t missed, looked;
    Py_BEGIN_ALLOW_THREADS;
    missed = measure_wakeups(&late, wake_ns, interval_ns);
    looked = measure_noise(&gaps, noise_ns, threshold_ns);
    Py_END_ALLOW_THREADS;
    if (locked)
        munlockall();
    PyObject *late_object = spread_object(&late), *gaps_object = spread_object(&gaps);
    if (!late_object || !gaps_object) {
        Py_XDECREF(late_object);
        Py_XDECREF(gaps_object);
        return NULL;
    }
    return Py_BuildValue("{s:N,s:K,s:N,s:K,s:O}", "wakeups", late_object, "missed", (unsigned long long)missed, "noise",
                         gaps_object, "looked_ns", (unsigned long long)looked, "locked", locked ? Py_True : Py_False);
}
