/* The driver's functions are found by name in the library that torch has loaded: no header, no library of CUDA is needed. */
#include "device.h"

#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

/* Of cuda.h, in its own words: it may be had nowhere. */
typedef int CUresult;
typedef int CUdevice;
typedef void *CUcontext, *CUmodule, *CUfunction, *CUstream;
typedef unsigned long long CUdeviceptr;

enum {
    CU_MEMHOSTREGISTER_PORTABLE = 1,
    CU_MEMHOSTREGISTER_DEVICEMAP = 2,
    CU_STREAM_CAPTURE_MODE_RELAXED = 2,
    CU_STREAM_CAPTURE_STATUS_NONE = 0,
    CUDA_ERROR_STREAM_CAPTURE_IMPLICIT = 906
};

static struct {
    CUresult (*cuDeviceGet)(CUdevice *, int);
    CUresult (*cuDevicePrimaryCtxRetain)(CUcontext *, CUdevice);
    CUresult (*cuCtxGetCurrent)(CUcontext *);
    CUresult (*cuCtxPushCurrent)(CUcontext);
    CUresult (*cuCtxPopCurrent)(CUcontext *);
    CUresult (*cuMemHostRegister)(void *, size_t, unsigned);
    CUresult (*cuMemHostGetDevicePointer)(CUdeviceptr *, void *, unsigned);
    CUresult (*cuModuleLoadData)(CUmodule *, const void *);
    CUresult (*cuModuleGetFunction)(CUfunction *, CUmodule, const char *);
    CUresult (*cuFuncLoad)(CUfunction); /* of CUDA 12.4: NULL before it */
    CUresult (*cuStreamIsCapturing)(CUstream, int *);
    CUresult (*cuThreadExchangeStreamCaptureMode)(int *);
    CUresult (*cuLaunchKernel)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream,
                               void **, void **);
    CUresult (*cuGetErrorName)(CUresult, const char **);
} driver;

/* Filled in once, under `opening`; a thread that launches has seen device_open succeed. */
static struct {
    CUcontext context;
    CUfunction put;
    atomic_u32 launched; /* the first launch may still load what is lazily loaded */
} devices[DEVICE_MOST];

static atomic_u32 opener; /* the process that opened devices: in a forked child of it the driver is of no use */
static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;

static bool find(void *library, void *function, const char *name) {
    void *found = dlsym(library, name);
    memcpy(function, &found, sizeof found);
    return found != NULL;
}

/* Under `opening`. */
static bool find_driver(void) {
    if (driver.cuGetErrorName) return true;
    void *lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    if (!lib) return false;
    find(lib, &driver.cuFuncLoad, "cuFuncLoad");
    bool all = find(lib, &driver.cuDeviceGet, "cuDeviceGet") &&
               find(lib, &driver.cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain") &&
               find(lib, &driver.cuCtxGetCurrent, "cuCtxGetCurrent") &&
               find(lib, &driver.cuCtxPushCurrent, "cuCtxPushCurrent_v2") &&
               find(lib, &driver.cuCtxPopCurrent, "cuCtxPopCurrent_v2") &&
               find(lib, &driver.cuMemHostRegister, "cuMemHostRegister_v2") &&
               find(lib, &driver.cuMemHostGetDevicePointer, "cuMemHostGetDevicePointer_v2") &&
               find(lib, &driver.cuModuleLoadData, "cuModuleLoadData") &&
               find(lib, &driver.cuModuleGetFunction, "cuModuleGetFunction") &&
               find(lib, &driver.cuStreamIsCapturing, "cuStreamIsCapturing") &&
               find(lib, &driver.cuThreadExchangeStreamCaptureMode, "cuThreadExchangeStreamCaptureMode") &&
               find(lib, &driver.cuLaunchKernel, "cuLaunchKernel");
    return all && find(lib, &driver.cuGetErrorName, "cuGetErrorName"); /* last: it says that all are there */
}

/* ---- calls in a device's context ---- */

typedef struct {
    bool pushed;
    int capture_mode; /* of this thread, before */
} visit;

/* Makes the context current. With `relaxed`, what is called is no offence to a capture of another thread. */
static CUresult enter(visit *v, CUcontext context, bool relaxed) {
    CUcontext current = NULL;
    CUresult error = driver.cuCtxGetCurrent(&current);
    *v = (visit){.pushed = false, .capture_mode = -1};
    if (!error && current != context && !(error = driver.cuCtxPushCurrent(context))) v->pushed = true;
    if (error || !relaxed) return error;
    int mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    error = driver.cuThreadExchangeStreamCaptureMode(&mode);
    if (!error) v->capture_mode = mode;
    return error;
}

static void leave(visit *v) {
    CUcontext context;
    if (v->capture_mode >= 0) (void)driver.cuThreadExchangeStreamCaptureMode(&v->capture_mode);
    if (v->pushed) (void)driver.cuCtxPopCurrent(&context);
}

static CUresult load(CUfunction *put, const char *ptx) {
    CUmodule module;
    CUresult error = driver.cuModuleLoadData(&module, ptx);
    if (!error) error = driver.cuModuleGetFunction(put, module, "advlog_put");
    /* Else it is loaded by the first launch, perhaps while a capture goes on. */
    if (!error && driver.cuFuncLoad) error = driver.cuFuncLoad(*put);
    return error;
}

/* Under `opening`. */
static int open_device(unsigned index, const char *ptx) {
    if (index >= DEVICE_MOST || !find_driver()) return DEVICE_NO_DRIVER;
    if (devices[index].put) return 0;
    CUdevice device;
    CUcontext context;
    CUfunction put;
    CUresult error = driver.cuDeviceGet(&device, (int)index);
    if (!error) error = driver.cuDevicePrimaryCtxRetain(&context, device); /* torch's: it is there */
    if (error) return error;
    visit v;
    error = enter(&v, context, true);
    if (!error) error = load(&put, ptx);
    leave(&v);
    if (error) return error;
    devices[index].context = context;
    devices[index].put = put;
    return 0;
}

int device_open(unsigned index, const char *ptx) {
    uint32_t me = (uint32_t)getpid(), first = load32_relaxed(&opener); /* relaxed: it says nothing of other memory */
    if (first && first != me) return DEVICE_NO_DRIVER; /* another thread may have held the lock at the fork */
    store32_relaxed(&opener, me);                      /* relaxed: see above */
    pthread_mutex_lock(&opening);
    int error = open_device(index, ptx);
    pthread_mutex_unlock(&opening);
    return error;
}

int device_page_lock(unsigned index, void *memory, size_t bytes) {
    visit v;
    CUresult error = enter(&v, devices[index].context, true);
    if (!error) error = driver.cuMemHostRegister(memory, bytes, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
    leave(&v);
    return error;
}

int device_sees(unsigned index, void *memory) {
    visit v;
    CUdeviceptr address = 0;
    CUresult error = enter(&v, devices[index].context, true);
    if (!error) error = driver.cuMemHostGetDevicePointer(&address, memory, 0);
    leave(&v);
    if (!error && address != (uintptr_t)memory) return DEVICE_OTHER_ADDRESS;
    return error;
}

static CUresult launch(unsigned index, void *stream, device_values *values) {
    void *parameters[] = {values};
    unsigned threads = (values->count + 31) & ~31u; /* whole warps */
    return driver.cuLaunchKernel(devices[index].put, 1, 1, 1, threads, 1, 1, 0, stream, parameters, NULL);
}

enum device_answer device_put(unsigned index, void *stream, device_values *values, int *error) {
    /* The first launch may load what a driver without cuFuncLoad loads late. */
    bool first = !load32_relaxed(&devices[index].launched); /* relaxed: to find it unset once more is no harm */
    int capturing = CU_STREAM_CAPTURE_STATUS_NONE;
    visit v;
    *error = enter(&v, devices[index].context, first);
    if (!*error) *error = driver.cuStreamIsCapturing(stream, &capturing);
    /* The default stream beside a capture that would have to wait for it. */
    if (*error == CUDA_ERROR_STREAM_CAPTURE_IMPLICIT) capturing = !CU_STREAM_CAPTURE_STATUS_NONE, *error = 0;
    if (!*error && capturing == CU_STREAM_CAPTURE_STATUS_NONE) *error = launch(index, stream, values);
    leave(&v);
    if (*error) return DEVICE_REFUSED;
    if (capturing != CU_STREAM_CAPTURE_STATUS_NONE) return DEVICE_CAPTURING;
    if (first) store32_relaxed(&devices[index].launched, 1); /* relaxed: see above */
    return DEVICE_DONE;
}

const char *device_error_name(int error) {
    const char *name = NULL;
    if (error == DEVICE_NO_DRIVER) return "no driver of CUDA is loaded that knows these calls";
    if (error == DEVICE_OTHER_ADDRESS) return "the device sees the host's memory at another address";
    if (driver.cuGetErrorName(error, &name) || !name) return "an unknown error";
    return name;
}
