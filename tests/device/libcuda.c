/* Stands in for NVIDIA's driver where there is no GPU: `libcuda.so.1`, with as much of it as csrc/device.c calls.
 *
 * Its device is the process's own memory. A launch is queued, and run by a thread of its own: late, the queued ones in any
 * order, each value half by half. It holds to the driver's rules: a call without a current context fails, and what another
 * thread's capture forbids ends that capture, unless the thread's mode is relaxed.
 *
 * A program steers it by the functions standin_*. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int CUresult;

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_ALREADY_REGISTERED = 712,
    CUDA_ERROR_UNSUPPORTED = 900,
    MOST_VALUES = 128,
    MOST_QUEUED = 1 << 16,
    RELAXED = 2
};

/* As csrc/device.h has it. */
typedef struct {
    uint64_t at[MOST_VALUES];
    uint64_t key;
    uint64_t out;
    uint8_t type[MOST_VALUES];
    uint32_t count;
} values;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;
static values *queued[MOST_QUEUED];
static int queue_length, launches, capture_ended, primary, locked_ranges;
static bool holding, running, never, other_captures;
static uint64_t capturing_stream = UINT64_MAX, shift;
static unsigned seed = 1;
static struct {
    char name[64];
    CUresult error;
    int times;
} failing;
static __thread void *stack[16];
static __thread int depth;
static __thread int mode;

/* ---- steering ---- */

void standin_hold(int on) { pthread_mutex_lock(&lock), holding = on, pthread_cond_broadcast(&more), pthread_mutex_unlock(&lock); }
void standin_never(int on) { pthread_mutex_lock(&lock), never = on, pthread_mutex_unlock(&lock); }
void standin_capture(uint64_t stream) { pthread_mutex_lock(&lock), capturing_stream = stream, pthread_mutex_unlock(&lock); }
void standin_other_captures(int on) { pthread_mutex_lock(&lock), other_captures = on, pthread_mutex_unlock(&lock); }
int standin_capture_ended(void) { return capture_ended; }
int standin_launches(void) { return launches; }
int standin_queued(void) { return queue_length; }
void standin_shift(uint64_t by) { shift = by; }
void standin_push(void *context) { stack[depth++] = context; }
int standin_depth(void) { return depth; }

/* The next calls of that function fail. */
void standin_fail(const char *name, CUresult error, int times) {
    pthread_mutex_lock(&lock);
    strncpy(failing.name, name, sizeof failing.name - 1);
    failing.error = error;
    failing.times = times;
    pthread_mutex_unlock(&lock);
}

static CUresult failure(const char *name) {
    pthread_mutex_lock(&lock);
    CUresult error = failing.times && strcmp(failing.name, name) == 0 ? (failing.times--, failing.error) : CUDA_SUCCESS;
    pthread_mutex_unlock(&lock);
    return error;
}

#define FAIL(name) \
    do { \
        CUresult error = failure(name); \
        if (error != CUDA_SUCCESS) return error; \
    } while (0)

/* What a capture of another thread forbids. */
static CUresult unsafe(void) {
    if (depth == 0) return CUDA_ERROR_INVALID_CONTEXT;
    if (!other_captures || mode == RELAXED) return CUDA_SUCCESS;
    capture_ended++;
    return CUDA_ERROR_UNSUPPORTED;
}

/* ---- the kernel ---- */

static double from_half(uint16_t h) {
    unsigned sign = h >> 15, exponent = h >> 10 & 31, mantissa = h & 1023;
    double value = exponent == 31 ? (mantissa ? __builtin_nan("") : __builtin_inf())
                   : exponent     ? __builtin_ldexp(1024 + mantissa, (int)exponent - 25)
                                  : __builtin_ldexp(mantissa, -24);
    return sign ? -value : value;
}

static double from_bfloat(uint16_t b) {
    uint32_t bits = (uint32_t)b << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#define READ(type) \
    ({ \
        type v; \
        memcpy(&v, at, sizeof v); \
        (double)v; \
    })

static uint64_t read_bits(const void *at, unsigned type) {
    double value = 0;
    switch (type) {
    case 0: value = READ(double); break;
    case 1: value = READ(float); break;
    case 2: {
        uint16_t h;
        memcpy(&h, at, 2);
        value = from_half(h);
        break;
    }
    case 3: {
        uint16_t h;
        memcpy(&h, at, 2);
        value = from_bfloat(h);
        break;
    }
    case 4: value = READ(int64_t); break;
    case 5: value = READ(int32_t); break;
    case 6: value = READ(int16_t); break;
    case 7: value = READ(int8_t); break;
    case 8: value = READ(uint8_t); break;
    case 9: value = READ(uint8_t) != 0; break;
    }
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The values were read when the launch was made: a stream would read them in its order, and nothing overtakes it there. */
static void run(const values *v) {
    for (uint32_t half = 0; half < 2 * v->count; half++) {
        uint32_t i = half % v->count, first = (v->key >> (i % 64)) & 1;
        uint64_t *out = (uint64_t *)v->out + 2 * (uint64_t)i;
        unsigned at = half < v->count ? first : !first;
        __atomic_store_n(&out[at], at ? v->at[i] ^ v->key : v->at[i], __ATOMIC_RELAXED);
    }
}

static void *device(void *unused) {
    (void)unused;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (holding || !queue_length) pthread_cond_wait(&more, &lock);
        int i = rand_r(&seed) % queue_length;
        values *v = queued[i];
        queued[i] = queued[--queue_length];
        pthread_mutex_unlock(&lock);
        if (rand_r(&seed) % 8 == 0) nanosleep(&(struct timespec){0, 20000}, NULL);
        run(v);
        free(v);
        pthread_mutex_lock(&lock);
    }
    return NULL;
}

/* ---- the driver ---- */

CUresult cuDeviceGet(int *out, int index) {
    FAIL("cuDeviceGet");
    return *out = index, CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(void **out, int index) {
    (void)index;
    FAIL("cuDevicePrimaryCtxRetain");
    return *out = &primary, CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(void **out) {
    FAIL("cuCtxGetCurrent");
    return *out = depth ? stack[depth - 1] : NULL, CUDA_SUCCESS;
}
CUresult cuCtxPushCurrent_v2(void *context) {
    FAIL("cuCtxPushCurrent");
    return stack[depth++] = context, CUDA_SUCCESS;
}
CUresult cuCtxPopCurrent_v2(void **out) { return *out = stack[--depth], CUDA_SUCCESS; }
CUresult cuFuncLoad(void *function) {
    (void)function;
    FAIL("cuFuncLoad");
    return unsafe();
}
CUresult cuThreadExchangeStreamCaptureMode(int *value) {
    FAIL("cuThreadExchangeStreamCaptureMode");
    int before = mode;
    mode = *value;
    *value = before;
    return CUDA_SUCCESS;
}

CUresult cuMemHostRegister_v2(void *memory, size_t bytes, unsigned flags) {
    (void)memory, (void)bytes, (void)flags;
    FAIL("cuMemHostRegister");
    CUresult error = unsafe();
    if (!error) locked_ranges++;
    return error;
}

int standin_locked(void) { return locked_ranges; }

CUresult cuMemHostGetDevicePointer_v2(uint64_t *out, void *memory, unsigned flags) {
    (void)flags;
    FAIL("cuMemHostGetDevicePointer");
    if (depth == 0) return CUDA_ERROR_INVALID_CONTEXT;
    return *out = (uintptr_t)memory + shift, CUDA_SUCCESS;
}

CUresult cuModuleLoadData(void **out, const void *ptx) {
    FAIL("cuModuleLoadData");
    CUresult error = unsafe();
    if (!error && !strstr(ptx, ".entry advlog_put(")) return 218; /* CUDA_ERROR_INVALID_PTX */
    return *out = &primary, error;
}

CUresult cuModuleGetFunction(void **out, void *module, const char *name) {
    (void)name;
    FAIL("cuModuleGetFunction");
    return *out = module, CUDA_SUCCESS;
}

CUresult cuStreamIsCapturing(void *stream, int *status) {
    FAIL("cuStreamIsCapturing");
    if (depth == 0) return CUDA_ERROR_INVALID_CONTEXT;
    return *status = (uintptr_t)stream == capturing_stream, CUDA_SUCCESS;
}

CUresult cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz,
                        unsigned shared, void *stream, void **parameters, void **extra) {
    (void)function, (void)x, (void)y, (void)z, (void)ty, (void)tz, (void)shared, (void)stream, (void)extra;
    FAIL("cuLaunchKernel");
    if (depth == 0 || stack[depth - 1] != &primary) return CUDA_ERROR_INVALID_CONTEXT;
    values *v = malloc(sizeof *v);
    memcpy(v, parameters[0], sizeof *v);
    if (v->count > threads) return free(v), 1;
    static const unsigned bytes[] = {8, 4, 2, 2, 8, 4, 2, 1, 1, 1};
    for (uint32_t i = 0; i < v->count; i++)
        if (v->at[i] % bytes[v->type[i]]) abort(); /* a real device would end the context */
    for (uint32_t i = 0; i < v->count; i++) v->at[i] = read_bits((const void *)(uintptr_t)v->at[i], v->type[i]);
    pthread_mutex_lock(&lock);
    launches++;
    if (never || queue_length == MOST_QUEUED) free(v);
    else queued[queue_length++] = v;
    if (!running) {
        pthread_t thread;
        running = pthread_create(&thread, NULL, device, NULL) == 0 && pthread_detach(thread) == 0;
    }
    pthread_cond_broadcast(&more);
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char **name) {
    *name = error == CUDA_ERROR_INVALID_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT"
            : error == 222                      ? "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"
                                                : NULL;
    return *name ? CUDA_SUCCESS : 1;
}

/* ---- tensors that say they lie on the device ---- */

enum { MOST_TENSORS = 1 << 20 };
static const void *on_device[MOST_TENSORS]; /* a hash table */
static int device_of[MOST_TENSORS];

static int place_of(const void *tensor) {
    int at = (int)(((uintptr_t)tensor >> 4) % MOST_TENSORS);
    while (on_device[at] && on_device[at] != tensor) at = (at + 1) % MOST_TENSORS;
    return at;
}

void standin_place(const void *tensor, int index) {
    int at = place_of(tensor);
    on_device[at] = tensor;
    device_of[at] = index;
}

/* torch's exchange API (csrc/dlpack.h), but for where a tensor lies. */
static struct {
    void *before[5];
    int (*tensor_of)(void *, int32_t *);
    int (*current_stream)(int32_t, int32_t, void **);
} api;
static int (*tensor_of)(void *, int32_t *);

static int tensor_on_device(void *tensor, int32_t *out) {
    int failed = tensor_of(tensor, out), at = place_of(tensor);
    if (failed || !on_device[at]) return failed;
    out[2] = 2; /* behind the address: the kind of device, and its number */
    out[3] = device_of[at];
    return 0;
}

void *standin_exchange(void *of_torch) {
    memcpy(&api, of_torch, sizeof api);
    tensor_of = api.tensor_of;
    api.tensor_of = tensor_on_device;
    return &api;
}
