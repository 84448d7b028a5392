/* An NVIDIA GPU, asked through its driver: one launch copies values from where they lie on it into the slab.
 *
 * The driver is the one that torch has loaded. Nothing is loaded for it, and nothing is asked of it before a value on a GPU
 * was logged. All of it runs in the device's primary context, the one that torch uses; it is made current for a call where
 * it is not, as in a thread that has not used CUDA.
 *
 * A stream that is being captured is left alone. Only a capture that another thread begins on that very stream, in the moment
 * between the look and the launch, is not seen.
 *
 * What a capture of a CUDA graph in any other thread forbids (the loading of code, page-locking) runs here with this thread's
 * capture mode relaxed, since no call tells whether another thread captures. */
#pragma once

#include "ring.h"

#define DEVICE_MOST 64          /* devices */
#define DEVICE_MOST_VALUES 128  /* of a launch: its parameters take 4 KiB at most */

/* How a value lies in memory: what csrc/put.cu knows. */
enum device_type {
    DEVICE_FLOAT64,
    DEVICE_FLOAT32,
    DEVICE_FLOAT16,
    DEVICE_BFLOAT16,
    DEVICE_INT64,
    DEVICE_INT32,
    DEVICE_INT16,
    DEVICE_INT8,
    DEVICE_UINT8,
    DEVICE_BOOL, /* any byte but 0 is true */
    DEVICE_TYPES
};

/* A launch: value i, of type[i], is at address at[i] of the device, and goes to the entry `out` + i. Laid out as put.cu has it. */
typedef struct {
    uint64_t at[DEVICE_MOST_VALUES];
    uint64_t key;
    uint64_t out;
    uint8_t type[DEVICE_MOST_VALUES];
    uint32_t count;
} device_values;

_Static_assert(sizeof(device_values) == 1176 && offsetof(device_values, count) == 1168, "the parameters of put.cu");

/* Of what returns 0 or a CUresult, which is above it: */
#define DEVICE_NO_DRIVER (-1)
#define DEVICE_OTHER_ADDRESS (-2)

enum device_answer {
    DEVICE_DONE,
    DEVICE_CAPTURING, /* what is enqueued in that stream would run at each replay of a graph */
    DEVICE_REFUSED
};

/* Makes a device ready: compiles `ptx` for it, once in a process. 0, or a CUresult; DEVICE_NO_DRIVER where torch has loaded no
 * driver, or one too old. Any thread; those that come together take turns. */
int device_open(unsigned index, const char *ptx);
/* Page-locks host memory, for all devices; it may be written to by this one, an open one, too. 0, or a CUresult. */
int device_page_lock(unsigned index, void *memory, size_t bytes);
/* Whether an open device sees page-locked memory at the address that the host has it at. 0, or a CUresult;
 * DEVICE_OTHER_ADDRESS. */
int device_sees(unsigned index, void *memory);
/* Enqueues a launch in a stream of an open device; it waits where the device's queue is full. Of a refusal *error is the
 * CUresult, and nothing was enqueued. */
enum device_answer device_put(unsigned index, void *stream, device_values *values, int *error);
/* The driver's name of a CUresult, such as "CUDA_ERROR_INVALID_CONTEXT". */
const char *device_error_name(int error);
