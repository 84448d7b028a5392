/* A library to be preloaded that makes a disk fail: the n-th call of some kinds on paths that hold some text, or
 * every call from the n-th on, fails with an errno, writes only half, or hangs.
 *
 * ADVLOG_SHIM names a file of 4,096 bytes, mapped and shared with the test, which orders and ends the fault. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum op { WRITE = 1, PWRITE = 2, SYNC = 4, RENAME = 8, OPEN = 16, ALLOCATE = 32, TRUNCATE = 64 };
enum { SHORT = 10000, TEAR = 10001 }; /* as an error: half of what was asked is written; of the first, then EIO */

typedef struct {
    _Atomic uint64_t armed;
    uint64_t ops;
    uint64_t n;      /* from 1; 0: only count */
    uint64_t sticky; /* every call from the n-th on */
    uint64_t error;
    uint64_t hang; /* instead: until `armed` is 0 */
    _Atomic uint64_t count;
    _Atomic uint64_t injected;
    char text[1024];
} control_block;

static control_block *control;

static void __attribute__((constructor)) begin(void) {
    const char *path = getenv("ADVLOG_SHIM");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (memory != MAP_FAILED) control = memory;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* 0, or the error that the call is to fail with. */
static int fault(enum op op, const char *path) {
    if (!path || !strstr(path, control->text)) return 0;
    uint64_t count = atomic_fetch_add(&control->count, 1) + 1;
    if (!control->n || (control->sticky ? count < control->n : count != control->n)) return 0;
    uint64_t before = atomic_fetch_add(&control->injected, 1);
    while (control->hang && atomic_load(&control->armed)) nanosleep(&(struct timespec){0, 5000000}, NULL);
    if (control->hang) return 0;
    if (control->error != TEAR) return (int)control->error;
    return before || !(op & (WRITE | PWRITE)) ? EIO : SHORT;
}

static bool wanted(enum op op) { return control && atomic_load(&control->armed) && (control->ops & op); }

static int path_fault(enum op op, const char *path) {
    int saved = errno, error = wanted(op) ? fault(op, path) : 0;
    errno = error ? error : saved;
    return error;
}

static int fd_fault(enum op op, int fd) {
    if (!wanted(op)) return 0;
    int saved = errno;
    char name[64], path[PATH_MAX];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(name, path, sizeof path - 1);
    path[size > 0 ? size : 0] = 0;
    int error = fault(op, path);
    errno = error ? error : saved;
    return error;
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    int error = fd_fault(WRITE, fd);
    if (error == SHORT) return real(fd, data, size > 1 ? size / 2 : size);
    return error ? -1 : real(fd, data, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    int error = fd_fault(PWRITE, fd);
    if (error == SHORT) return real(fd, data, size > 1 ? size / 2 : size, at);
    return error ? -1 : real(fd, data, size, at);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }

int fsync(int fd) {
    REAL(fsync);
    return fd_fault(SYNC, fd) ? -1 : real(fd);
}
int fdatasync(int fd) {
    REAL(fdatasync);
    return fd_fault(SYNC, fd) ? -1 : real(fd);
}

int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    return fd_fault(TRUNCATE, fd) ? -1 : real(fd, size);
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int posix_fallocate64(int fd, off64_t at, off64_t size) {
    REAL(posix_fallocate64);
    int error = fd_fault(ALLOCATE, fd);
    return error ? error : real(fd, at, size);
}
int posix_fallocate(int fd, off_t at, off_t size) { return posix_fallocate64(fd, at, size); }

int rename(const char *from, const char *to) {
    REAL(rename);
    return path_fault(RENAME, to) ? -1 : real(from, to);
}
int renameat(int from_fd, const char *from, int to_fd, const char *to) {
    REAL(renameat);
    return path_fault(RENAME, to) ? -1 : real(from_fd, from, to_fd, to);
}

/* Only what is opened to be written: a disk that is full or read-only can be read. */
static bool open_fault(const char *path, int flags) { return (flags & (O_WRONLY | O_RDWR | O_CREAT)) && path_fault(OPEN, path); }

#define MODE(mode) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }

int open64(const char *path, int flags, ...) {
    REAL(open64);
    MODE(mode)
    return open_fault(path, flags) ? -1 : real(path, flags, mode);
}
int open(const char *path, int flags, ...) {
    MODE(mode)
    return open64(path, flags, mode);
}
int openat64(int fd, const char *path, int flags, ...) {
    REAL(openat64);
    MODE(mode)
    return open_fault(path, flags) ? -1 : real(fd, path, flags, mode);
}
int openat(int fd, const char *path, int flags, ...) {
    MODE(mode)
    return openat64(fd, path, flags, mode);
}
