/* The hot call: a base type of AdvancedLogger whose log_batch_progress pushes
 * into the ring with the GIL held.
 *
 * cffi releases the GIL around every call, and with another Python thread waiting
 * for it that costs up to the 5 ms switch interval. So this type reads the clock
 * and pushes without leaving the interpreter. It takes exact floats and ints (and
 * None for "absent"). Scalars of types that it has learned, numpy's and torch's, are
 * asked for their item() first; of those that lie on an accelerator a method in Python,
 * `defer`, asks for the values, and the record refers to them (slab.h). Everything else, a full ring and a new name among it,
 * goes to a method in Python, `_log_batch_slowly`, which converts and comes back, or
 * raises.
 *
 * Above 500 lines because it is the one file that knows Python.
 *
 * Every argument is converted before a position is reserved: between reservation
 * and publication runs no Python API. The GIL makes what is stored in `self`, and
 * the ring's accepted_call counts, the holder's own. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "guard.h"
#include "names.h"
#include "slab.h"

enum { TARGET_EPOCH, TARGET_BATCH, TARGET_TOTAL, TARGET_STEP, TARGET_CORE, TARGET_NAME = TARGET_CORE + ADVLOG_CORE_METRICS };

static const char *const FIXED_NAMES[TARGET_NAME] = {
    "epoch", "batch", "total_batches", "step", "loss", "accuracy", "learning_rate", "gradient_norm", "batch_time", "data_time"};

/* log_batch_progress(epoch, batch, total_batches, loss, ..., data_time, step) by position. */
static const uint16_t BATCH_ORDER[] = {TARGET_EPOCH,    TARGET_BATCH,    TARGET_TOTAL,    TARGET_CORE,     TARGET_CORE + 1, TARGET_CORE + 2,
                                       TARGET_CORE + 3, TARGET_CORE + 4, TARGET_CORE + 5, TARGET_STEP};
static const uint16_t PERFORMANCE_ORDER[] = {TARGET_CORE + ADVLOG_BATCH_TIME, TARGET_CORE + ADVLOG_DATA_TIME};

/* Which argument goes where, for one tuple of keyword names. A call site's tuple
 * is a constant of its code, so its address stands for its names while it lives. */
#define PLAN_NAMES 27
#define PLANS 8

/* A call with more arguments converts them slowly. */
#define MOST_ITEMS 64
static PyObject *item_name, *is_cuda_name; /* for the life of the process */

typedef struct {
    PyObject *names; /* strong */
    uint16_t recent; /* used since plan_learn last passed by */
    uint16_t target[PLAN_NAMES];
} call_plan;

/* One call in so many slots of the ring is timed, and the latest times are kept. */
#define SAMPLE_SLOTS 1024
#define SAMPLES 256
#define SCALAR_TYPES 8

/* In place of a value that is not there: what the slot is to hold. */
typedef struct {
    PyObject_HEAD
    uint64_t bits;     /* a reference into the slab, or an advlog_unresolved */
    advlog_ring *ring; /* whose slab that is, until the record is published; NULL for a reason */
    PyObject *owner;   /* keeps the ring's memory */
} deferred_value;

static PyTypeObject *deferred_type; /* for the life of the process */

/* A type of which values are asked for their item(), ... */
typedef struct {
    PyObject *type; /* strong */
    bool late;      /* ... unless they lie on an accelerator */
} scalar_kind;

typedef struct {
    PyObject_HEAD
    advlog_ring *ring;   /* NULL: not bound */
    PyObject *owner;     /* keeps the ring's memory */
    PyObject *targets;   /* dict: name -> target */
    PyObject *dict;
    PyObject *weakrefs;
    char silent;         /* neither bound nor unbound so far: calls do nothing */
    unsigned next_plan;
    call_plan plan[PLANS];
    PyObject *defer;     /* takes a list of tensors, returns one of deferred values; NULL: there is no such */
    scalar_kind scalar[SCALAR_TYPES];
    unsigned next_scalar;
    bool due; /* the call that is at its end is one to be timed */
    uint64_t sampled;
    uint32_t sample_ns[SAMPLES]; /* sample n at n % SAMPLES */
} producer;

/* A record under construction. `given` has a bit for each fixed target that came, None included. */
typedef struct {
    uint32_t given;
    uint32_t lates;
    advlog_record record;
    int64_t integer[4];
    uint16_t ids[ADVLOG_MAX_NAMES];
    double values[ADVLOG_MAX_NAMES];
    deferred_value *late[ADVLOG_MAX_NAMES + ADVLOG_CORE_METRICS]; /* borrowed; that many of them */
    uint8_t extra_late[ADVLOG_MAX_NAMES / 8];                     /* a bit each; unset while lates is 0 */
} staging;

static void staging_begin(staging *s, int kind) {
    s->given = 0;
    s->lates = 0;
    s->record.core_deferred = 0;
    s->record.extra_deferred = NULL;
    s->record.present = 0;
    s->record.extras = 0;
    s->record.kind = (uint8_t)kind;
    memset(s->integer, 0, sizeof s->integer);
    memset(s->record.core, 0, sizeof s->record.core);
}

/* float64 as it is, numpy's too, which is a float; an int if float64 can hold it: its value, and true. */
static inline bool exact_double(PyObject *o, double *value) {
    if (ADVLOG_LIKELY(PyFloat_CheckExact(o))) {
        *value = PyFloat_AS_DOUBLE(o);
        return true;
    }
    if (!PyLong_CheckExact(o)) {
        if (!PyFloat_Check(o)) return false;
        *value = PyFloat_AS_DOUBLE(o);
        return true;
    }
    int overflow;
    long long n = PyLong_AsLongLongAndOverflow(o, &overflow);
    if (overflow || n > (1LL << 53) || n < -(1LL << 53)) return false;
    *value = (double)n;
    return true;
}

static inline bool exact_integer(PyObject *o, unsigned target, int64_t *value) {
    if (!PyLong_CheckExact(o)) return false;
    int overflow;
    long long n = PyLong_AsLongLongAndOverflow(o, &overflow);
    if (overflow || (target != TARGET_STEP && (n > INT32_MAX || n < INT32_MIN))) return false;
    *value = n;
    return true;
}

/* The value, if it is a deferred one; -1 for a core metric, else the number of the extra. */
static ADVLOG_COLD bool stage_late(staging *s, int core, unsigned extra, PyObject *o, double *value) {
    if (Py_TYPE(o) != deferred_type) return false;
    deferred_value *late = (deferred_value *)o;
    memcpy(value, &late->bits, sizeof late->bits);
    s->late[s->lates++] = late;
    if (core >= 0) {
        s->record.core_deferred |= (uint16_t)(1u << core);
        return true;
    }
    if (!s->record.extra_deferred) memset(s->extra_late, 0, sizeof s->extra_late);
    s->record.extra_deferred = s->extra_late;
    s->extra_late[extra / 8] |= (uint8_t)(1u << extra % 8);
    return true;
}

static inline bool stage(staging *s, unsigned target, PyObject *o) {
    if (target >= TARGET_NAME) {
        if (o == Py_None) return true;
        unsigned n = s->record.extras;
        if (n == ADVLOG_MAX_NAMES) return false;
        if (ADVLOG_UNLIKELY(!exact_double(o, &s->values[n])) && !stage_late(s, -1, n, o, &s->values[n])) return false;
        s->ids[n] = (uint16_t)(target - TARGET_NAME);
        s->record.extras = (uint16_t)(n + 1);
        return true;
    }
    if (s->given & (1u << target)) return false;
    s->given |= 1u << target;
    if (o == Py_None) return true;
    if (target >= TARGET_CORE) {
        unsigned core = target - TARGET_CORE;
        s->record.present |= 1u << core;
        return exact_double(o, &s->record.core[core]) || stage_late(s, (int)core, 0, o, &s->record.core[core]);
    }
    static const uint16_t has[] = {ADVLOG_HAS_EPOCH, ADVLOG_HAS_BATCH, ADVLOG_HAS_TOTAL, ADVLOG_HAS_STEP};
    s->record.present |= has[target];
    return exact_integer(o, target, &s->integer[target]);
}

/* The name's target; -1 where it is not known. A subclass of str (numpy.str_ is
 * one) is looked up as the plain string it holds: its own code never runs here. */
static int target_of(const producer *self, PyObject *name) {
    PyObject *plain = PyUnicode_Check(name) ? PyUnicode_FromObject(name) : NULL;
    PyObject *target = plain ? PyDict_GetItemWithError(self->targets, plain) : NULL;
    Py_XDECREF(plain);
    if (!target) {
        PyErr_Clear();
        return -1;
    }
    return (int)PyLong_AsLong(target);
}

static const uint16_t *plan_for(producer *self, PyObject *names) {
    for (unsigned i = 0; i < PLANS; i++) {
        if (self->plan[i].names != names) continue;
        self->plan[i].recent = 1;
        return self->plan[i].target;
    }
    return NULL;
}

/* Remembers a call site in place of one that was not used lately. A call f(**mapping)
 * makes its tuple anew each time: such plans are never used, and are the first to go. */
static void plan_learn(producer *self, PyObject *names, const uint16_t *target) {
    call_plan *plan;
    while ((plan = &self->plan[self->next_plan++ % PLANS])->recent) plan->recent = 0;
    memcpy(plan->target, target, sizeof plan->target);
    PyObject *old = plan->names;
    plan->names = Py_NewRef(names);
    Py_XDECREF(old);
}

static bool stage_call(producer *self, staging *s, const uint16_t *order, Py_ssize_t positions, PyObject *const *args,
                       Py_ssize_t nargs, PyObject *names) {
    if (nargs > positions) return false;
    for (Py_ssize_t i = 0; i < nargs; i++)
        if (!stage(s, order[i], args[i])) return false;
    Py_ssize_t count = names ? PyTuple_GET_SIZE(names) : 0;
    if (!count) return true;
    const uint16_t *plan = plan_for(self, names);
    if (ADVLOG_LIKELY(plan != NULL)) {
        for (Py_ssize_t i = 0; i < count; i++)
            if (!stage(s, plan[i], args[nargs + i])) return false;
        return true;
    }
    uint16_t learned[PLAN_NAMES];
    bool plain = true;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        int target = target_of(self, name);
        if (target < 0 || !stage(s, (unsigned)target, args[nargs + i])) return false;
        if (i < PLAN_NAMES) learned[i] = (uint16_t)target;
        plain &= PyUnicode_CheckExact(name);
    }
    /* A name of a subclass would run its own code, a close() even, in whatever call forgets the plan. */
    if (plain && count <= PLAN_NAMES) plan_learn(self, names, learned);
    return true;
}

/* Notes how long a call took that began at time_ns. A wall clock that was set back meanwhile, or on, is no measure. */
static ADVLOG_COLD void sample(producer *self, int64_t time_ns) {
    self->due = false;
    int64_t took = advlog_wall_ns() - time_ns;
    if (took < 0 || took > UINT32_MAX) return;
    self->sample_ns[self->sampled++ % SAMPLES] = (uint32_t)took;
}

/* From here on the drain has the entries of the record's values. */
static ADVLOG_COLD void hand_over(const staging *s) {
    for (uint32_t i = 0; i < s->lates; i++) s->late[i]->ring = NULL;
}

/* A reference leads into the slab of one ring: a logger that was given another meanwhile does not know it. */
static ADVLOG_COLD bool are_of(const staging *s, const advlog_ring *ring) {
    for (uint32_t i = 0; i < s->lates; i++)
        if (is_reference(s->late[i]->bits) && s->late[i]->ring != ring) return false;
    return true;
}

/* Publishes a staged record; an advlog_status. */
static int push(producer *self, staging *s, int64_t time_ns) {
    advlog_ring *ring = self->ring;
    if (ring_is_child(ring)) return ADVLOG_FORKED;
    if (ADVLOG_UNLIKELY(s->lates) && !are_of(s, ring)) return ADVLOG_OFF;
    advlog_record *r = &s->record;
    r->time_ns = time_ns;
    r->epoch = (int32_t)s->integer[TARGET_EPOCH];
    r->batch = (int32_t)s->integer[TARGET_BATCH];
    r->total_batches = (int32_t)s->integer[TARGET_TOTAL];
    r->step = s->integer[TARGET_STEP];
    r->extra_ids = s->ids;
    r->extra_values = s->values;
    uint64_t slots = ring_slots_for(r->extras), position;
    if (ADVLOG_UNLIKELY(slots > ring_record_limit(ring))) return ADVLOG_TOO_LONG;
    int status = ring_try_reserve(ring, slots, &position);
    if (ADVLOG_UNLIKELY(status != ADVLOG_OK)) return status;
    ring_write(ring, position, slots, r);
    if (ADVLOG_UNLIKELY(s->lates)) hand_over(s);
    /* Relaxed: the holder of the GIL is the only writer, and readers want a count. */
    atomic_u64 *accepted = &ring->header->accepted_call[kind_stream(r->kind)];
    store_relaxed(accepted, load_relaxed(accepted) + 1);
    if (ADVLOG_UNLIKELY((position & (SAMPLE_SLOTS - 1)) < slots && r->kind == ADVLOG_KIND_BATCH)) self->due = true;
    return ADVLOG_OK;
}

/* The step that the guide's integers name; never a count of calls. */
static void derive_step(staging *s) {
    const uint32_t known = ADVLOG_HAS_EPOCH | ADVLOG_HAS_BATCH | ADVLOG_HAS_TOTAL;
    if ((s->record.present & (known | ADVLOG_HAS_STEP)) != known) return;
    s->integer[TARGET_STEP] = (s->integer[TARGET_EPOCH] - 1) * s->integer[TARGET_TOTAL] + s->integer[TARGET_BATCH];
    s->record.present |= ADVLOG_HAS_STEP;
}

#define REQUIRED_BATCH ((1u << TARGET_EPOCH) | (1u << TARGET_BATCH) | (1u << TARGET_TOTAL) | (1u << TARGET_CORE))

static int try_batch(producer *self, int64_t time_ns, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    staging s;
    staging_begin(&s, ADVLOG_KIND_BATCH);
    if (!stage_call(self, &s, BATCH_ORDER, Py_ARRAY_LENGTH(BATCH_ORDER), args, nargs, names)) return ADVLOG_SLOW;
    if ((s.given & REQUIRED_BATCH) != REQUIRED_BATCH) return ADVLOG_SLOW;
    if (!(s.record.present & ADVLOG_HAS_EPOCH) || !(s.record.present & ADVLOG_HAS_BATCH)) return ADVLOG_SLOW;
    derive_step(&s);
    return push(self, &s, time_ns);
}

static int try_performance(producer *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    if (ADVLOG_UNLIKELY(!self->ring)) return ADVLOG_OFF;
    int64_t time_ns = advlog_wall_ns();
    const uint32_t allowed = (1u << (TARGET_CORE + ADVLOG_BATCH_TIME)) | (1u << (TARGET_CORE + ADVLOG_DATA_TIME));
    staging s;
    staging_begin(&s, ADVLOG_KIND_PERFORMANCE);
    if (!stage_call(self, &s, PERFORMANCE_ORDER, Py_ARRAY_LENGTH(PERFORMANCE_ORDER), args, nargs, names)) return ADVLOG_SLOW;
    if ((s.given & ~allowed) || s.record.extras || !(s.record.present & (1u << ADVLOG_BATCH_TIME))) return ADVLOG_SLOW;
    return push(self, &s, time_ns);
}

static const scalar_kind *learned_kind(const producer *self, PyObject *o) {
    for (unsigned i = 0; i < SCALAR_TYPES; i++)
        if (self->scalar[i].type == (PyObject *)Py_TYPE(o)) return &self->scalar[i];
    return NULL;
}

/* The arguments of a call, those among them exchanged that C does not take as they are. Strong. */
typedef struct {
    Py_ssize_t count;
    Py_ssize_t lates;
    bool changed;
    PyObject *item[MOST_ITEMS];
    uint8_t late[MOST_ITEMS]; /* which of them lie on an accelerator */
} exchange;

static void exchange_end(exchange *x) {
    while (x->count > 0) Py_DECREF(x->item[--x->count]);
}

/* Forgets an Exception: who converts slowly says what is wrong. False for any other, a KeyboardInterrupt say. */
static bool left_to_the_slow(void) {
    if (!PyErr_ExceptionMatches(PyExc_Exception)) return false;
    PyErr_Clear();
    return true;
}

/* Whether argument `at` of the call is one of the record's integers. */
static bool is_integer(const producer *self, Py_ssize_t at, Py_ssize_t nargs, PyObject *names) {
    if (at < nargs) return at < Py_ARRAY_LENGTH(BATCH_ORDER) && BATCH_ORDER[at] < TARGET_CORE;
    int target = target_of(self, PyTuple_GET_ITEM(names, at - nargs));
    return target >= 0 && target < TARGET_CORE;
}

/* Asks scalars for their item(), and notes those that lie on an accelerator. False with an error set. */
static bool exchange_items(const producer *self, exchange *x, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    Py_ssize_t all = nargs + (names ? PyTuple_GET_SIZE(names) : 0);
    for (; x->count < all; x->count++) {
        PyObject *o = args[x->count], *item = NULL;
        const scalar_kind *kind = learned_kind(self, o);
        bool late = false;
        if (kind && kind->late) {
            PyObject *is_cuda = PyObject_GetAttr(o, is_cuda_name);
            if (!is_cuda && !left_to_the_slow()) return false;
            late = is_cuda == Py_True;
            Py_XDECREF(is_cuda);
        }
        if (late) {
            /* An integer is a record's place, and cannot come later. */
            if (!is_integer(self, x->count, nargs, names)) x->late[x->lates++] = (uint8_t)x->count;
        } else if (kind) {
            item = PyObject_CallMethodNoArgs(o, item_name);
            if (!item && !left_to_the_slow()) return false;
            x->changed |= item != NULL;
        }
        x->item[x->count] = item ? item : Py_NewRef(o);
    }
    return true;
}

/* Has the values copied that lie on an accelerator. False with an error set; as they are where that cannot be. */
static bool exchange_late(producer *self, exchange *x) {
    /* A child waits for its values: no device knows its slab. */
    if (!x->lates || !self->defer || !self->ring || ring_is_child(self->ring)) return true;
    PyObject *defer = Py_NewRef(self->defer), *tensors = PyList_New(x->lates), *values = NULL;
    for (Py_ssize_t i = 0; tensors && i < x->lates; i++) PyList_SET_ITEM(tensors, i, Py_NewRef(x->item[x->late[i]]));
    if (tensors) values = PyObject_CallOneArg(defer, tensors);
    Py_DECREF(defer);
    Py_XDECREF(tensors);
    if (!values) return left_to_the_slow();
    if (PyList_CheckExact(values) && PyList_GET_SIZE(values) == x->lates) {
        for (Py_ssize_t i = 0; i < x->lates; i++) Py_SETREF(x->item[x->late[i]], Py_NewRef(PyList_GET_ITEM(values, i)));
        x->changed = true;
    }
    Py_DECREF(values);
    return true;
}

/* The same with scalars among the arguments exchanged, into x; ADVLOG_SLOW where there are none, or too many arguments,
 * -1 with an error set that is no Exception. Whatever their code does, let go of the GIL among it, comes before anything
 * of the call is staged. */
static ADVLOG_COLD int try_batch_of_items(producer *self, int64_t time_ns, exchange *x, PyObject *const *args, Py_ssize_t nargs,
                                          PyObject *names) {
    if (nargs + (names ? PyTuple_GET_SIZE(names) : 0) > MOST_ITEMS) return ADVLOG_SLOW;
    if (!exchange_items(self, x, args, nargs, names) || !exchange_late(self, x)) return -1;
    /* The logger may have been closed meanwhile. */
    return x->changed && self->ring ? try_batch(self, time_ns, x->item, nargs, names) : ADVLOG_SLOW;
}

/* ---- methods ---- */

/* Calls the Python method of that name with this call's arguments. */
static PyObject *call_slowly(producer *self, const char *method, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    if (self->silent) Py_RETURN_NONE;
    PyObject *bound = PyObject_GetAttrString((PyObject *)self, method);
    if (!bound) return NULL;
    PyObject *result = PyObject_Vectorcall(bound, args, (size_t)nargs, names);
    Py_DECREF(bound);
    return result;
}

PyDoc_STRVAR(log_batch_progress_doc,
"log_batch_progress($self, /, epoch, batch, total_batches, loss, accuracy=None, learning_rate=None, gradient_norm=None, batch_time=None, data_time=None, step=None, **metrics)\n"
"--\n\n"
"Log one batch. Returns at once: the record is in shared memory, and a background thread writes it out.\n\n"
":param epoch: epoch, an int32, stored as given.\n"
":param batch: batch within the epoch, an int32.\n"
":param total_batches: batches of the epoch, an int32; None where it is not known (iterable data).\n"
":param loss: float64; NaN and infinities are kept. None where there is no single loss.\n"
":param accuracy: float64, stored as given, never rescaled.\n"
":param learning_rate: float64.\n"
":param gradient_norm: float64.\n"
":param batch_time: seconds, float64. Where it is absent, the summary uses the time between calls.\n"
":param data_time: seconds of batch_time that were spent waiting for data, float64.\n"
":param step: optimizer step, an int64; else (epoch - 1) * total_batches + batch, else null.\n"
":param metrics: any other scalars, float64 (`samples` and `tokens` become rates in the summary); mappings of\n"
"    scalars are flattened with `/`. Scalars of numpy and one-element tensors of torch are converted; one on a\n"
"    GPU of CUDA or ROCm is copied when its stream gets there, and not waited for.\n"
":raises TypeError: an argument is missing or no number.\n"
":raises ValueError: a number is out of its column's range, or a name cannot be a metric's.\n\n"
"A full ring waits or drops as the options `overflow` and `overflow_timeout_s` say. Safe from any thread.");

/* A call that came to `status`. False with an error set. */
static ADVLOG_COLD bool log_batch_otherwise(producer *self, int64_t time_ns, int status, PyObject *const *args, Py_ssize_t nargs,
                                            PyObject *names) {
    exchange x = {.count = 0};
    if (status == ADVLOG_SLOW) status = try_batch_of_items(self, time_ns, &x, args, nargs, names);
    bool done = status == ADVLOG_OK;
    if (!done && status >= 0) {
        /* What was asked for once, of an accelerator, is not asked for again. */
        PyObject *result = call_slowly(self, "_log_batch_slowly", x.changed ? x.item : args, nargs, names);
        done = result != NULL;
        Py_XDECREF(result);
        if (status == ADVLOG_FULL) self->due = false; /* its wait is counted elsewhere */
    }
    exchange_end(&x);
    return done;
}

static PyObject *log_batch_progress(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    producer *self = (producer *)op;
    if (ADVLOG_UNLIKELY(!self->ring)) return call_slowly(self, "_log_batch_slowly", args, nargs, names);
    int64_t time_ns = advlog_wall_ns();
    int status = try_batch(self, time_ns, args, nargs, names);
    if (ADVLOG_UNLIKELY(status != ADVLOG_OK) && !log_batch_otherwise(self, time_ns, status, args, nargs, names)) return NULL;
    if (ADVLOG_UNLIKELY(self->due)) sample(self, time_ns);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(log_performance_metrics_doc,
"log_performance_metrics($self, /, batch_time, data_time=None)\n"
"--\n\n"
"Log how long a batch took, to the system stream; averages, percentiles and the share of time spent waiting\n"
"for data are in the summary.\n\n"
":param batch_time: seconds, float64.\n"
":param data_time: seconds of it that were spent waiting for data, float64.\n"
":raises TypeError: an argument is missing or no number.");

static PyObject *log_performance_metrics(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    if (ADVLOG_LIKELY(try_performance((producer *)op, args, nargs, names) == ADVLOG_OK)) Py_RETURN_NONE;
    return call_slowly((producer *)op, "_log_performance_slowly", args, nargs, names);
}

static PyObject *producer_try_batch(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    producer *self = (producer *)op;
    return PyLong_FromLong(self->ring ? try_batch(self, advlog_wall_ns(), args, nargs, names) : ADVLOG_OFF);
}
static PyObject *producer_try_performance(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    return PyLong_FromLong(try_performance((producer *)op, args, nargs, names));
}

/* _try_record(kind, time_ns, mapping): time_ns 0 is now; names must be known, values exact. */
static PyObject *producer_try_record(PyObject *op, PyObject *args) {
    producer *self = (producer *)op;
    int kind;
    long long time_ns;
    PyObject *mapping, *name, *value;
    if (!PyArg_ParseTuple(args, "iLO!:_try_record", &kind, &time_ns, &PyDict_Type, &mapping)) return NULL;
    if (kind < ADVLOG_KIND_BATCH || kind > ADVLOG_KIND_PERFORMANCE) {
        PyErr_Format(PyExc_ValueError, "kind: expected one that has values, got %d", kind);
        return NULL;
    }
    if (!self->ring) return PyLong_FromLong(ADVLOG_OFF);
    staging s;
    staging_begin(&s, kind);
    Py_ssize_t at = 0;
    while (PyDict_Next(mapping, &at, &name, &value)) {
        int target = target_of(self, name);
        if (target < 0 || !stage(&s, (unsigned)target, value)) return PyLong_FromLong(ADVLOG_SLOW);
    }
    derive_step(&s);
    return PyLong_FromLong(push(self, &s, time_ns ? time_ns : advlog_wall_ns()));
}

/* The names that every ring has. */
static PyObject *fixed_targets(void) {
    PyObject *targets = PyDict_New();
    for (int i = 0; targets && i < TARGET_NAME; i++) {
        PyObject *target = PyLong_FromLong(i);
        if (!target || PyDict_SetItemString(targets, FIXED_NAMES[i], target)) Py_CLEAR(targets);
        Py_XDECREF(target);
    }
    return targets;
}

static void forget_plans(producer *self) {
    for (unsigned i = 0; i < PLANS; i++) {
        self->plan[i].recent = 0;
        Py_CLEAR(self->plan[i].names);
    }
}

static PyObject *producer_bind(PyObject *op, PyObject *args) {
    producer *self = (producer *)op;
    PyObject *address, *owner, *defer = Py_None;
    if (!PyArg_ParseTuple(args, "O!O|O:_bind", &PyLong_Type, &address, &owner, &defer)) return NULL;
    advlog_ring *ring = PyLong_AsVoidPtr(address);
    if (!ring && PyErr_Occurred()) return NULL;
    if (!ring || ring->magic != ADVLOG_HANDLE_MAGIC || ring->abi_version != ADVLOG_ABI_VERSION) {
        PyErr_SetString(PyExc_ValueError, "_bind: expected the address of a ring of this build");
        return NULL;
    }
    PyObject *targets = fixed_targets(); /* ids are a ring's own */
    if (!targets) return NULL;
    forget_plans(self);
    Py_SETREF(self->targets, targets);
    self->ring = ring;
    self->silent = 0;
    self->due = false;
    self->sampled = 0;
    Py_XSETREF(self->owner, Py_NewRef(owner));
    Py_XSETREF(self->defer, defer == Py_None ? NULL : Py_NewRef(defer));
    Py_RETURN_NONE;
}

static PyObject *producer_unbind(PyObject *op, PyObject *Py_UNUSED(none)) {
    producer *self = (producer *)op;
    self->ring = NULL;
    self->silent = 0;
    Py_CLEAR(self->owner);
    Py_CLEAR(self->defer);
    Py_RETURN_NONE;
}

/* 1: the plain string has an id; 0: there are no more; -1: an error is set. */
static int learn(producer *self, PyObject *name) {
    Py_ssize_t bytes;
    const char *utf8 = PyUnicode_AsUTF8AndSize(name, &bytes);
    if (!utf8) return -1;
    if (!self->ring || ring_is_child(self->ring)) return 0;
    if (target_of(self, name) >= 0) return 1;
    int id = advlog_name_intern(self->ring, utf8, (uint64_t)bytes);
    if (id < 0) return 0;
    PyObject *target = PyLong_FromLong(TARGET_NAME + id);
    if (!target) return -1;
    int failed = PyDict_SetItem(self->targets, name, target);
    Py_DECREF(target);
    return failed ? -1 : 1;
}

/* _learn(name): gives the name an id; False where there are no more. */
static PyObject *producer_learn(PyObject *op, PyObject *name) {
    PyObject *plain = PyUnicode_FromObject(name); /* raises TypeError where it is no string */
    if (!plain) return NULL;
    int known = learn((producer *)op, plain);
    Py_DECREF(plain);
    return known < 0 ? NULL : PyBool_FromLong(known);
}

/* _learn_scalar(type, late): the item() of its values is the number that is to be logged; with `late` only of those whose
 * `is_cuda` is false. */
static PyObject *producer_learn_scalar(PyObject *op, PyObject *args) {
    producer *self = (producer *)op;
    PyObject *type;
    int late;
    if (!PyArg_ParseTuple(args, "O!p:_learn_scalar", &PyType_Type, &type, &late)) return NULL;
    for (unsigned i = 0; i < SCALAR_TYPES; i++)
        if (self->scalar[i].type == type) Py_RETURN_NONE;
    scalar_kind *kind = &self->scalar[self->next_scalar++ % SCALAR_TYPES];
    PyObject *old = kind->type;
    *kind = (scalar_kind){Py_NewRef(type), late};
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

/* ---- values that are not there yet ---- */

static deferred_value *deferred_new(uint64_t bits) {
    deferred_value *late = (deferred_value *)deferred_type->tp_alloc(deferred_type, 0);
    if (late) late->bits = bits;
    return late;
}

/* _reserve(count): the first entry, the key as an int64, and a list of that many deferred values; None where the slab has
 * no room for them. */
static PyObject *producer_reserve(PyObject *op, PyObject *args) {
    producer *self = (producer *)op;
    unsigned count;
    if (!PyArg_ParseTuple(args, "I:_reserve", &count)) return NULL;
    if (!self->ring) Py_RETURN_NONE;
    PyObject *values = PyList_New(count);
    for (unsigned i = 0; values && i < count; i++) {
        deferred_value *late = deferred_new(0);
        if (late) PyList_SET_ITEM(values, i, (PyObject *)late);
        else Py_CLEAR(values);
    }
    if (!values) return NULL;
    uint64_t reference = advlog_slab_reserve(self->ring, count);
    if (!reference) {
        Py_DECREF(values);
        Py_RETURN_NONE;
    }
    for (unsigned i = 0; i < count; i++) {
        deferred_value *late = (deferred_value *)PyList_GET_ITEM(values, i);
        late->bits = reference + i;
        late->ring = self->ring;
        late->owner = Py_NewRef(self->owner);
    }
    return Py_BuildValue("KLN", reference % ADVLOG_SLAB_ENTRIES, (long long)advlog_slab_key(reference), values);
}

/* _unresolved(reason): a deferred value that never comes. */
static PyObject *producer_unresolved(PyObject *Py_UNUSED(op), PyObject *args) {
    int reason;
    if (!PyArg_ParseTuple(args, "i:_unresolved", &reason)) return NULL;
    if (reason < ADVLOG_UNRESOLVED_TIMEOUT || reason >= ADVLOG_UNRESOLVED_REASONS) {
        PyErr_Format(PyExc_ValueError, "reason: expected an advlog_unresolved, got %d", reason);
        return NULL;
    }
    return (PyObject *)deferred_new((uint64_t)reason);
}

static void deferred_dealloc(PyObject *op) {
    deferred_value *late = (deferred_value *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (late->ring) slab_abandon(late->ring, late->bits);
    Py_XDECREF(late->owner);
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

/* _samples(): the ns that the latest calls of log_batch_progress took that were timed; one in SAMPLE_SLOTS. */
static PyObject *producer_samples(PyObject *op, PyObject *Py_UNUSED(none)) {
    producer *self = (producer *)op;
    Py_ssize_t count = self->sampled < SAMPLES ? (Py_ssize_t)self->sampled : SAMPLES;
    PyObject *samples = PyList_New(count);
    for (Py_ssize_t i = 0; samples && i < count; i++) {
        PyObject *ns = PyLong_FromUnsignedLong(self->sample_ns[i]);
        if (!ns) Py_CLEAR(samples);
        else PyList_SET_ITEM(samples, i, ns);
    }
    return samples;
}

static PyObject *producer_self(PyObject *op, PyObject *Py_UNUSED(ignored)) { return Py_NewRef(op); }

static PyMethodDef producer_methods[] = {
    {"log_batch_progress", (PyCFunction)(void (*)(void))log_batch_progress, METH_FASTCALL | METH_KEYWORDS, log_batch_progress_doc},
    {"log_performance_metrics", (PyCFunction)(void (*)(void))log_performance_metrics, METH_FASTCALL | METH_KEYWORDS, log_performance_metrics_doc},
    {"_try_batch", (PyCFunction)(void (*)(void))producer_try_batch, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"_try_performance", (PyCFunction)(void (*)(void))producer_try_performance, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"_try_record", producer_try_record, METH_VARARGS, NULL},
    {"_bind", producer_bind, METH_VARARGS, NULL},
    {"_unbind", producer_unbind, METH_NOARGS, NULL},
    {"_learn", producer_learn, METH_O, NULL},
    {"_learn_scalar", producer_learn_scalar, METH_VARARGS, NULL},
    {"_reserve", producer_reserve, METH_VARARGS, NULL},
    {"_unresolved", producer_unresolved, METH_VARARGS | METH_STATIC, NULL},
    {"_samples", producer_samples, METH_NOARGS, NULL},
    {"__copy__", producer_self, METH_NOARGS, PyDoc_STR("A logger is one per process: its copy is itself.")},
    {"__deepcopy__", producer_self, METH_O, PyDoc_STR("A logger is one per process: its copy is itself.")},
    {NULL, NULL, 0, NULL}};

static PyMemberDef producer_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(producer, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(producer, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL}};

/* ---- the type ---- */

static PyObject *producer_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs)) {
    producer *self = (producer *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->silent = 1;
    self->targets = fixed_targets();
    if (!self->targets) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int producer_traverse(PyObject *op, visitproc visit, void *arg) {
    producer *self = (producer *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->owner);
    Py_VISIT(self->defer);
    Py_VISIT(self->targets);
    Py_VISIT(self->dict);
    for (unsigned i = 0; i < PLANS; i++) Py_VISIT(self->plan[i].names);
    for (unsigned i = 0; i < SCALAR_TYPES; i++) Py_VISIT(self->scalar[i].type);
    return 0;
}

static int producer_clear(PyObject *op) {
    producer *self = (producer *)op;
    self->ring = NULL;
    Py_CLEAR(self->owner);
    Py_CLEAR(self->defer);
    Py_CLEAR(self->dict);
    forget_plans(self);
    for (unsigned i = 0; i < SCALAR_TYPES; i++) Py_CLEAR(self->scalar[i].type);
    return 0;
}

static void producer_dealloc(PyObject *op) {
    producer *self = (producer *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs) PyObject_ClearWeakRefs(op);
    producer_clear(op);
    Py_CLEAR(self->targets);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot producer_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The half of a logger that pushes into a ring. Until it is bound to one, its calls do nothing.")},
    {Py_tp_new, producer_new},
    {Py_tp_dealloc, producer_dealloc},
    {Py_tp_traverse, producer_traverse},
    {Py_tp_clear, producer_clear},
    {Py_tp_methods, producer_methods},
    {Py_tp_members, producer_members},
    {0, NULL}};

static PyType_Spec producer_spec = {
    .name = "advlog_fast._producer.Producer",
    .basicsize = sizeof(producer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = producer_slots,
};

static int module_exec(PyObject *module) {
#ifdef Py_GIL_DISABLED
    PyErr_SetString(PyExc_ImportError, "advlog_fast needs the GIL: free-threaded builds of Python are not supported yet");
    return -1;
#endif
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_ImportError, "advlog_fast runs in the main interpreter only, not in subinterpreters");
        return -1;
    }
    if (!item_name && !(item_name = PyUnicode_InternFromString("item"))) return -1;
    if (!is_cuda_name && !(is_cuda_name = PyUnicode_InternFromString("is_cuda"))) return -1;
    if (!deferred_type && !(deferred_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &deferred_spec, NULL))) return -1;
    if (PyModule_AddType(module, deferred_type) || guard_add_to(module)) return -1;
    PyObject *type = PyType_FromModuleAndSpec(module, &producer_spec, NULL);
    if (!type) return -1;
    int failed = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return failed;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT, .m_name = "_producer", .m_doc = "The hot call.", .m_slots = module_slots};

PyMODINIT_FUNC PyInit__producer(void) { return PyModuleDef_Init(&module_def); }
