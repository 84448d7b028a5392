/* Guard: a re-entrant lock for `with`, whose acquire gives up at a deadline.
 *
 * In C because of interrupts. Python's exception of a signal may come between any two bytecodes: in a class of Python's
 * also between the lock's acquisition and the note that it is held, which then stays held for good. Here the two are one
 * call, and the interpreter itself puts the release behind it. */
#include "guard.h"

#include "compiler.h"

typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock;
    /* Both under the GIL. */
    unsigned long owner;
    unsigned long depth; /* of its holds; 0: it is free */
    int64_t timeout_ns;
} guard_object;

static PyObject *guard_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs)) {
    guard_object *g = (guard_object *)type->tp_alloc(type, 0);
    if (g && !(g->lock = PyThread_allocate_lock())) {
        Py_DECREF(g);
        return PyErr_NoMemory();
    }
    return (PyObject *)g;
}

static int guard_init(PyObject *self, PyObject *args, PyObject *kwargs) {
    guard_object *g = (guard_object *)self;
    static char *names[] = {"timeout_s", NULL};
    double timeout_s = 1.0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|d", names, &timeout_s)) return -1;
    if (!(timeout_s >= 0 && timeout_s <= 1e6)) {
        PyErr_Format(PyExc_ValueError, "timeout_s: expected seconds, from 0 to 10**6");
        return -1;
    }
    g->timeout_ns = (int64_t)(timeout_s * 1e9);
    return 0;
}

static void guard_dealloc(PyObject *self) {
    guard_object *g = (guard_object *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (g->lock) {
        if (g->depth) PyThread_release_lock(g->lock);
        PyThread_free_lock(g->lock);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

/* Waits with the GIL released. 1: it is ours, 0: not in time, -1: a signal handler raised. */
static int acquire(guard_object *g) {
    if (PyThread_acquire_lock(g->lock, NOWAIT_LOCK)) return 1;
    int64_t deadline = advlog_monotonic_ns() + g->timeout_ns;
    for (;;) {
        int64_t left = deadline - advlog_monotonic_ns();
        if (left <= 0) return 0;
        PyLockStatus status;
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(g->lock, left / 1000 + 1, 1);
        Py_END_ALLOW_THREADS
        if (status == PY_LOCK_ACQUIRED) return 1;
        if (status == PY_LOCK_INTR && PyErr_CheckSignals() < 0) return -1;
    }
}

static PyObject *guard_enter(PyObject *self, PyObject *Py_UNUSED(none)) {
    guard_object *g = (guard_object *)self;
    unsigned long me = PyThread_get_thread_ident();
    if (g->depth && g->owner == me) {
        g->depth++;
        Py_RETURN_TRUE;
    }
    int held = acquire(g);
    if (held < 0) return NULL;
    if (!held) Py_RETURN_FALSE;
    g->owner = me;
    g->depth = 1;
    Py_RETURN_TRUE;
}

/* Holds end in the reverse of their order, and one that failed lies outside of those that succeeded: so a thread that holds
 * it when a block ends, holds it for that block. */
static PyObject *guard_exit(PyObject *self, PyObject *Py_UNUSED(args)) {
    guard_object *g = (guard_object *)self;
    if (g->depth && g->owner == PyThread_get_thread_ident() && --g->depth == 0) PyThread_release_lock(g->lock);
    Py_RETURN_NONE;
}

static PyMethodDef guard_methods[] = {
    {"__enter__", guard_enter, METH_NOARGS, "Takes the lock; whether it came free in time."},
    {"__exit__", guard_exit, METH_VARARGS, "Gives it back, where it was taken."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot guard_slots[] = {
    {Py_tp_doc, "A re-entrant lock whose acquire gives up after `timeout_s`: `with guard as held:`."},
    {Py_tp_new, guard_new},
    {Py_tp_init, guard_init},
    {Py_tp_dealloc, guard_dealloc},
    {Py_tp_methods, guard_methods},
    {0, NULL},
};

static PyType_Spec guard_spec = {
    .name = "advlog_fast._producer.Guard",
    .basicsize = sizeof(guard_object),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = guard_slots,
};

int guard_add_to(PyObject *module) {
    PyObject *type = PyType_FromModuleAndSpec(module, &guard_spec, NULL);
    if (!type) return -1;
    int failed = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return failed;
}
