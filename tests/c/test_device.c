/* One launch, on a stand-in for the driver (../device/libcuda.c): what arrives, and what a refusal leaves behind. */
#include "build_ring.h"
#include "check.h"
#include "device.h"
#include "slab.h"

#include <pthread.h>

void standin_hold(int on);
void standin_never(int on);
void standin_capture(uint64_t stream);
void standin_other_captures(int on);
int standin_capture_ended(void);
void standin_fail(const char *name, int error, int times);
void standin_shift(uint64_t by);
int standin_depth(void);
int standin_locked(void);

#define STREAM ((void *)9)
static const char ptx[] = ".visible .entry advlog_put(";

static void an_opened_device(void) {
    static uint64_t memory[8];
    CHECK_INT(0, device_open(0, ptx));
    CHECK_INT(0, device_open(0, ptx));
    CHECK_INT(0, device_page_lock(0, memory, sizeof memory));
    CHECK_INT(1, standin_locked());
    CHECK_INT(0, device_sees(0, memory));
    standin_shift(64);
    CHECK_INT(DEVICE_OTHER_ADDRESS, device_sees(0, memory));
    standin_shift(0);
    CHECK_INT(DEVICE_NO_DRIVER, device_open(DEVICE_MOST, ptx));
    CHECK_INT(0, standin_depth());
}

/* Whatever fails, the device is as it was, and can be opened later. */
static void a_driver_that_fails(void) {
    static const char *const steps[] = {
        "cuDeviceGet",      "cuDevicePrimaryCtxRetain", "cuCtxGetCurrent", "cuCtxPushCurrent",
        "cuModuleLoadData", "cuModuleGetFunction",      "cuFuncLoad",      "cuThreadExchangeStreamCaptureMode"};
    for (unsigned i = 0; i < sizeof steps / sizeof *steps; i++) {
        standin_fail(steps[i], 700, 1);
        CHECK_INT(700, device_open(1, ptx));
        CHECK_INT(0, standin_depth());
    }
    CHECK_INT(218, device_open(1, "// nothing"));
    CHECK_INT(0, device_open(1, ptx));
    CHECK(strcmp(device_error_name(201), "CUDA_ERROR_INVALID_CONTEXT") == 0);
    CHECK(strlen(device_error_name(12345)) > 0 && strlen(device_error_name(DEVICE_NO_DRIVER)) > 0);
}

static void beside_a_capture(void) {
    static uint64_t memory[8];
    standin_other_captures(1);
    CHECK_INT(0, device_open(2, ptx));
    CHECK_INT(0, device_page_lock(2, memory, sizeof memory));
    CHECK_INT(0, standin_capture_ended());
    standin_other_captures(0);
}

static enum device_answer put(test_ring *t, uint64_t *reference, const void **at, const uint8_t *types, uint32_t count,
                              int *error) {
    device_values values = {.count = count};
    *reference = advlog_slab_reserve(t->ring, count);
    CHECK(*reference != 0);
    for (uint32_t i = 0; i < count; i++) {
        values.at[i] = (uintptr_t)at[i];
        values.type[i] = types[i];
    }
    values.key = advlog_slab_key(t->ring, *reference);
    values.out = (uintptr_t)&t->ring->slab[*reference % ADVLOG_SLAB_ENTRIES];
    return device_put(0, STREAM, &values, error);
}

static void wait_for(test_ring *t, uint64_t reference, double wanted) {
    const advlog_slab_entry *entry = &t->ring->slab[reference % ADVLOG_SLAB_ENTRIES];
    for (;;) {
        uint64_t bits = load_relaxed(&entry->value);
        double value;
        memcpy(&value, &bits, sizeof value);
        if ((bits ^ load_relaxed(&entry->check)) != advlog_slab_key(t->ring, reference)) continue;
        CHECK(value == wanted);
        return;
    }
}

static void every_type(void) {
    test_ring t = test_ring_new(64, 0);
    const double f64 = 0.1;
    const float f32 = 0.5f;
    const uint16_t f16 = 0x3c00, bf16 = 0x4040;
    const int64_t i64 = -7;
    const int32_t i32 = 1 << 30;
    const int16_t i16 = -300;
    const int8_t i8 = -8;
    const uint8_t u8 = 255, boolean = 2;
    const void *at[] = {&f64, &f32, &f16, &bf16, &i64, &i32, &i16, &i8, &u8, &boolean};
    const double wanted[] = {0.1, 0.5, 1.0, 3.0, -7, 1 << 30, -300, -8, 255, 1};
    const uint8_t types[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    uint64_t reference;
    int error;
    CHECK_INT(DEVICE_DONE, put(&t, &reference, at, types, DEVICE_TYPES, &error));
    for (unsigned i = 0; i < DEVICE_TYPES; i++) wait_for(&t, reference + i, wanted[i]);

    standin_capture((uintptr_t)STREAM);
    CHECK_INT(DEVICE_CAPTURING, put(&t, &reference, at, types, 1, &error));
    slab_release(t.ring, reference, 1);
    standin_capture(UINT64_MAX);
    standin_fail("cuStreamIsCapturing", 906, 1); /* the default stream, beside a capture */
    CHECK_INT(DEVICE_CAPTURING, put(&t, &reference, at, types, 1, &error));
    slab_release(t.ring, reference, 1);
    standin_fail("cuLaunchKernel", 719, 1);
    CHECK_INT(DEVICE_REFUSED, put(&t, &reference, at, types, 1, &error));
    CHECK_INT(719, error);
    slab_release(t.ring, reference, 1);
    CHECK_INT(DEVICE_TYPES, advlog_slab_used(t.ring));
    CHECK_INT(0, standin_depth());
    test_ring_free(&t);
}

enum { THREADS = 4, LAUNCHES = 2000 };
static test_ring shared;
static pthread_mutex_t gil = PTHREAD_MUTEX_INITIALIZER;

/* As under the GIL: reserved with it, launched without. */
static void *launch_many(void *of) {
    double value = *(const int *)of;
    for (int n = 0; n < LAUNCHES; n++, value++) {
        device_values values = {.count = 1, .at = {(uintptr_t)&value}};
        pthread_mutex_lock(&gil);
        uint64_t reference = advlog_slab_reserve(shared.ring, 1);
        pthread_mutex_unlock(&gil);
        CHECK(reference != 0);
        values.key = advlog_slab_key(shared.ring, reference);
        values.out = (uintptr_t)&shared.ring->slab[reference % ADVLOG_SLAB_ENTRIES];
        int error;
        CHECK_INT(DEVICE_DONE, device_put(0, STREAM, &values, &error));
        wait_for(&shared, reference, value);
        pthread_mutex_lock(&gil);
        slab_release(shared.ring, reference, 1);
        pthread_mutex_unlock(&gil);
    }
    return NULL;
}

static void threads_beside_each_other(void) {
    shared = test_ring_new(64, 0);
    pthread_t threads[THREADS];
    int of[THREADS];
    for (int i = 0; i < THREADS; i++) {
        of[i] = i * LAUNCHES;
        CHECK_INT(0, pthread_create(&threads[i], NULL, launch_many, &of[i]));
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    CHECK_INT(0, advlog_slab_used(shared.ring));
    test_ring_free(&shared);
}

int main(void) {
    an_opened_device();
    a_driver_that_fails();
    beside_a_capture();
    every_type();
    threads_beside_each_other();
    return 0;
}
