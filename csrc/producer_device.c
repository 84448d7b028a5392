/* Values on an NVIDIA GPU, copied by one launch of the driver (device.h): how many there may be and of what types they are, the
 * call runs no operator of torch and no Python of this package.
 *
 * A wrong address would end the device's context, and with it the training. So a launch gets only what torch.Tensor and
 * torch.nn.Parameter themselves say of a single number whose storage covers it; everything else is left to `defer`. */
#include "producer.h"

#include "device.h"
#include "dlpack.h"
#include "slab.h"

/* What torch calls things; for the life of the process, once _meet_torch was called. */
static PyObject *tensor_type, *parameter_type;
static PyObject *is_cow;    /* torch._C._is_cow_tensor; NULL where torch has no such tensors */
static PyObject *stream_of; /* takes a device's number, returns its current stream's address */
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
                           {DEVICE_UINT8, DLPACK_UINT, 8},     {DEVICE_UINT8, DLPACK_BOOL, 8}};

static PyObject *numel_name, *dtype_name, *is_neg_name, *get_device_name, *data_ptr_name, *untyped_storage_name, *nbytes_name;

bool device_prepare(void) {
    static const struct {
        PyObject **name;
        const char *text;
    } names[] = {{&numel_name, "numel"},           {&dtype_name, "dtype"},       {&is_neg_name, "is_neg"},
                 {&get_device_name, "get_device"}, {&data_ptr_name, "data_ptr"}, {&untyped_storage_name, "untyped_storage"},
                 {&nbytes_name, "nbytes"}};
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
    for (unsigned i = 0; i < DEVICE_DTYPES; i++) Py_XSETREF(dtype[i], Py_NewRef(PyTuple_GET_ITEM(of, i)));
    dlpack = exchange_of(capsule);
    Py_XSETREF(is_cow, cow == Py_None ? NULL : Py_NewRef(cow));
    Py_XSETREF(stream_of, Py_NewRef(stream));
    Py_XSETREF(parameter_type, Py_NewRef(parameter));
    Py_XSETREF(tensor_type, Py_NewRef(tensor)); /* last: it says that the others are there */
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
    return PyBool_FromLong(device_page_lock((unsigned)index, self->ring->slab, ADVLOG_SLAB_ENTRIES * sizeof *self->ring->slab) ==
                           0);
}

PyObject *device_use(PyObject *op, PyObject *arg) {
    producer *self = (producer *)op;
    unsigned long index = PyLong_AsUnsignedLong(arg);
    if (PyErr_Occurred()) return NULL;
    if (!self->ring || index >= DEVICE_MOST) return PyUnicode_FromString("the logger was closed meanwhile");
    int error = device_sees((unsigned)index, self->ring->slab);
    if (error) return PyUnicode_FromString(device_error_name(error));
    self->ring->devices |= UINT64_C(1) << index;
    return PyUnicode_FromString("");
}

/* ---- what a launch may read ---- */

typedef struct {
    uint64_t at;
    enum device_type type;
} device_place;

/* Live memory of one storage, found in this call. */
typedef struct {
    uint64_t from, to;
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
    if (!result) return false;
    *value = PyLong_AsLongLong(result);
    Py_DECREF(result);
    return *value != -1 || !PyErr_Occurred();
}

static bool says_no(PyObject *result) {
    bool no = result == Py_False;
    Py_XDECREF(result);
    return no;
}

/* False where it cannot say, with an error set or not. */
static bool ask_dlpack(PyObject *tensor, device_tensor *out) {
    dlpack_tensor t;
    if (dlpack->tensor_of(tensor, &t) != 0) return false;
    *out = (device_tensor){(uintptr_t)t.data + t.byte_offset, t.device.kind == DLPACK_CUDA ? t.device.index : -1, 0, true};
    for (int32_t i = 0; i < t.dimensions; i++) out->is_single &= t.shape[i] == 1;
    while (out->dtype < DEVICE_DTYPES && (DTYPES[out->dtype].code != t.dtype.code || DTYPES[out->dtype].bits != t.dtype.bits))
        out->dtype++;
    return t.dtype.lanes == 1;
}

static bool ask_methods(PyObject *tensor, device_tensor *out) {
    long long numel, at;
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
    Py_XDECREF(storage);
    if (!found || from == 0 || bytes <= 0) return false;
    *range = (device_range){(uint64_t)from, (uint64_t)from + (uint64_t)bytes};
    return true;
}

static bool is_inside(const device_range *range, uint64_t at, unsigned bits) {
    return at >= range->from && at + bits / 8 <= range->to;
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
    Py_ssize_t done;       /* of them */
} device_call;

static deferred_value *next_value(device_call *c) { return (deferred_value *)PyList_GET_ITEM(c->values, c->done++); }

static void leave_out(device_call *c, Py_ssize_t count, unsigned reason) {
    while (count-- > 0) next_value(c)->bits = reason;
}

/* Launches for so many of the values, DEVICE_MOST_VALUES at most. */
static enum device_answer put(device_call *c, const device_place *places, uint32_t count) {
    uint64_t reference = advlog_slab_reserve(c->ring, count);
    if (!reference) {
        leave_out(c, count, ADVLOG_UNRESOLVED_SLAB_FULL);
        return DEVICE_DONE;
    }
    device_values values;
    for (uint32_t i = 0; i < count; i++) {
        values.at[i] = places[i].at;
        values.type[i] = (uint8_t)places[i].type;
    }
    values.key = advlog_slab_key(reference);
    values.out = (uintptr_t)&c->ring->slab[reference % ADVLOG_SLAB_ENTRIES];
    values.count = count;
    enum device_answer answer;
    int error;
    /* Where the device's queue is full it waits for the device; what the device waits for may be another thread of Python. */
    Py_BEGIN_ALLOW_THREADS
    answer = device_put(c->device, c->stream, &values, &error);
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
            if (c->done == 0) return;                        /* and so do these */
        }
        leave_out(c, count - c->done, answer == DEVICE_CAPTURING ? ADVLOG_UNRESOLVED_CAPTURE : ADVLOG_UNRESOLVED_TIMEOUT);
    }
}

static PyObject *launch(producer *self, const device_place *places, Py_ssize_t count, unsigned device) {
    PyObject *number = PyLong_FromUnsignedLong(device), *stream = number ? PyObject_CallOneArg(stream_of, number) : NULL;
    Py_XDECREF(number);
    device_call c = {.device = device, .stream = stream ? PyLong_AsVoidPtr(stream) : NULL};
    Py_XDECREF(stream);
    if (PyErr_Occurred() || !(c.values = deferred_list(count))) return NULL;
    /* Looked at now: what was asked of torch may have closed the logger. */
    c.ring = self->ring;
    if (!c.ring || ring_is_child(c.ring) || !(c.ring->devices >> device & 1)) {
        Py_DECREF(c.values);
        return NULL;
    }
    c.owner = Py_NewRef(self->owner);
    put_all(&c, places, count);
    Py_DECREF(c.owner);
    if (c.done < count) Py_CLEAR(c.values);
    return c.values;
}

/* Clears an Exception: the other way will meet it again. */
static void clear_exception(void) {
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_Exception)) PyErr_Clear();
}

static bool is_used(const producer *self) {
    return tensor_type && self->ring && self->ring->devices && !ring_is_child(self->ring);
}

PyObject *device_defer(producer *self, PyObject *const *tensors, Py_ssize_t count) {
    if (count == 0 || !is_used(self)) return NULL;
    device_place few[MOST_ITEMS], *places = few;
    if (count > MOST_ITEMS && !(places = PyMem_Malloc((size_t)count * sizeof *places))) return NULL;
    device_range range = {0, 0};
    long long device = -1;
    Py_ssize_t read = 0;
    while (read < count && is_own_tensor(tensors[read]) && inspect(tensors[read], &device, &range, &places[read]) == READABLE)
        read++;
    PyObject *values = read == count ? launch(self, places, count, (unsigned)device) : NULL;
    if (places != few) PyMem_Free(places);
    clear_exception();
    return values;
}

PyObject *device_launch(PyObject *op, PyObject *tensors) {
    if (!PyList_CheckExact(tensors)) return PyErr_Format(PyExc_TypeError, "_launch: expected a list of tensors");
    PyObject *values = device_defer((producer *)op, PySequence_Fast_ITEMS(tensors), PyList_GET_SIZE(tensors));
    if (!values && !PyErr_Occurred()) Py_RETURN_NONE;
    return values;
}

/* A value of a mapping that a launch is to copy. */
typedef struct {
    PyObject *key;
    device_place place;
} device_item;

/* How many of a mapping's values there are to copy; 0 where one of them must go another way. */
static Py_ssize_t inspect_mapping(PyObject *mapping, long long *device, device_item *items) {
    device_range range = {0, 0};
    Py_ssize_t at = 0, count = 0;
    PyObject *key, *value;
    while (PyDict_Next(mapping, &at, &key, &value)) {
        if (!is_own_tensor(value)) continue;
        enum reading reading = inspect(value, device, &range, &items[count].place);
        if (reading == UNREADABLE || !PyUnicode_CheckExact(key)) return 0;
        if (reading == READABLE) items[count++].key = key;
    }
    return count;
}

static bool exchange_in(producer *self, PyObject *mapping, device_item *items) {
    long long device = -1;
    Py_ssize_t count = inspect_mapping(mapping, &device, items);
    device_place *places = count ? PyMem_Malloc((size_t)count * sizeof *places) : NULL;
    for (Py_ssize_t i = 0; places && i < count; i++) places[i] = items[i].place;
    PyObject *values = places ? launch(self, places, count, (unsigned)device) : NULL;
    PyMem_Free(places);
    bool done = values != NULL;
    for (Py_ssize_t i = 0; done && i < count; i++) done = PyDict_SetItem(mapping, items[i].key, PyList_GET_ITEM(values, i)) == 0;
    Py_XDECREF(values);
    return done;
}

PyObject *device_defer_mapping(producer *self, PyObject *mapping) {
    if (!is_used(self)) return NULL;
    /* No code that may run from here on knows the copy, so that it stays as it is. */
    PyObject *copy = PyDict_Copy(mapping);
    device_item *items = copy ? PyMem_Malloc(((size_t)PyDict_GET_SIZE(copy) + 1) * sizeof *items) : NULL;
    if (copy && (!items || !exchange_in(self, copy, items))) Py_CLEAR(copy);
    PyMem_Free(items);
    clear_exception();
    return copy;
}
