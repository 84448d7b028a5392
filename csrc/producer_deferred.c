/* What a record holds in place of a value that an accelerator is to fill in: a reference into the ring's slab (slab.h), whose
 * entry is given back if the object is freed unlogged; or the reason why the value never comes. */
#include "producer.h"
#include "slab.h"

PyTypeObject *deferred_type;

static deferred_value *deferred_new(uint64_t bits) {
    deferred_value *item = (deferred_value *)deferred_type->tp_alloc(deferred_type, 0);
    if (item) item->bits = bits;
    return item;
}

PyObject *deferred_list(Py_ssize_t count) {
    PyObject *values = PyList_New(count);
    for (Py_ssize_t i = 0; values && i < count; i++) {
        deferred_value *item = deferred_new(0);
        if (item) PyList_SET_ITEM(values, i, (PyObject *)item);
        else Py_CLEAR(values);
    }
    return values;
}

PyObject *deferred_reserve(PyObject *op, PyObject *args) {
    producer *self = (producer *)op;
    unsigned count;
    if (!PyArg_ParseTuple(args, "I:_reserve", &count)) return NULL;
    if (!self->ring) Py_RETURN_NONE;
    PyObject *values = deferred_list(count);
    if (!values) return NULL;
    /* Looked at again: the collector, whom the list may have called, may have closed the logger. */
    advlog_ring *ring = self->ring;
    uint64_t reference = ring ? advlog_slab_reserve(ring, count) : 0;
    if (!reference) {
        Py_DECREF(values);
        Py_RETURN_NONE;
    }
    for (unsigned i = 0; i < count; i++) {
        deferred_value *item = (deferred_value *)PyList_GET_ITEM(values, i);
        item->bits = reference + i;
        item->ring = ring;
        item->owner = Py_NewRef(self->owner);
    }
    return Py_BuildValue("KLN", reference % advlog_slab_entries(ring), (long long)advlog_slab_key(ring, reference), values);
}

PyObject *deferred_unresolved(PyObject *Py_UNUSED(op), PyObject *args) {
    int reason;
    if (!PyArg_ParseTuple(args, "i:_unresolved", &reason)) return NULL;
    if (reason < ADVLOG_UNRESOLVED_TIMEOUT || reason >= ADVLOG_UNRESOLVED_REASONS) {
        PyErr_Format(PyExc_ValueError, "reason: expected an advlog_unresolved, got %d", reason);
        return NULL;
    }
    return (PyObject *)deferred_new((uint64_t)reason);
}

static void deferred_dealloc(PyObject *op) {
    deferred_value *item = (deferred_value *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (item->ring) slab_abandon(item->ring, item->bits);
    Py_XDECREF(item->owner);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot deferred_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("What a record holds in place of a value that an accelerator is to fill in.")},
    {Py_tp_dealloc, deferred_dealloc},
    {0, NULL}};

static PyType_Spec deferred_spec = {
    .name = "advlog_fast._producer.Deferred",
    .basicsize = sizeof(deferred_value),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = deferred_slots,
};

bool deferred_prepare(PyObject *module) {
    if (!deferred_type && !(deferred_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &deferred_spec, NULL))) return false;
    return PyModule_AddType(module, deferred_type) == 0;
}
