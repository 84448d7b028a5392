/* Values on an NVIDIA GPU, copied by one launch of the driver (device.h): how many there may be and of what types they are, the
 * call runs no operator of torch and no Python of this package.
 *
 * A wrong address would end the device's context, and with it the training. So a launch gets only what torch.Tensor and
 * torch.nn.Parameter themselves say of a single number whose storage covers it; everything else is left to `defer`. */
#include "producer.h"

#include "device.h"
#include "dlpack.h"
#include "slab.h"

#define DEVICE_DTYPES 10

/* What torch calls things; for the life of the process, once _meet_torch was called. */
static PyObject *tensor_type, *parameter_type;
static PyObject *is_cow;    /* torch._C._is_cow_tensor; NULL where torch has no such tensors */
static PyObject *stream_of; /* takes a device's number, returns its current stream's address */
static PyObject *met_capsule;
static const dlpack_exchange *dlpack; /* NULL before torch 2.10 */
static PyObject *dtype[DEVICE_DTYPES];

/* They, as DLPack and as a launch knows them. */
static const struct {
    enum device_type type;
    uint8_t code;
    uint8_t bits;
} DTYPES[DEVICE_DTYPES] = {{DEVICE_FLOAT64, DLPACK_FLOAT, 64}, {DEVICE_FLOAT32, DLPACK_FLOAT, 32},
                           {DEVICE_FLOAT16, DLPACK_FLOAT, 16}, {DEVICE_BFLOAT16, DLPACK_BFLOAT, 16},
                           {DEVICE_INT64, DLPACK_INT, 64},     {DEVICE_INT32, DLPACK_INT, 32},
                           {DEVICE_INT16, DLPACK_INT, 16},     {DEVICE_INT8, DLPACK_INT, 8},
                           {DEVICE_UINT8, DLPACK_UINT, 8},     {DEVICE_BOOL, DLPACK_BOOL, 8}};

static PyObject *numel_name, *dtype_name, *is_neg_name, *get_device_name, *data_ptr_name, *untyped_storage_name, *nbytes_name,
    *is_cuda_name, *is_nested_name;

bool device_prepare(void) {
    static const struct {
        PyObject **name;
        const char *text;
    } names[] = {{&numel_name, "numel"},           {&dtype_name, "dtype"},       {&is_neg_name, "is_neg"},
                 {&get_device_name, "get_device"}, {&data_ptr_name, "data_ptr"}, {&untyped_storage_name, "untyped_storage"},
                 {&nbytes_name, "nbytes"},         {&is_cuda_name, "is_cuda"},   {&is_nested_name, "is_nested"}};
    for (unsigned i = 0; i < Py_ARRAY_LENGTH(names); i++)
        if (!*names[i].name && !(*names[i].name = PyUnicode_InternFromString(names[i].text))) return false;
    return true;
}

/* The exchange API of a capsule; NULL where it is none that can be used. */
static const dlpack_exchange *exchange_of(PyObject *capsule) {
    const dlpack_exchange *found = PyCapsule_CheckExact(capsule) ? PyCapsule_GetPointer(capsule, DLPACK_EXCHANGE) : NULL;
    PyErr_Clear();
    return found && found->version.major == DLPACK_MAJOR && found->tensor_of ? found : NULL;
}

PyObject *device_meet_torch(PyObject *Py_UNUSED(op), PyObject *args) {
    PyObject *tensor, *parameter, *cow, *stream, *capsule, *of;
    if (!PyArg_ParseTuple(args, "O!O!OOOO!:_meet_torch", &PyType_Type, &tensor, &PyType_Type, &parameter, &cow, &stream, &capsule,
                          &PyTuple_Type, &of))
        return NULL;
    if (PyTuple_GET_SIZE(of) != DEVICE_DTYPES)
        return PyErr_Format(PyExc_ValueError, "_meet_torch: expected %d dtypes", DEVICE_DTYPES);
    if (tensor == tensor_type && parameter == parameter_type && stream == stream_of && capsule == met_capsule) Py_RETURN_NONE;
    /* What was there before is not let go of: another thread may be calling it. */
    Py_INCREF(args);
    met_capsule = capsule;
    for (unsigned i = 0; i < DEVICE_DTYPES; i++) dtype[i] = PyTuple_GET_ITEM(of, i);
    dlpack = exchange_of(capsule);
    is_cow = cow == Py_None ? NULL : cow;
    stream_of = stream;
    parameter_type = parameter;
    tensor_type = tensor; /* last: it says that the others are there */
    Py_RETURN_NONE;
}

static bool is_own_tensor(PyObject *o) {
    PyObject *type = (PyObject *)Py_TYPE(o);
    return tensor_type && (type == tensor_type || type == parameter_type);
}

/* ---- opening ---- */

PyObject *device_open_for(PyObject *op, PyObject *args) {
    unsigned index;
    const char *ptx;
    if (!PyArg_ParseTuple(args, "Iy:_open_device", &index, &ptx)) return NULL;
    (void)op;
    int error;
    Py_BEGIN_ALLOW_THREADS /* the compilation takes a while */
    error = device_open(index, ptx);
    Py_END_ALLOW_THREADS
    return PyUnicode_FromString(error ? device_error_name(error) : "");
}

PyObject *device_page_lock_slab(PyObject *op, PyObject *arg) {
    producer *self = (producer *)op;
    unsigned long index = PyLong_AsUnsignedLong(arg);
    if (PyErr_Occurred()) return NULL;
    if (!self->ring || index >= DEVICE_MOST) Py_RETURN_FALSE;
    advlog_slab_entry *slab = self->ring->slab;
    size_t size = advlog_slab_entries(self->ring) * sizeof *slab;
    PyObject *owner = Py_NewRef(self->owner); /* keeps it while others run */
    int error;
    Py_BEGIN_ALLOW_THREADS /* the driver may wait for the device */
    error = device_page_lock((unsigned)index, slab, size);
    Py_END_ALLOW_THREADS
    Py_DECREF(owner);
    return PyBool_FromLong(error == 0);
}

PyObject *device_use(PyObject *op, PyObject *arg) {
    producer *self = (producer *)op;
    unsigned long index = PyLong_AsUnsignedLong(arg);
    if (PyErr_Occurred()) return NULL;
    advlog_ring *ring = index < DEVICE_MOST ? self->ring : NULL;
    if (!ring) return PyUnicode_FromString("the logger was closed meanwhile");
    advlog_slab_entry *slab = ring->slab;
    PyObject *owner = Py_NewRef(self->owner);
    int error;
    Py_BEGIN_ALLOW_THREADS /* the driver may wait for the device */
    error = device_sees((unsigned)index, slab);
    Py_END_ALLOW_THREADS
    if (!error && self->ring == ring) ring->devices |= UINT64_C(1) << index;
    Py_DECREF(owner);
    return PyUnicode_FromString(error ? device_error_name(error) : "");
}

PyObject *device_take_refusal(PyObject *op, PyObject *Py_UNUSED(none)) {
    producer *self = (producer *)op;
    int error = self->ring ? self->ring->device_error : 0;
    if (error) self->ring->device_error = 0;
    return PyUnicode_FromString(error ? device_error_name(error) : "");
}

/* ---- what a launch may read ---- */

typedef struct {
    uint64_t at;
    enum device_type type;
} device_place;

/* The memory of the storage that was found last. All that were found are held until the launches are made: another thread, or
 * code that torch runs, may give a tensor other data meanwhile. What resizes a storage in that time is not seen. */
typedef struct {
    uint64_t from, to;
    PyObject *held; /* a list */
} device_range;

/* What a tensor says of itself. */
typedef struct {
    uint64_t at;
    long long device;
    unsigned dtype; /* DEVICE_DTYPES: none that a launch knows */
    bool is_single;
} device_tensor;

enum reading { UNREADABLE, READABLE, ELSEWHERE };

/* A method's result, or an attribute, as an integer. False with an error set. */
static bool as_integer(PyObject *result, long long *value) {
    bool exact = result && PyLong_CheckExact(result); /* a tensor that is traced gives a tensor */
    if (exact) *value = PyLong_AsLongLong(result);
    Py_XDECREF(result);
    return exact && (*value != -1 || !PyErr_Occurred());
}

/* Whether the result is False, and not None or an error. */
static bool says_no(PyObject *result) {
    bool no = result == Py_False;
    Py_XDECREF(result);
    return no;
}

static bool has_dtype(PyObject *tensor, unsigned which) {
    PyObject *of = PyObject_GetAttr(tensor, dtype_name);
    Py_XDECREF(of); /* torch holds it */
    return of == dtype[which];
}

/* False where it cannot say, with an error set or not. */
static bool ask_dlpack(PyObject *tensor, device_tensor *out) {
    dlpack_tensor t;
    if (dlpack->tensor_of(tensor, &t) != 0) return false;
    *out = (device_tensor){(uintptr_t)t.data + t.byte_offset, t.device.kind == DLPACK_CUDA ? t.device.index : -1, 0, true};
    for (int32_t i = 0; i < t.dimensions; i++) out->is_single &= t.shape[i] == 1;
    while (out->dtype < DEVICE_DTYPES && (DTYPES[out->dtype].code != t.dtype.code || DTYPES[out->dtype].bits != t.dtype.bits))
        out->dtype++;
    /* Types of fewer bits say that they have eight. */
    if (t.dtype.bits == 8 && out->dtype < DEVICE_DTYPES && !has_dtype(tensor, out->dtype)) return false;
    return t.dtype.lanes == 1;
}

static bool ask_methods(PyObject *tensor, device_tensor *out) {
    long long numel, at;
    *out = (device_tensor){.device = -1};
    PyObject *is_cuda = PyObject_GetAttr(tensor, is_cuda_name);
    Py_XDECREF(is_cuda);
    if (is_cuda != Py_True) return is_cuda == Py_False; /* other accelerators have numbers too */
    if (!says_no(PyObject_GetAttr(tensor, is_nested_name))) return false; /* its address is not its first value's */
    if (!as_integer(PyObject_CallMethodNoArgs(tensor, numel_name), &numel)) return false;
    PyObject *of = PyObject_GetAttr(tensor, dtype_name);
    if (!of) return false;
    *out = (device_tensor){.is_single = numel == 1};
    while (out->dtype < DEVICE_DTYPES && dtype[out->dtype] != of) out->dtype++;
    Py_DECREF(of);
    if (!as_integer(PyObject_CallMethodNoArgs(tensor, get_device_name), &out->device)) return false;
    if (!as_integer(PyObject_CallMethodNoArgs(tensor, data_ptr_name), &at)) return false;
    out->at = (uint64_t)at;
    return true;
}

static bool find_storage(PyObject *tensor, device_range *range) {
    long long from = 0, bytes = 0;
    PyObject *storage = PyObject_CallMethodNoArgs(tensor, untyped_storage_name);
    bool found = storage && as_integer(PyObject_CallMethodNoArgs(storage, data_ptr_name), &from) &&
                 as_integer(PyObject_CallMethodNoArgs(storage, nbytes_name), &bytes);
    found = found && from != 0 && bytes > 0 && PyList_Append(range->held, storage) == 0;
    Py_XDECREF(storage);
    range->from = found ? (uint64_t)from : 0;
    range->to = found ? (uint64_t)from + (uint64_t)bytes : 0;
    return found;
}

/* A load of an address that is no multiple of its size is a fault of the device. */
static bool is_inside(const device_range *range, uint64_t at, unsigned bits) {
    return at % (bits / 8) == 0 && at >= range->from && at <= range->to && bits / 8 <= range->to - at;
}

/* Whether a launch may read the tensor, which is one of torch's own; an error may be set where it may not. ELSEWHERE: it lies on
 * no GPU that a launch knows. */
static enum reading inspect(PyObject *tensor, long long *device, device_range *range, device_place *place) {
    device_tensor said;
    if (is_cow && !says_no(PyObject_CallOneArg(is_cow, tensor))) return UNREADABLE; /* it would be copied for its address */
    if (!says_no(PyObject_CallMethodNoArgs(tensor, is_neg_name))) return UNREADABLE;
    if (!(dlpack ? ask_dlpack(tensor, &said) : ask_methods(tensor, &said))) return UNREADABLE;
    if (said.device < 0) return ELSEWHERE;
    if (*device < 0) *device = said.device;
    if (said.device != *device || said.device >= DEVICE_MOST) return UNREADABLE;
    if (!said.is_single || said.dtype == DEVICE_DTYPES) return UNREADABLE;
    unsigned bits = DTYPES[said.dtype].bits;
    if (!is_inside(range, said.at, bits) && !(find_storage(tensor, range) && is_inside(range, said.at, bits))) return UNREADABLE;
    *place = (device_place){said.at, DTYPES[said.dtype].type};
    return READABLE;
}

/* ---- launches ---- */

typedef struct {
    advlog_ring *ring;
    PyObject *owner; /* keeps the ring's memory while the GIL is let go of */
    unsigned device;
    void *stream;
    PyObject *values;      /* a list of deferred ones, without a reference so far */
    int error;             /* of a launch that was refused */
    Py_ssize_t done;       /* of them */
} device_call;

static deferred_value *next_value(device_call *c) { return (deferred_value *)PyList_GET_ITEM(c->values, c->done++); }

static void leave_out(device_call *c, Py_ssize_t count, unsigned reason) {
    while (count-- > 0) next_value(c)->bits = reason;
}

/* A launch for so many of the values, DEVICE_MOST_VALUES at most, or for fewer where no more entries lie side by side. */
static enum device_answer put(device_call *c, const device_place *places, uint32_t count) {
    uint64_t reference = advlog_slab_reserve(c->ring, count);
    while (!reference && count > 1) reference = advlog_slab_reserve(c->ring, count /= 2);
    if (!reference) {
        leave_out(c, count, ADVLOG_UNRESOLVED_SLAB_FULL);
        return DEVICE_DONE;
    }
    device_values values;
    for (uint32_t i = 0; i < count; i++) {
        values.at[i] = places[i].at;
        values.type[i] = (uint8_t)places[i].type;
    }
    values.key = advlog_slab_key(c->ring, reference);
    values.out = (uintptr_t)&c->ring->slab[reference % advlog_slab_entries(c->ring)];
    values.count = count;
    enum device_answer answer;
    /* Where the device's queue is full it waits for the device; what the device waits for may be another thread of Python. */
    Py_BEGIN_ALLOW_THREADS
    answer = device_put(c->device, c->stream, &values, &c->error);
    Py_END_ALLOW_THREADS
    if (answer != DEVICE_DONE) {
        slab_release(c->ring, reference, count);
        return answer;
    }
    for (uint32_t i = 0; i < count; i++) {
        deferred_value *item = next_value(c);
        item->bits = reference + i;
        item->ring = c->ring;
        item->owner = Py_NewRef(c->owner);
    }
    /* Relaxed: the holder of the GIL is the only writer, and readers want a count. */
    store_relaxed(&c->ring->launched, load_relaxed(&c->ring->launched) + count);
    return DEVICE_DONE;
}

static void put_all(device_call *c, const device_place *places, Py_ssize_t count) {
    while (c->done < count) {
        Py_ssize_t left = count - c->done;
        enum device_answer answer = put(c, &places[c->done], (uint32_t)(left < DEVICE_MOST_VALUES ? left : DEVICE_MOST_VALUES));
        if (answer == DEVICE_DONE) continue;
        if (answer == DEVICE_REFUSED) {
            c->ring->devices &= ~(UINT64_C(1) << c->device); /* what comes goes the other way */
            c->ring->device_error = c->error;
            if (c->done == 0) return;                        /* and so do these */
        }
        leave_out(c, count - c->done, answer == DEVICE_CAPTURING ? ADVLOG_UNRESOLVED_CAPTURE : ADVLOG_UNRESOLVED_TIMEOUT);
    }
}

/* Launches for all of the values, a list of deferred ones. False where they must go another way, with an error set or not. */
static bool launch(producer *self, const device_place *places, PyObject *values, long long device) {
    PyObject *number = PyLong_FromLongLong(device), *stream = number ? PyObject_CallOneArg(stream_of, number) : NULL;
    device_call c = {.device = (unsigned)device, .stream = stream ? PyLong_AsVoidPtr(stream) : NULL, .values = values};
    Py_XDECREF(number);
    Py_XDECREF(stream);
    if (PyErr_Occurred()) return false;
    /* Looked at now: what was asked of torch may have closed the logger. */
    c.ring = self->ring;
    if (!c.ring || ring_is_child(c.ring) || !(c.ring->devices >> device & 1)) return false;
    c.owner = Py_NewRef(self->owner);
    put_all(&c, places, PyList_GET_SIZE(values));
    Py_DECREF(c.owner);
    return c.done == PyList_GET_SIZE(values);
}

/* Clears an Exception: the other way will meet it again. False for anything else, such as a KeyboardInterrupt. */
static bool clear_exception(void) {
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_Exception)) PyErr_Clear();
    return !PyErr_Occurred();
}

static bool is_used(const producer *self) {
    return tensor_type && self->ring && self->ring->devices && !ring_is_child(self->ring);
}

PyObject *device_defer(producer *self, PyObject *const *tensors, Py_ssize_t count) {
    if (count == 0 || !is_used(self)) return NULL;
    device_place few[MOST_ITEMS], *places = few;
    if (count > MOST_ITEMS && !(places = PyMem_Malloc((size_t)count * sizeof *places))) return NULL;
    device_range range = {.held = PyList_New(0)};
    PyObject *values = range.held ? deferred_list(count) : NULL;
    long long device = -1;
    Py_ssize_t read = 0;
    while (values && read < count && is_own_tensor(tensors[read]) &&
           inspect(tensors[read], &device, &range, &places[read]) == READABLE)
        read++;
    if (read < count || !launch(self, places, values, device)) Py_CLEAR(values);
    Py_XDECREF(range.held);
    if (places != few) PyMem_Free(places);
    clear_exception();
    return values;
}

PyObject *device_launch(PyObject *op, PyObject *list) {
    PyObject *tensors = PySequence_Tuple(list); /* nobody else changes it */
    if (!tensors) return NULL;
    PyObject *values = device_defer((producer *)op, PySequence_Fast_ITEMS(tensors), PyTuple_GET_SIZE(tensors));
    Py_DECREF(tensors);
    if (!values && !PyErr_Occurred()) Py_RETURN_NONE;
    return values;
}

/* Which of a mapping's values there are to copy. */
typedef struct {
    Py_ssize_t count;
    Py_ssize_t most;
    PyObject **key; /* borrowed */
    device_place *place;
    device_range range;
    long long device;
} device_items;

/* Whether it is the key of one of a record's integers, which are its place, and cannot come later. */
static bool is_integer(producer *self, PyObject *key) {
    Py_ssize_t length = PyUnicode_GET_LENGTH(key);
    if (length != 4 && length != 5 && length != 13) return false; /* step; epoch, batch; total_batches */
    int target = args_key_target(self, key);
    return target >= 0 && target < TARGET_CORE;
}

/* False where one of them must go another way. */
static bool inspect_mapping(producer *self, PyObject *mapping, device_items *items) {
    Py_ssize_t at = 0;
    PyObject *key, *value;
    while (PyDict_Next(mapping, &at, &key, &value)) {
        if (!is_own_tensor(value)) continue;
        if (!PyUnicode_CheckExact(key) || items->count == items->most) return false;
        if (is_integer(self, key)) continue;
        enum reading reading = inspect(value, &items->device, &items->range, &items->place[items->count]);
        if (reading == UNREADABLE) return false;
        if (reading == READABLE) items->key[items->count++] = key;
    }
    return items->count > 0;
}

static bool exchange_in(producer *self, PyObject *mapping, device_items *items) {
    if (!inspect_mapping(self, mapping, items)) return false;
    PyObject *values = deferred_list(items->count);
    bool done = values && launch(self, items->place, values, items->device);
    for (Py_ssize_t i = 0; done && i < items->count; i++)
        done = PyDict_SetItem(mapping, items->key[i], PyList_GET_ITEM(values, i)) == 0;
    Py_XDECREF(values);
    return done;
}

PyObject *device_defer_mapping(producer *self, PyObject *mapping) {
    if (!is_used(self)) return NULL;
    /* No code that may run from here on knows the copy, so that it stays as it is. */
    PyObject *copy = PyDict_Copy(mapping);
    device_items items = {.device = -1, .most = copy ? PyDict_GET_SIZE(copy) : 0, .range = {.held = PyList_New(0)}};
    items.key = PyMem_Malloc(((size_t)items.most + 1) * sizeof *items.key);
    items.place = PyMem_Malloc(((size_t)items.most + 1) * sizeof *items.place);
    bool ready = copy && items.key && items.place && items.range.held;
    if (!ready || !exchange_in(self, copy, &items)) Py_CLEAR(copy);
    Py_XDECREF(items.range.held);
    PyMem_Free(items.key);
    PyMem_Free(items.place);
    clear_exception();
    return copy;
}

/* What the method in Python gives for the tensors. NULL with an error set. */
static PyObject *defer_slowly(producer *self, PyObject *const *tensors, Py_ssize_t count) {
    PyObject *defer = Py_NewRef(self->defer ? self->defer : Py_None), *list = PyList_New(count), *values = NULL;
    for (Py_ssize_t i = 0; list && i < count; i++) PyList_SET_ITEM(list, i, Py_NewRef(tensors[i]));
    if (list) values = PyObject_CallOneArg(defer, list);
    Py_DECREF(defer);
    Py_XDECREF(list);
    return values;
}

bool device_exchange(producer *self, exchange *x) {
    /* A child waits for its values: no device knows its slab. */
    if (!x->deferrable_count || !self->defer || !self->ring || ring_is_child(self->ring)) return true;
    PyObject *borrowed[MOST_ITEMS];
    for (Py_ssize_t i = 0; i < x->deferrable_count; i++) borrowed[i] = x->item[x->deferrable[i]];
    PyObject *values = device_defer(self, borrowed, x->deferrable_count);
    if (!values && PyErr_Occurred()) return false;
    if (!values && !(values = defer_slowly(self, borrowed, x->deferrable_count))) return clear_exception();
    if (PyList_CheckExact(values) && PyList_GET_SIZE(values) == x->deferrable_count) {
        for (Py_ssize_t i = 0; i < x->deferrable_count; i++)
            Py_SETREF(x->item[x->deferrable[i]], Py_NewRef(PyList_GET_ITEM(values, i)));
        x->changed = true;
    }
    Py_DECREF(values);
    return true;
}
