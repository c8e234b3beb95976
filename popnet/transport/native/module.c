/* The module popnet.transport._native: all parts as one file to the compiler (native.h says why). */

#include "native.h"

#include "window.c"
#include "link.c"
#include "plain.c"
#include "link_wait.c"
#include "look.c"
#include "offload.c"
#include "capture.c"
#include "pump.h"
#include "route.c"
#include "impaired.c"
#include "pump.c"
#include "pump_python.c"
#include "jitter.c"
#include "anchor.c"

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
    plain_type = add_type(module, &plain_spec);
    pump_type = add_type(module, &pump_spec);
    violation_error = add_error(module, "popnet.transport._native.Violation", "Violation",
                                "The peer wrote nonsense into its window.");
    closed_error =
        add_error(module, "popnet.transport._native.LinkClosed", "LinkClosed", "This end closed the link.");
    return window_type && link_type && plain_type && pump_type && violation_error && closed_error && add_offsets(module) &&
           add_numbers(module, "RING_SIZES", RING_SIZE) && add_numbers(module, "RING_OFFSETS", RING_OFFSET) &&
           add_numbers(module, "PAYLOAD_MAX", PAYLOAD_MAX) &&
           PyModule_AddIntConstant(module, "WINDOW_SIZE", WINDOW_SIZE) == 0;
}

static PyMethodDef module_functions[] = {
    {"look", FAST(native_look), METH_FASTCALL, NULL},
    {"looks", native_looks, METH_O, NULL},
    {"learn", native_learn, METH_VARARGS, NULL},
    {"fates", native_fates, METH_VARARGS, NULL},
    {"jitter", native_jitter, METH_VARARGS, NULL},
    {"anchor", native_anchor, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "popnet.transport._native",
    .m_size = -1,
    .m_methods = module_functions,
};

PyMODINIT_FUNC PyInit__native(void);
PyMODINIT_FUNC PyInit__native(void) {
    PyObject *module = PyModule_Create(&module_definition);
    if (module && !fill_module(module))
        Py_CLEAR(module);
    return module;
}
