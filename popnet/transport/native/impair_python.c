/* Impairments as Python calls them: set, taken down and up, asked; and their fates alone, for tests. */

#include "pump.h"

/* Inside the gate: the place's impairment, made if there is none yet and one is `wanted`. False: no memory, or
 * no timer. */
static bool impair_at(Pump *pump, enum impair_place place, int kid, bool wanted, struct impair **found) {
    *found = pump->impairments ? *impair_place(pump->impairments, place, kid) : NULL;
    if (*found || !wanted)
        return true;
    if (!pump->impairments && !(pump->impairments = impairments_make(pump->epoll)))
        return false;
    *found = *impair_place(pump->impairments, place, kid) = calloc(1, sizeof **found);
    return *found != NULL;
}

static bool place_in_range(int place, int kid) {
    if (place < 0 || place >= PLACES)
        PyErr_SetString(PyExc_ValueError, "a place is 0 (from a kernel), 1 (NIC, in) or 2 (NIC, out)");
    return place >= 0 && place < PLACES && kid_in_range(kid);
}

static void *copy_of(const Py_buffer *buffer) {
    void *copy = malloc((size_t)buffer->len + 1);
    if (copy)
        memcpy(copy, buffer->buf, (size_t)buffer->len);
    return copy;
}

/* What Python gave as configuration and table; false with an exception set. */
static bool config_from(struct impair *fresh, const Py_buffer *config, const Py_buffer *table) {
    if (config->len != sizeof fresh->config || table->len % sizeof *fresh->table ||
        (size_t)table->len / sizeof *fresh->table > IMPAIR_TABLE_MAX) {
        PyErr_Format(PyExc_ValueError, "a configuration has %zu bytes, a table at most %u numbers of 4",
                     sizeof fresh->config, IMPAIR_TABLE_MAX);
        return false;
    }
    memcpy(&fresh->config, config->buf, sizeof fresh->config);
    fresh->set = true;
    fresh->table_length = (uint32_t)((size_t)table->len / sizeof *fresh->table);
    if (!(fresh->table = copy_of(table)))
        PyErr_NoMemory();
    return fresh->table != NULL;
}

static bool program_from(struct impair *fresh, const Py_buffer *program, unsigned long long filter) {
    if (!program->buf)
        return true;
    if (program->len == 0 || program->len % BPF_INSN_SIZE || filter == 0) {
        PyErr_SetString(PyExc_ValueError, "a filter is whole bpf_insns, and comes with bpf_filter's address");
        return false;
    }
    fresh->filter = (bpf_filter_function)(uintptr_t)filter;
    if (!(fresh->program = copy_of(program)))
        PyErr_NoMemory();
    return fresh->program != NULL;
}

/* impair(place, kid, config or None, table, program or None, bpf_filter_address) */
static PyObject *pump_impair(PyObject *object, PyObject *args) {
    Pump *self = (Pump *)object;
    int place, kid;
    Py_buffer config, table, program;
    unsigned long long filter;
    if (!PyArg_ParseTuple(args, "iiz*y*z*K", &place, &kid, &config, &table, &program, &filter))
        return NULL;
    struct impair fresh = {0}, *impair = NULL;
    bool good = place_in_range(place, kid) && (!config.buf || (config_from(&fresh, &config, &table) &&
                                                               program_from(&fresh, &program, filter)));
    if (good) {
        VISIT(self, good = impair_at(self, (enum impair_place)place, kid, fresh.set, &impair);
              if (impair) impair_exchange(impair, &fresh));
        if (!good)
            PyErr_NoMemory();
    }
    free(fresh.table);
    free(fresh.program);
    PyBuffer_Release(&config);
    PyBuffer_Release(&table);
    PyBuffer_Release(&program);
    if (!good)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *pump_impair_down(PyObject *object, PyObject *args) {
    Pump *self = (Pump *)object;
    int place, kid, down;
    if (!PyArg_ParseTuple(args, "iip", &place, &kid, &down) || !place_in_range(place, kid))
        return NULL;
    struct impair *impair;
    bool good;
    VISIT(self, good = impair_at(self, (enum impair_place)place, kid, down, &impair);
          if (impair) impair->down = down);
    if (!good)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* Inside the gate. False: nothing was ever set there. */
static bool impair_look(Pump *pump, enum impair_place place, int kid, struct impair *seen) {
    struct impair *impair = pump->impairments ? *impair_place(pump->impairments, place, kid) : NULL;
    if (impair)
        *seen = *impair;
    return impair != NULL;
}

static PyObject *figures_of(const struct impair *seen) {
    const struct impair_figures *figures = &seen->figures;
    PyObject *told = PyDict_New();
    bool good = told != NULL;
#define X(name) good = good && set_number(told, #name, figures->name);
    IMPAIR_FIGURES(X)
#undef X
    good = good && set_number(told, "queued", seen->queued) && set_number(told, "down", seen->down) &&
           set_number(told, "set", seen->set) &&
           set_number(told, "delay_p50_ns", histogram_at(figures->delays, 500)) &&
           set_number(told, "delay_p99_ns", histogram_at(figures->delays, 990)) &&
           set_number(told, "late_p50_ns", histogram_at(figures->late, 500)) &&
           set_number(told, "late_p99_ns", histogram_at(figures->late, 990));
    if (!good)
        Py_CLEAR(told);
    return told;
}

static PyObject *pump_impair_figures(PyObject *object, PyObject *args) {
    Pump *self = (Pump *)object;
    int place, kid;
    bool found;
    if (!PyArg_ParseTuple(args, "ii", &place, &kid) || !place_in_range(place, kid))
        return NULL;
    struct impair *seen = calloc(1, sizeof *seen);
    if (!seen)
        return PyErr_NoMemory();
    VISIT(self, found = impair_look(self, (enum impair_place)place, kid, seen));
    PyObject *told = found ? figures_of(seen) : PyDict_New();
    free(seen);
    return told;
}

/* fates(config, table, [(now_ns, size), ...]): what each frame would meet. */
static PyObject *native_fates(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer config, table;
    PyObject *frames, *fates = NULL;
    struct impair fresh = {0};
    if (!PyArg_ParseTuple(args, "y*y*O!", &config, &table, &PyList_Type, &frames))
        return NULL;
    bool good = config_from(&fresh, &config, &table) && (fates = PyList_New(0));
    for (Py_ssize_t i = 0; good && i < PyList_Size(frames); i++) {
        unsigned long long now_ns;
        unsigned size;
        PyObject *told = NULL;
        if (PyArg_ParseTuple(PyList_GetItem(frames, i), "KI", &now_ns, &size)) {
            struct impair_fate fate = impair_decide(&fresh.state, &fresh.config, fresh.table, fresh.table_length,
                                                    now_ns, size);
            told = Py_BuildValue("(iiiiIKK)", fate.lost, fate.reordered, (int)fate.copies, (int)fate.dropped,
                                 fate.corrupted ? fate.bit : 0u, (unsigned long long)fate.due_ns[0],
                                 (unsigned long long)fate.due_ns[1]);
        }
        good = told && PyList_Append(fates, told) == 0;
        Py_XDECREF(told);
    }
    free(fresh.table);
    PyBuffer_Release(&config);
    PyBuffer_Release(&table);
    if (!good)
        Py_CLEAR(fates);
    return fates;
}
