/* What the arguments of a call mean: names to places in a record, the plans of call sites, and scalars of other libraries,
 * which are exchanged for their values before anything of the call is staged. */
#include "producer.h"

static PyObject *item_name, *is_cuda_name; /* for the life of the process */

static const char *const FIXED_NAMES[TARGET_NAME] = {"epoch",    "batch",         "total_batches", "step",       "loss",
                                                     "accuracy", "learning_rate", "gradient_norm", "batch_time", "data_time"};

bool args_prepare(void) {
    if (!item_name && !(item_name = PyUnicode_InternFromString("item"))) return false;
    return is_cuda_name || (is_cuda_name = PyUnicode_InternFromString("is_cuda"));
}

/* The ring has no room for more names: one that another producer gave it may have an id all the same. */
static ADVLOG_COLD int target_in_full_ring(producer *self, PyObject *plain) {
    Py_ssize_t bytes;
    const char *utf8 = PyUnicode_AsUTF8AndSize(plain, &bytes);
    int id = utf8 ? name_find(self->ring, utf8, (uint64_t)bytes) : -1;
    PyObject *target = id < 0 ? NULL : PyLong_FromLong(TARGET_NAME + id);
    bool kept = target && PyDict_SetItem(self->targets, plain, target) == 0;
    Py_XDECREF(target);
    PyErr_Clear();
    return kept ? TARGET_NAME + id : TARGET_SKIPPED;
}

int args_target(producer *self, PyObject *name) {
    PyObject *plain = PyUnicode_Check(name) ? PyUnicode_FromObject(name) : NULL;
    PyObject *known = plain ? PyDict_GetItemWithError(self->targets, plain) : NULL;
    int target = known ? (int)PyLong_AsLong(known) : TARGET_UNKNOWN;
    if (!known) PyErr_Clear();
    if (ADVLOG_UNLIKELY(target == TARGET_UNKNOWN && self->skips_new) && plain && self->ring && !ring_is_child(self->ring))
        target = target_in_full_ring(self, plain);
    Py_XDECREF(plain);
    return target;
}

PyObject *args_fixed_targets(void) {
    PyObject *targets = PyDict_New();
    for (int i = 0; targets && i < TARGET_NAME; i++) {
        PyObject *target = PyLong_FromLong(i);
        if (!target || PyDict_SetItemString(targets, FIXED_NAMES[i], target)) Py_CLEAR(targets);
        Py_XDECREF(target);
    }
    return targets;
}

int args_key_target(producer *self, PyObject *key) {
    known_key *known = &self->key[(uintptr_t)key / 16 % KEYS]; /* objects lie 16 bytes apart or more */
    if (ADVLOG_LIKELY(known->name == key)) return known->target;
    if (!PyUnicode_CheckExact(key)) return TARGET_UNKNOWN;
    int target = args_target(self, key);
    if (target < 0) return target;
    known->target = target;
    Py_XSETREF(known->name, Py_NewRef(key)); /* no code runs at the end of an exact str */
    return target;
}

void args_forget_keys(producer *self) {
    for (unsigned i = 0; i < KEYS; i++) Py_CLEAR(self->key[i].name);
}

/* A call f(**mapping) makes its tuple anew each time: such plans are never used, and are the first to go. */
void args_learn_plan(producer *self, PyObject *names, const int32_t *target) {
    call_plan *plan;
    while ((plan = &self->plan[self->next_plan++ % PLANS])->recent) plan->recent = 0;
    memcpy(plan->target, target, sizeof plan->target);
    PyObject *old = plan->names;
    plan->names = Py_NewRef(names);
    Py_XDECREF(old);
}

void args_forget_plans(producer *self) {
    for (unsigned i = 0; i < PLANS; i++) {
        self->plan[i].recent = 0;
        Py_CLEAR(self->plan[i].names);
    }
}

static const scalar_kind *learned_kind(const producer *self, PyObject *o) {
    for (unsigned i = 0; i < SCALAR_TYPES; i++)
        if (self->scalar[i].type == (PyObject *)Py_TYPE(o)) return &self->scalar[i];
    return NULL;
}

void args_exchange_end(exchange *x) {
    while (x->count > 0) Py_DECREF(x->item[--x->count]);
}

/* Clears an Exception: the slow path will meet it again. False for anything else, such as a KeyboardInterrupt. */
static bool cleared_for_slow_path(void) {
    if (!PyErr_ExceptionMatches(PyExc_Exception)) return false;
    PyErr_Clear();
    return true;
}

/* Whether argument `at` of the call is one of the record's integers. */
static bool is_integer(producer *self, Py_ssize_t at, Py_ssize_t nargs, PyObject *names) {
    if (at < nargs) return at < (Py_ssize_t)Py_ARRAY_LENGTH(BATCH_ORDER) && BATCH_ORDER[at] < TARGET_CORE;
    int target = args_target(self, PyTuple_GET_ITEM(names, at - nargs));
    return target >= 0 && target < TARGET_CORE;
}

bool args_exchange_items(producer *self, exchange *x, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    Py_ssize_t all = nargs + (names ? PyTuple_GET_SIZE(names) : 0);
    for (; x->count < all; x->count++) {
        PyObject *o = args[x->count], *item = NULL;
        const scalar_kind *kind = learned_kind(self, o);
        bool deferrable = false;
        if (kind && kind->may_lie_on_device) {
            PyObject *is_cuda = PyObject_GetAttr(o, is_cuda_name);
            if (!is_cuda && !cleared_for_slow_path()) return false;
            deferrable = is_cuda == Py_True;
            Py_XDECREF(is_cuda);
        }
        if (deferrable) {
            /* An integer is a record's place, and cannot come later. */
            if (!is_integer(self, x->count, nargs, names)) x->deferrable[x->deferrable_count++] = (uint8_t)x->count;
        } else if (kind) {
            item = PyObject_CallMethodNoArgs(o, item_name);
            if (!item && !cleared_for_slow_path()) return false;
            x->changed |= item != NULL;
        }
        x->item[x->count] = item ? item : Py_NewRef(o);
    }
    return true;
}

/* Replaces the value by its item(). False if it is no scalar of the host; an error may be set. */
static bool exchange_item(producer *self, PyObject *mapping, PyObject *key, PyObject *value) {
    const scalar_kind *kind = learned_kind(self, value);
    if (!kind) return false;
    if (kind->may_lie_on_device) {
        PyObject *is_cuda = PyObject_GetAttr(value, is_cuda_name);
        Py_XDECREF(is_cuda);
        if (is_cuda != Py_False) return false;
    }
    PyObject *item = PyObject_CallMethodNoArgs(value, item_name);
    bool done = item && PyDict_SetItem(mapping, key, item) == 0;
    Py_XDECREF(item);
    return done;
}

PyObject *args_mapping_of_items(producer *self, PyObject *mapping) {
    PyObject *copy = PyDict_Copy(mapping); /* no code that may run from here on knows it */
    Py_ssize_t at = 0;
    PyObject *key, *value;
    bool all = copy != NULL;
    while (all && PyDict_Next(copy, &at, &key, &value))
        if (!PyFloat_CheckExact(value) && !PyLong_CheckExact(value))
            all = PyUnicode_CheckExact(key) && exchange_item(self, copy, key, value);
    if (!all) Py_CLEAR(copy);
    if (PyErr_Occurred()) cleared_for_slow_path();
    return copy;
}

enum learning { LEARN_FAILED = -1, LEARN_FULL, LEARN_KNOWN, LEARN_NOT_NOW };

/* Gives the plain string an id. */
static enum learning learn(producer *self, PyObject *name) {
    Py_ssize_t bytes;
    const char *utf8 = PyUnicode_AsUTF8AndSize(name, &bytes);
    if (!utf8) return LEARN_FAILED;
    if (!self->ring || ring_is_child(self->ring)) return LEARN_NOT_NOW;
    if (args_target(self, name) >= 0) return LEARN_KNOWN;
    int id = advlog_name_intern(self->ring, utf8, (uint64_t)bytes);
    if (id < 0) return id == ADVLOG_NAME_NO_ROOM ? LEARN_NOT_NOW : LEARN_FULL;
    PyObject *target = PyLong_FromLong(TARGET_NAME + id);
    if (!target) return LEARN_FAILED;
    int failed = PyDict_SetItem(self->targets, name, target);
    Py_DECREF(target);
    return failed ? LEARN_FAILED : LEARN_KNOWN;
}

PyObject *args_learn(PyObject *op, PyObject *name) {
    PyObject *plain = PyUnicode_FromObject(name); /* raises TypeError where it is no string */
    if (!plain) return NULL;
    enum learning learned = learn((producer *)op, plain);
    Py_DECREF(plain);
    if (learned == LEARN_NOT_NOW) Py_RETURN_NONE;
    return learned == LEARN_FAILED ? NULL : PyBool_FromLong(learned == LEARN_KNOWN);
}

PyObject *args_skip_new_names(PyObject *op, PyObject *Py_UNUSED(none)) {
    ((producer *)op)->skips_new = true;
    Py_RETURN_NONE;
}

PyObject *args_learn_scalar(PyObject *op, PyObject *args) {
    producer *self = (producer *)op;
    PyObject *type;
    int deferrable;
    if (!PyArg_ParseTuple(args, "O!p:_learn_scalar", &PyType_Type, &type, &deferrable)) return NULL;
    for (unsigned i = 0; i < SCALAR_TYPES; i++)
        if (self->scalar[i].type == type) Py_RETURN_NONE;
    scalar_kind *kind = &self->scalar[self->next_scalar++ % SCALAR_TYPES];
    PyObject *old = kind->type;
    *kind = (scalar_kind){Py_NewRef(type), deferrable};
    Py_XDECREF(old);
    Py_RETURN_NONE;
}
