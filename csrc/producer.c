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
 * Every argument is converted before a position is reserved: between reservation
 * and publication runs no Python API. The GIL makes what is stored in `self`, and
 * the ring's accepted_call counts, the holder's own. */
#include "producer.h"
#include "slab.h"

static const int32_t PERFORMANCE_ORDER[] = {TARGET_CORE + ADVLOG_BATCH_TIME, TARGET_CORE + ADVLOG_DATA_TIME};

/* A record under construction. `given` has a bit for each fixed target that came, None included. */
typedef struct {
    uint32_t given;
    uint32_t deferred_count;
    uint32_t skipped; /* values under names for which there is no room */
    advlog_record record;
    int64_t integer[4];
    uint16_t ids[ADVLOG_MAX_RECORD_EXTRAS];
    double values[ADVLOG_MAX_RECORD_EXTRAS];
    deferred_value *deferred[ADVLOG_MAX_RECORD_EXTRAS + ADVLOG_CORE_METRICS]; /* borrowed; that many of them */
    uint8_t extra_deferred_bits[ADVLOG_MAX_RECORD_EXTRAS / 8 + 1]; /* a bit each; unset while deferred_count is 0 */
} staging;

static void staging_begin(staging *s, int kind) {
    s->given = 0;
    s->deferred_count = 0;
    s->skipped = 0;
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

/* Stages a deferred value. core: the number of a core metric; -1: it is extra number `extra`. False: it is no deferred value. */
static ADVLOG_COLD bool stage_deferred(staging *s, int core, unsigned extra, PyObject *o, double *value) {
    if (Py_TYPE(o) != deferred_type) return false;
    deferred_value *item = (deferred_value *)o;
    memcpy(value, &item->bits, sizeof item->bits);
    s->deferred[s->deferred_count++] = item;
    if (core >= 0) {
        s->record.core_deferred |= (uint16_t)(1u << core);
        return true;
    }
    if (!s->record.extra_deferred) memset(s->extra_deferred_bits, 0, sizeof s->extra_deferred_bits);
    s->record.extra_deferred = s->extra_deferred_bits;
    s->extra_deferred_bits[extra / 8] |= (uint8_t)(1u << extra % 8);
    return true;
}

static inline bool stage(staging *s, int target, PyObject *o) {
    if (ADVLOG_UNLIKELY(target < 0)) {
        if (target == TARGET_SKIPPED && o != Py_None) s->skipped++;
        return target == TARGET_SKIPPED;
    }
    if (target >= TARGET_NAME) {
        if (o == Py_None) return true;
        unsigned n = s->record.extras;
        if (n == ADVLOG_MAX_RECORD_EXTRAS) return false;
        if (ADVLOG_UNLIKELY(!exact_double(o, &s->values[n])) && !stage_deferred(s, -1, n, o, &s->values[n])) return false;
        s->ids[n] = (uint16_t)(target - TARGET_NAME);
        s->record.extras = (uint16_t)(n + 1);
        return true;
    }
    if (s->given & (1u << target)) return false;
    s->given |= 1u << target;
    if (o == Py_None) return true;
    if (target >= TARGET_CORE) {
        unsigned core = (unsigned)(target - TARGET_CORE);
        s->record.present |= 1u << core;
        return exact_double(o, &s->record.core[core]) || stage_deferred(s, (int)core, 0, o, &s->record.core[core]);
    }
    static const uint16_t has[] = {ADVLOG_HAS_EPOCH, ADVLOG_HAS_BATCH, ADVLOG_HAS_TOTAL, ADVLOG_HAS_STEP};
    s->record.present |= has[target];
    return exact_integer(o, target, &s->integer[target]);
}

static bool has_value(const staging *s) {
    const uint32_t core = (1u << ADVLOG_CORE_METRICS) - 1;
    return (s->record.present & core) || s->record.extras;
}

static const int32_t *plan_for(producer *self, PyObject *names) {
    for (unsigned i = 0; i < PLANS; i++) {
        if (self->plan[i].names != names) continue;
        self->plan[i].recent = 1;
        return self->plan[i].target;
    }
    return NULL;
}

static bool stage_call(producer *self, staging *s, const int32_t *order, Py_ssize_t positions, PyObject *const *args,
                       Py_ssize_t nargs, PyObject *names) {
    if (nargs > positions) return false;
    for (Py_ssize_t i = 0; i < nargs; i++)
        if (!stage(s, order[i], args[i])) return false;
    Py_ssize_t count = names ? PyTuple_GET_SIZE(names) : 0;
    if (!count) return true;
    const int32_t *plan = plan_for(self, names);
    if (ADVLOG_LIKELY(plan != NULL)) {
        for (Py_ssize_t i = 0; i < count; i++)
            if (!stage(s, plan[i], args[nargs + i])) return false;
        return true;
    }
    int32_t learned[PLAN_NAMES];
    bool plain = true;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        int target = args_target(self, name);
        if (!stage(s, target, args[nargs + i])) return false;
        if (i < PLAN_NAMES) learned[i] = target;
        plain &= PyUnicode_CheckExact(name) && target >= 0;
    }
    /* A name of a subclass would run its own code, a close() even, in whatever call forgets the plan. */
    if (plain && count <= PLAN_NAMES) args_learn_plan(self, names, learned);
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
    for (uint32_t i = 0; i < s->deferred_count; i++) s->deferred[i]->ring = NULL;
}

/* A reference leads into the slab of one ring: a logger that was given another meanwhile does not know it. */
static ADVLOG_COLD bool are_of(const staging *s, const advlog_ring *ring) {
    for (uint32_t i = 0; i < s->deferred_count; i++)
        if (is_reference(s->deferred[i]->bits) && s->deferred[i]->ring != ring) return false;
    return true;
}

/* Publishes a staged record; an advlog_status. */
static int push(producer *self, staging *s, int64_t time_ns) {
    advlog_ring *ring = self->ring;
    if (ring_is_child(ring)) return ADVLOG_FORKED;
    if (ADVLOG_UNLIKELY(s->deferred_count) && !are_of(s, ring)) return ADVLOG_OFF;
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
    if (ADVLOG_UNLIKELY(s->deferred_count)) hand_over(s);
    /* Relaxed: the holder of the GIL is the only writer, and readers want a count. */
    atomic_u64 *accepted = &ring->header->accepted_call[kind_stream(r->kind)];
    store_relaxed(accepted, load_relaxed(accepted) + 1);
    self->skipped += s->skipped;
    if (ADVLOG_UNLIKELY(((position + SAMPLE_SLOTS / 2) & (SAMPLE_SLOTS - 1)) < slots && r->kind == ADVLOG_KIND_BATCH))
        self->due = true;
    return ADVLOG_OK;
}

/* What data loaders say where they do not know. */
#define UNKNOWN_TOTAL (-1)

/* Whether the step of such a record may be derived as that of the one before. */
static bool is_settled(const producer *self, int64_t epoch, int64_t total) {
    if (ADVLOG_UNLIKELY(epoch < self->least_epoch)) return false;
    return ADVLOG_LIKELY(total == self->total_batches) || !self->watches_total || epoch == self->first_epoch;
}

/* The step that epoch, batch and total_batches name; never a count of calls. False: Python has to settle first how. */
static bool derive_step(producer *self, staging *s) {
    if (ADVLOG_UNLIKELY(s->integer[TARGET_TOTAL] == UNKNOWN_TOTAL)) s->record.present &= ~(uint32_t)ADVLOG_HAS_TOTAL;
    const uint32_t known = ADVLOG_HAS_EPOCH | ADVLOG_HAS_BATCH | ADVLOG_HAS_TOTAL;
    if ((s->record.present & (known | ADVLOG_HAS_STEP)) != known) return true;
    int64_t epoch = s->integer[TARGET_EPOCH], total = s->integer[TARGET_TOTAL];
    if (ADVLOG_UNLIKELY(!is_settled(self, epoch, total))) return false;
    self->derived = s->integer[TARGET_STEP] = (epoch - self->first_epoch) * total + s->integer[TARGET_BATCH];
    s->record.present |= ADVLOG_HAS_STEP;
    return true;
}

PyObject *producer_steps(PyObject *op, PyObject *Py_UNUSED(none)) {
    producer *self = (producer *)op;
    PyObject *total = self->total_batches == NO_TOTAL ? Py_NewRef(Py_None) : PyLong_FromLongLong(self->total_batches);
    PyObject *derived = self->derived == INT64_MIN ? Py_NewRef(Py_None) : PyLong_FromLongLong(self->derived);
    PyObject *steps = total && derived ? PyTuple_Pack(2, total, derived) : NULL;
    Py_XDECREF(total);
    Py_XDECREF(derived);
    return steps;
}

PyObject *producer_settle_steps(PyObject *op, PyObject *args) {
    producer *self = (producer *)op;
    PyObject *first, *total, *derived;
    int watches_epoch, watches_total;
    if (!PyArg_ParseTuple(args, "OOOpp:_settle_steps", &first, &total, &derived, &watches_epoch, &watches_total)) return NULL;
    long first_epoch = first == Py_None ? 0 : PyLong_AsLong(first);
    long long of = total == Py_None ? NO_TOTAL : PyLong_AsLongLong(total);
    long long step = derived == Py_None ? INT64_MIN : PyLong_AsLongLong(derived);
    if (PyErr_Occurred()) return NULL;
    self->first_epoch = (int32_t)first_epoch;
    self->least_epoch = first == Py_None ? INT32_MAX : watches_epoch ? self->first_epoch : INT32_MIN;
    self->total_batches = of;
    self->watches_total = watches_total;
    self->derived = step;
    Py_RETURN_NONE;
}

#define REQUIRED_BATCH ((1u << TARGET_EPOCH) | (1u << TARGET_BATCH) | (1u << TARGET_TOTAL) | (1u << TARGET_CORE))

static int try_batch(producer *self, int64_t time_ns, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    staging s;
    staging_begin(&s, ADVLOG_KIND_BATCH);
    if (!stage_call(self, &s, BATCH_ORDER, Py_ARRAY_LENGTH(BATCH_ORDER), args, nargs, names)) return ADVLOG_SLOW;
    if ((s.given & REQUIRED_BATCH) != REQUIRED_BATCH) return ADVLOG_SLOW;
    if (ADVLOG_UNLIKELY(!derive_step(self, &s))) return ADVLOG_SLOW;
    return push(self, &s, time_ns);
}

static int try_performance(producer *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    if (ADVLOG_UNLIKELY(!self->ring)) return ADVLOG_OFF;
    int64_t time_ns = advlog_wall_ns();
    const uint32_t allowed = (1u << (TARGET_CORE + ADVLOG_BATCH_TIME)) | (1u << (TARGET_CORE + ADVLOG_DATA_TIME));
    staging s;
    staging_begin(&s, ADVLOG_KIND_PERFORMANCE);
    if (!stage_call(self, &s, PERFORMANCE_ORDER, Py_ARRAY_LENGTH(PERFORMANCE_ORDER), args, nargs, names)) return ADVLOG_SLOW;
    if ((s.given & ~allowed) || s.record.extras || s.skipped || !(s.record.present & (1u << ADVLOG_BATCH_TIME)))
        return ADVLOG_SLOW;
    return push(self, &s, time_ns);
}

/* As try_batch, with scalars among the arguments exchanged, into x; ADVLOG_SLOW where there are none, or too many arguments,
 * -1 with an error set that is no Exception. Whatever their code does, letting go of the GIL included, comes before anything
 * of the call is staged. */
static ADVLOG_COLD int try_batch_of_items(producer *self, int64_t time_ns, exchange *x, PyObject *const *args, Py_ssize_t nargs,
                                          PyObject *names) {
    if (nargs + (names ? PyTuple_GET_SIZE(names) : 0) > MOST_ITEMS) return ADVLOG_SLOW;
    if (!args_exchange_items(self, x, args, nargs, names) || !device_exchange(self, x)) return -1;
    /* The logger may have been closed meanwhile. */
    return x->changed && self->ring ? try_batch(self, time_ns, x->item, nargs, names) : ADVLOG_SLOW;
}

/* No code of Python's runs, which could change the mapping: its keys are exact strings, its values exact numbers. */
static bool stage_mapping(producer *self, staging *s, PyObject *mapping) {
    PyObject *name, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(mapping, &at, &name, &value)) {
        if (!stage(s, args_key_target(self, name), value)) return false;
    }
    return true;
}

/* log_metrics(metrics, step) for an exact dict; its step is not in the dict. */
static int try_metrics(producer *self, PyObject *metrics, PyObject *step) {
    if (ADVLOG_UNLIKELY(!self->ring)) return ADVLOG_OFF;
    int64_t time_ns = advlog_wall_ns();
    staging s;
    staging_begin(&s, ADVLOG_KIND_METRICS);
    if (!PyDict_CheckExact(metrics) || !stage_mapping(self, &s, metrics)) return ADVLOG_SLOW;
    if (step != Py_None && !stage(&s, TARGET_STEP, step)) return ADVLOG_SLOW;
    if (!has_value(&s)) return ADVLOG_SLOW;
    if (ADVLOG_UNLIKELY(!derive_step(self, &s))) return ADVLOG_SLOW;
    return push(self, &s, time_ns);
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

/* Completes a call whose first try came to `status`: with its scalars exchanged, else in Python. False with an error set. */
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
    args_exchange_end(&x);
    return done;
}

PyObject *log_batch_progress(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    producer *self = (producer *)op;
    if (ADVLOG_UNLIKELY(!self->ring)) return call_slowly(self, "_log_batch_slowly", args, nargs, names);
    int64_t time_ns = advlog_wall_ns();
    int status = try_batch(self, time_ns, args, nargs, names);
    if (ADVLOG_UNLIKELY(status != ADVLOG_OK) && !log_batch_otherwise(self, time_ns, status, args, nargs, names)) return NULL;
    if (ADVLOG_UNLIKELY(self->due)) sample(self, time_ns);
    Py_RETURN_NONE;
}

PyObject *log_performance_metrics(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    if (ADVLOG_LIKELY(try_performance((producer *)op, args, nargs, names) == ADVLOG_OK)) Py_RETURN_NONE;
    return call_slowly((producer *)op, "_log_performance_slowly", args, nargs, names);
}

/* Completes a call of log_metrics: with the values on a GPU deferred, or scalars exchanged, where it is one of a plain form, else
 * in Python. */
static ADVLOG_COLD PyObject *log_metrics_otherwise(producer *self, PyObject *step, PyObject *const *args, Py_ssize_t nargs,
                                                   PyObject *names) {
    bool plain = step && PyDict_CheckExact(args[0]);
    PyObject *taken = plain ? device_defer_mapping(self, args[0]) : NULL;
    if (!taken && plain && !PyErr_Occurred()) taken = args_mapping_of_items(self, args[0]);
    if (!taken) return PyErr_Occurred() ? NULL : call_slowly(self, "_log_metrics_slowly", args, nargs, names);
    PyObject *result = NULL, *both[] = {taken, step};
    if (try_metrics(self, taken, step) == ADVLOG_OK) result = Py_NewRef(Py_None);
    else result = call_slowly(self, "_log_metrics_slowly", both, 2, NULL); /* what was asked for once is not asked for again */
    Py_DECREF(taken);
    return result;
}

PyObject *log_metrics(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    static const char *const STEP = "step";
    Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    PyObject *step = nargs == 2 ? args[1] : Py_None;
    bool plain = nargs == 2 && named == 0;
    if (nargs == 1 && named <= 1) {
        plain = named == 0 || PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), STEP) == 0;
        if (named) step = args[1];
    }
    if (ADVLOG_LIKELY(plain) && ADVLOG_LIKELY(try_metrics((producer *)op, args[0], step) == ADVLOG_OK)) Py_RETURN_NONE;
    return log_metrics_otherwise((producer *)op, plain ? step : NULL, args, nargs, names);
}

PyObject *producer_try_record(PyObject *op, PyObject *args) {
    producer *self = (producer *)op;
    int kind;
    long long time_ns;
    PyObject *mapping;
    if (!PyArg_ParseTuple(args, "iLO!:_try_record", &kind, &time_ns, &PyDict_Type, &mapping)) return NULL;
    if (kind < ADVLOG_KIND_BATCH || kind > ADVLOG_KIND_PERFORMANCE) {
        PyErr_Format(PyExc_ValueError, "kind: expected one that has values, got %d", kind);
        return NULL;
    }
    if (!self->ring) return PyLong_FromLong(ADVLOG_OFF);
    staging s;
    staging_begin(&s, kind);
    if (!stage_mapping(self, &s, mapping)) return PyLong_FromLong(ADVLOG_SLOW);
    if (kind != ADVLOG_KIND_BATCH && !has_value(&s)) { /* there was no room for the names of its values */
        self->skipped += s.skipped;
        return PyLong_FromLong(ADVLOG_OK);
    }
    if (!derive_step(self, &s)) return PyLong_FromLong(ADVLOG_STEPS);
    return PyLong_FromLong(push(self, &s, time_ns ? time_ns : advlog_wall_ns()));
}
