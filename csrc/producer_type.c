/* The base type of AdvancedLogger: binds it to a ring, documents its C calls, and supports the garbage collector. */
#include "producer.h"

#include <structmember.h>

#include "guard.h"

/* These strings keep the line breaks that help() shows. */
/* clang-format off */
PyDoc_STRVAR(log_batch_progress_doc,
"log_batch_progress($self, /, epoch, batch, total_batches, loss, accuracy=None, learning_rate=None, gradient_norm=None, batch_time=None, data_time=None, step=None, **metrics)\n"
"--\n\n"
"Log one batch. The call puts the record into shared memory and returns; a background thread writes it to the files.\n\n"
":param epoch: number of the epoch, an int32, stored as given; None in a training without epochs. A float such as 0.25\n"
"    is logged as the metric `epoch_progress`; 2.0 is both.\n"
":param batch: number of the batch within the epoch, an int32, or None.\n"
":param total_batches: number of batches in the epoch, an int32. None, infinity, -1 and `sys.maxsize` mean unknown\n"
"    (iterable data).\n"
":param loss: float64; NaN and infinities are kept. None if there is no single loss.\n"
":param accuracy: float64, stored as given, never rescaled.\n"
":param learning_rate: float64.\n"
":param gradient_norm: float64.\n"
":param batch_time: seconds, float64. Without it, the summary uses the time between calls.\n"
":param data_time: seconds of batch_time spent waiting for data, float64.\n"
":param step: optimizer step, an int64. If omitted, (epoch - first_epoch) * total_batches + batch, where the run's first\n"
"    record of an epoch 0 or 1 says which is the first, or the option `first_epoch`; without total_batches, null.\n"
":param metrics: any other scalars, float64 (`samples` and `tokens` become rates in the summary); mappings of\n"
"    scalars are flattened with `/`. The call converts numpy scalars and one-element torch tensors. It does not\n"
"    wait for a tensor on a CUDA or ROCm GPU: the tensor's stream copies the value later.\n"
":raises TypeError: an argument is missing.\n\n"
"A value that is no number, or out of its column's range, or under a name that no metric can have, is left out and\n"
"counted, with one warning; the rest of the record is logged. See the option `on_misuse`.\n\n"
"If the ring is full, the call waits or drops the record, as the options `overflow` and `overflow_timeout_s`\n"
"say. Any thread may call it.\n\n"
">>> log.log_batch_progress(1, 2, 10, 0.25, learning_rate=1e-3, samples=64)");

PyDoc_STRVAR(log_metrics_doc,
"log_metrics($self, /, metrics, step=None)\n"
"--\n\n"
"Log one row of metrics that does not belong to a batch, for example of an evaluation or a custom loop.\n\n"
"It goes through the ring like a batch. A plain dict of floats and integers under names that were logged before costs\n"
"about as much as :meth:`log_batch_progress`; anything else takes some 10 microseconds more.\n\n"
":param metrics: names to scalars, float64; nested mappings are flattened with `/`, None is left out; `epoch`, `batch`,\n"
"    `total_batches` and `step` are the integer columns. A float under `epoch`, as trainers give it, is logged as the\n"
"    metric `epoch_progress`; a whole one is the epoch too. Or pass a :class:`TrainingMetrics`. Without any value,\n"
"    nothing is logged.\n"
":param step: the optimizer step, an int64; it replaces the mapping's `step`.\n"
":raises TypeError: `metrics` is neither a mapping nor a TrainingMetrics.\n\n"
"A value that is no number, or out of its column's range, or under a name that no metric can have, is left out and\n"
"counted, with one warning; the rest of the row is logged. See the option `on_misuse`.\n\n"
">>> log.log_metrics({\"val\": {\"loss\": 0.4, \"accuracy\": 0.9}}, step=10)");

PyDoc_STRVAR(log_performance_metrics_doc,
"log_performance_metrics($self, /, batch_time, data_time=None)\n"
"--\n\n"
"Log how long a batch took, to the system stream, at the cost of log_batch_progress. The summary has averages,\n"
"percentiles and the share of time spent waiting for data.\n\n"
":param batch_time: seconds, float64.\n"
":param data_time: seconds of batch_time spent waiting for data, float64.\n"
":raises TypeError: an argument is missing.\n\n"
"What is no number is left out, with one warning: see the option `on_misuse`.\n\n"
">>> log.log_performance_metrics(batch_time=0.12, data_time=0.03)");
/* clang-format on */

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
    PyObject *targets = args_fixed_targets(); /* ids are a ring's own */
    if (!targets) return NULL;
    args_forget_plans(self);
    args_forget_keys(self);
    Py_SETREF(self->targets, targets);
    self->ring = ring;
    self->silent = 0;
    self->due = false;
    self->sampled = 0;
    self->skips_new = false;
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

/* _samples(): the durations, in ns, of the latest timed calls of log_batch_progress; one in SAMPLE_SLOTS is timed. */
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
    {"log_batch_progress", (PyCFunction)(void (*)(void))log_batch_progress, METH_FASTCALL | METH_KEYWORDS,
     log_batch_progress_doc},
    {"log_performance_metrics", (PyCFunction)(void (*)(void))log_performance_metrics, METH_FASTCALL | METH_KEYWORDS,
     log_performance_metrics_doc},
    {"log_metrics", (PyCFunction)(void (*)(void))log_metrics, METH_FASTCALL | METH_KEYWORDS, log_metrics_doc},
    {"_try_record", producer_try_record, METH_VARARGS, NULL},
    {"_steps", producer_steps, METH_NOARGS, NULL},
    {"_settle_steps", producer_settle_steps, METH_VARARGS, NULL},
    {"_bind", producer_bind, METH_VARARGS, NULL},
    {"_unbind", producer_unbind, METH_NOARGS, NULL},
    {"_learn", args_learn, METH_O, NULL},
    {"_skip_new_names", args_skip_new_names, METH_NOARGS, NULL},
    {"_learn_scalar", args_learn_scalar, METH_VARARGS, NULL},
    {"_reserve", deferred_reserve, METH_VARARGS, NULL},
    {"_unresolved", deferred_unresolved, METH_VARARGS | METH_STATIC, NULL},
    {"_meet_torch", device_meet_torch, METH_VARARGS | METH_STATIC, NULL},
    {"_open_device", device_open_for, METH_VARARGS | METH_STATIC, NULL},
    {"_page_lock", device_page_lock_slab, METH_O, NULL},
    {"_use_device", device_use, METH_O, NULL},
    {"_launch", device_launch, METH_O, NULL},
    {"_take_refusal", device_take_refusal, METH_NOARGS, NULL},
    {"_samples", producer_samples, METH_NOARGS, NULL},
    {"__copy__", producer_self, METH_NOARGS, PyDoc_STR("A logger is one per process: its copy is itself.")},
    {"__deepcopy__", producer_self, METH_O, PyDoc_STR("A logger is one per process: its copy is itself.")},
    {NULL, NULL, 0, NULL}};

static PyMemberDef producer_members[] = {
    {"_skipped", T_ULONGLONG, offsetof(producer, skipped), READONLY, "Values left out for want of room for their names."},
    {"__dictoffset__", T_PYSSIZET, offsetof(producer, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(producer, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL}};

/* ---- the type ---- */

static PyObject *producer_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs)) {
    producer *self = (producer *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->silent = 1;
    self->first_epoch = 1;
    self->least_epoch = INT32_MIN;
    self->total_batches = NO_TOTAL;
    self->derived = INT64_MIN;
    self->targets = args_fixed_targets();
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
    args_forget_plans(self);
    args_forget_keys(self);
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
    {Py_tp_doc,
     (void *)PyDoc_STR("The half of a logger that pushes into a ring. Its calls do nothing until it is bound to a ring.")},
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
    if (!args_prepare() || !device_prepare() || !deferred_prepare(module) || guard_add_to(module)) return -1;
    PyObject *type = PyType_FromModuleAndSpec(module, &producer_spec, NULL);
    if (!type) return -1;
    int failed = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return failed;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static struct PyModuleDef module_def = {PyModuleDef_HEAD_INIT, .m_name = "_producer", .m_doc = "The hot call.",
                                        .m_slots = module_slots};

PyMODINIT_FUNC PyInit__producer(void) { return PyModuleDef_Init(&module_def); }
