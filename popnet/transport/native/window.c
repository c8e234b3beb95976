/* Windows: the mapping, and its face to Python. */

#include "native.h"

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
    {"mtu", SLOT_MTU},
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
