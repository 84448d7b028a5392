/* What the files that know Python share: the logger's half in C, and what stands in a record for a value that is still to
 * come. producer.c is the hot call; producer_args.c says what its arguments mean; producer_deferred.c are values on an
 * accelerator; producer_type.c makes a Python type of it all. The GIL makes what is stored in a producer its holder's own. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "names.h"

enum {
    TARGET_UNKNOWN = -1,
    TARGET_SKIPPED = -2, /* the value is counted, and not logged */
    TARGET_EPOCH = 0,
    TARGET_BATCH,
    TARGET_TOTAL,
    TARGET_STEP,
    TARGET_CORE,
    TARGET_NAME = TARGET_CORE + ADVLOG_CORE_METRICS
};

/* log_batch_progress(epoch, batch, total_batches, loss, ..., data_time, step) by position. int32: a target can be the id
 * of any name, with the places of a record before it. */
static const int32_t BATCH_ORDER[] = {TARGET_EPOCH,    TARGET_BATCH,    TARGET_TOTAL,    TARGET_CORE,     TARGET_CORE + 1,
                                      TARGET_CORE + 2, TARGET_CORE + 3, TARGET_CORE + 4, TARGET_CORE + 5, TARGET_STEP};

/* Which argument goes where, for one tuple of keyword names. A call site's tuple
 * is a constant of its code, so its address stands for its names while it lives. */
#define PLAN_NAMES 27
#define PLANS 8

typedef struct {
    PyObject *names; /* strong */
    uint16_t recent; /* used since args_learn_plan last passed by */
    int32_t target[PLAN_NAMES];
} call_plan;

/* One call in so many slots of the ring is timed, and the latest times are kept. Not the first of a run, which learns its
 * names: it stands for no other. */
#define SAMPLE_SLOTS 1024
#define SAMPLES 256
#define SCALAR_TYPES 8
#define KEYS 64

/* In place of a value that is not there: what the slot is to hold. */
typedef struct {
    PyObject_HEAD
    uint64_t bits;     /* a reference into the slab, or an advlog_unresolved */
    advlog_ring *ring; /* whose slab that is, until the record is published; NULL for a reason */
    PyObject *owner;   /* keeps the ring's memory */
} deferred_value;

extern PyTypeObject *deferred_type; /* for the life of the process */

/* A type of which values are asked for their item(), ... */
typedef struct {
    PyObject *type; /* strong */
    bool may_lie_on_device; /* ... unless they lie on an accelerator */
} scalar_kind;

/* A key of the mappings that a program logs: a constant of its code, mostly, whose address stands for it while it lives. */
typedef struct {
    PyObject *name; /* strong, an exact str; NULL: none */
    int32_t target;
} known_key;

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
    known_key key[KEYS]; /* by their addresses */
    /* How a step follows from epoch, batch and total_batches, and what makes a call come to Python first: */
    int32_t first_epoch;   /* the number of the first epoch; least_epoch says whether it is known */
    int32_t least_epoch;   /* an epoch below it */
    int64_t total_batches; /* or, beyond the first epoch, another total than that of the step derived before */
    bool watches_total;    /* if it is still of interest */
    int64_t derived;       /* the last step derived; INT64_MIN before there is one */
    bool skips_new; /* names: there is no room for more */
    uint64_t skipped; /* values under such names */
    bool due; /* the call that is at its end is one to be timed */
    uint64_t sampled;
    uint32_t sample_ns[SAMPLES]; /* sample n at n % SAMPLES */
} producer;

#define NO_TOTAL INT64_MIN /* of a producer: none yet */

/* ---- producer.c ---- */

PyObject *log_batch_progress(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *names);
PyObject *log_performance_metrics(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *names);
PyObject *log_metrics(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *names);
/* _try_record(kind, time_ns, mapping): time_ns 0 is now; names must be known, values exact. An advlog_status. */
PyObject *producer_try_record(PyObject *op, PyObject *args);

/* _steps(): the total of the last step derived beyond the first epoch, and that step; each None where there was none. */
PyObject *producer_steps(PyObject *op, PyObject *none);
/* _settle_steps(first_epoch, total_batches, derived, watches_epoch, watches_total): first_epoch None is not known yet;
 * total_batches and derived as of _steps. */
PyObject *producer_settle_steps(PyObject *op, PyObject *args);

/* ---- producer_args.c ---- */

/* A call with more arguments converts them slowly. */
#define MOST_ITEMS 64

/* The arguments of a call, those among them exchanged that C does not take as they are. Strong. */
typedef struct {
    Py_ssize_t count;
    Py_ssize_t deferrable_count;
    bool changed;
    PyObject *item[MOST_ITEMS];
    uint8_t deferrable[MOST_ITEMS]; /* which of them lie on an accelerator */
} exchange;

bool args_prepare(void); /* once, when the module is made; false with an error set */
/* The target of a name: TARGET_UNKNOWN where it has none yet, TARGET_SKIPPED where it can get none. A subclass of str
 * (numpy.str_ is one) is looked up as the plain string it holds: its own code never runs here. */
int args_target(producer *self, PyObject *name);
/* The same for a mapping's key; TARGET_UNKNOWN where it is no exact str. */
int args_key_target(producer *self, PyObject *key);
void args_forget_keys(producer *self);
/* The targets of the names that every ring has: a dict. NULL with an error set. */
PyObject *args_fixed_targets(void);
/* Remembers a call site in place of one that was not used lately. */
void args_learn_plan(producer *self, PyObject *names, const int32_t *target);
void args_forget_plans(producer *self);
/* Asks scalars for their item(), and notes those that lie on an accelerator. False with an error set. */
bool args_exchange_items(producer *self, exchange *x, PyObject *const *args, Py_ssize_t nargs, PyObject *names);
/* A copy of the mapping with what the scalars in it say of themselves, none of which may lie on an accelerator; NULL where the
 * mapping is of another kind, with an error set or not. */
PyObject *args_mapping_of_items(producer *self, PyObject *mapping);
void args_exchange_end(exchange *x);
/* _learn(name): gives the name an id; False where there are no more, None where there is no room for it now, or the producer
 * is not bound. */
PyObject *args_learn(PyObject *op, PyObject *name);
/* _skip_new_names(): from now on a value under a name that has no id is left out of its record, and counted. */
PyObject *args_skip_new_names(PyObject *op, PyObject *none);
/* _learn_scalar(type, deferrable): the item() of its values is the number to log; with `deferrable` only of those whose
 * `is_cuda` is false. */
PyObject *args_learn_scalar(PyObject *op, PyObject *args);

/* ---- producer_deferred.c ---- */

/* New deferred values, each without a reference so far. NULL with an error set. */
PyObject *deferred_list(Py_ssize_t count);
bool deferred_prepare(PyObject *module); /* adds the type to the module; false with an error set */
/* _reserve(count): the first entry, the key as an int64, and a list of that many deferred values; None where the slab has
 * no room for them. */
PyObject *deferred_reserve(PyObject *op, PyObject *args);
/* _unresolved(reason): a deferred value that never comes. */
PyObject *deferred_unresolved(PyObject *op, PyObject *args);

/* ---- producer_device.c ---- */

bool device_prepare(void); /* once, when the module is made; false with an error set */
/* _meet_torch(Tensor, Parameter, is_cow, stream_of, exchange, dtypes): what a launch may be asked to read. is_cow and exchange
 * (dlpack.h) may be None; the dtypes are float64, float32, float16, bfloat16, int64, int32, int16, int8, uint8 and bool. */
PyObject *device_meet_torch(PyObject *op, PyObject *args);
/* _open_device(index, ptx): "" or why the device cannot be launched on. */
PyObject *device_open_for(PyObject *op, PyObject *args);
/* _page_lock(index): page-locks the slab, an open device's way; whether that was done. */
PyObject *device_page_lock_slab(PyObject *op, PyObject *index);
/* _use_device(index): values on it are copied by launches from now on. "" or why that cannot be. */
PyObject *device_use(PyObject *op, PyObject *index);
/* _take_refusal(): why the driver has refused a launch since this was asked last; "" where it has not. */
PyObject *device_take_refusal(PyObject *op, PyObject *none);
/* Enqueues launches that copy the tensors, all of one device: a list of deferred values; NULL where they must go another way,
 * or with an error set that is no Exception. */
PyObject *device_defer(producer *self, PyObject *const *tensors, Py_ssize_t count);
/* The same for the values of a mapping: a copy of it with deferred values in their place; NULL, too, where it has none. */
PyObject *device_defer_mapping(producer *self, PyObject *mapping);
/* _launch(tensors): the same for a list; None where they must go another way. */
PyObject *device_launch(PyObject *op, PyObject *tensors);
/* Has the values copied that lie on an accelerator. False with an error set; as they are where that cannot be. */
bool device_exchange(producer *self, exchange *x);
