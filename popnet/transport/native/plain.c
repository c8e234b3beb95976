/*
 * One ring of a link as a pipe of payloads, for those who need no tags.
 *
 * A record of `Link` is a tuple of a number and bytes; making and freeing these objects costs several times what the
 * ring does. Here a record is its bytes, or no object at all: *packed* calls copy records of one size between the
 * ring and a buffer, 64 messages of 64 bytes in one call and one publication.
 *
 * The rules are those of link.c, which owns the ring: the same sides, the same faults, the same release.
 */

#include "native.h"

typedef struct {
    PyObject_HEAD
    Link *link;
    long ring;
    uint32_t tag; /* of what is sent */
} Plain;

static PyTypeObject *plain_type;

static PyObject *link_plain(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    long ring;
    uint32_t tag = 0;
    if (!takes_arguments("plain", count, 1, 2) || !as_ring(args[0], &ring) || (count == 2 && !as_tag(args[1], &tag)) ||
        !link_usable((Link *)object, ring))
        return NULL;
    Plain *self = (Plain *)PyType_GenericAlloc(plain_type, 0);
    if (!self)
        return NULL;
    self->link = (Link *)Py_NewRef(object);
    self->ring = ring;
    self->tag = tag;
    return (PyObject *)self;
}

static void plain_dealloc(PyObject *object) {
    Py_XDECREF((PyObject *)((Plain *)object)->link);
    free_object(object);
}

/* ---- one at a time */

static PyObject *plain_send(PyObject *object, PyObject *data) {
    Plain *self = (Plain *)object;
    int staged = link_stage_object(self->link, self->ring, data, self->tag);
    if (staged < 0)
        return NULL;
    if (staged)
        link_publish(self->link, self->ring);
    return PyBool_FromLong(staged);
}

/* The payload of the next record: 1, 0 if there is none, -1 exception. */
static int plain_take(Plain *self, PyObject **payload) {
    struct consumer *in = &self->link->in[self->ring];
    uint32_t length, tag;
    const uint8_t *bytes = consumer_peek(in, &length, &tag);
    if (!bytes)
        return link_faulted(self->link) ? -1 : 0;
    *payload = PyBytes_FromStringAndSize((const char *)bytes, length);
    if (!*payload)
        return -1;
    consumer_take(in, length);
    return 1;
}

static PyObject *plain_receive(PyObject *object, PyObject *unused) {
    (void)unused;
    Plain *self = (Plain *)object;
    PyObject *payload;
    if (!side_usable(self->link, IN, self->ring))
        return NULL;
    int taken = plain_take(self, &payload);
    if (taken < 0)
        return NULL;
    if (taken == 0)
        Py_RETURN_NONE;
    link_release(self->link, self->ring);
    return payload;
}

/* ---- many */

static PyObject *plain_send_many(PyObject *object, PyObject *payloads) {
    Plain *self = (Plain *)object;
    if (!side_usable(self->link, OUT, self->ring))
        return NULL;
    bool list = PyList_Check(payloads);
    Py_ssize_t sent = 0, total = PySequence_Size(payloads);
    int staged = total < 0 ? -1 : 1;
    for (; staged > 0 && sent < total; sent += staged > 0) {
        PyObject *payload =
            list ? Py_XNewRef(PyList_GetItem(payloads, sent)) : PySequence_GetItem(payloads, sent);
        staged = payload ? link_stage_object(self->link, self->ring, payload, self->tag) : -1;
        Py_XDECREF(payload);
    }
    if (total >= 0)
        link_publish(self->link, self->ring); /* what was staged before an exception is sent nevertheless */
    return staged < 0 ? NULL : PyLong_FromSsize_t(sent);
}

static PyObject *plain_receive_many(PyObject *object, PyObject *number) {
    Plain *self = (Plain *)object;
    Link *link = self->link;
    long budget = PyLong_AsLong(number);
    if ((budget == -1 && PyErr_Occurred()) || !side_usable(link, IN, self->ring))
        return NULL;
    PyObject *payloads = PyList_New(0), *payload;
    int taken = payloads ? 1 : -1;
    while (taken > 0 && budget-- > 0 && (taken = plain_take(self, &payload)) > 0) {
        taken = PyList_Append(payloads, payload) == 0 ? 1 : -1;
        Py_DECREF(payload);
    }
    return link_taken(link, self->ring, payloads, taken);
}

/* ---- packed: no object a record */

/* The arguments (buffer, size); *count is how many records of that size the buffer holds. */
static bool packed_arguments(Plain *self, int side, PyObject *const *args, int flags, Py_buffer *buffer,
                             uint32_t *size, Py_ssize_t *count) {
    Py_ssize_t each = PyLong_AsSsize_t(args[1]);
    if ((each == -1 && PyErr_Occurred()) || PyObject_GetBuffer(args[0], buffer, flags) < 0)
        return false;
    if (each < 1 || buffer->len % each)
        PyErr_Format(PyExc_ValueError, "%zd bytes are not packed records of %zd bytes", buffer->len, each);
    else if (side_usable(self->link, side, self->ring) && payload_fits(self->ring, each)) {
        *size = (uint32_t)each;
        *count = buffer->len / each;
        return true;
    }
    PyBuffer_Release(buffer);
    return false;
}

static PyObject *plain_send_packed(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    Plain *self = (Plain *)object;
    struct producer *out = &self->link->out[self->ring];
    Py_buffer buffer;
    uint32_t size;
    Py_ssize_t total, sent = 0;
    if (!takes_arguments("send_packed", count, 2, 2) ||
        !packed_arguments(self, OUT, args, PyBUF_SIMPLE, &buffer, &size, &total))
        return NULL;
    const uint8_t *from = buffer.buf;
    for (uint8_t *payload; sent < total && (payload = producer_reserve(out, size)); sent++, from += size) {
        memcpy(payload, from, size);
        producer_stage(out, size, self->tag);
    }
    if (sent < total)
        add(&out->counters->full, 1);
    link_publish(self->link, self->ring);
    PyBuffer_Release(&buffer);
    return link_faulted(self->link) ? NULL : PyLong_FromSsize_t(sent);
}

/* Ends before a record of another size: whoever reads it by `receive` sees which. */
static PyObject *plain_receive_packed(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    Plain *self = (Plain *)object;
    struct consumer *in = &self->link->in[self->ring];
    Py_buffer buffer;
    uint32_t size, length, tag;
    Py_ssize_t room, taken = 0;
    if (!takes_arguments("receive_packed", count, 2, 2) ||
        !packed_arguments(self, IN, args, PyBUF_WRITABLE, &buffer, &size, &room))
        return NULL;
    uint8_t *to = buffer.buf;
    const uint8_t *payload;
    for (; taken < room && (payload = consumer_peek(in, &length, &tag)) && length == size; taken++, to += size) {
        memcpy(to, payload, size);
        consumer_take(in, size);
    }
    if (taken && taken == room && in->produced_seen != in->taken)
        add(&in->counters->budget_exhausted, 1);
    link_release(self->link, self->ring);
    PyBuffer_Release(&buffer);
    return taken == 0 && link_faulted(self->link) ? NULL : PyLong_FromSsize_t(taken);
}

static PyMethodDef plain_methods[] = {
    {"send", plain_send, METH_O, NULL},
    {"receive", plain_receive, METH_NOARGS, NULL},
    {"send_many", plain_send_many, METH_O, NULL},
    {"receive_many", plain_receive_many, METH_O, NULL},
    {"send_packed", (PyCFunction)(void (*)(void))plain_send_packed, METH_FASTCALL, NULL},
    {"receive_packed", (PyCFunction)(void (*)(void))plain_receive_packed, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot plain_slots[] = {
    {Py_tp_dealloc, plain_dealloc},
    {Py_tp_methods, plain_methods},
    {0, NULL},
};

static PyType_Spec plain_spec = {"popnet.transport._native.Plain", sizeof(Plain), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE |
                                     Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                 plain_slots};
