/* What is asked of the descriptors of files that Python has opened: that a forked child gives them back as it begins,
 * which file system they lie on, that they share no blocks, and their mappings; and what a signal does.
 *
 * A lock on an open file description lives as long as any process has that description, and a fork shares it: without
 * this, a parent's lock would outlive a SIGKILL for as long as one of its children lives. Python's own hooks do not see
 * a fork made in C; pthread_atfork does, for every fork() of the C library.
 *
 * Ordering edges:
 *   advlog_close_on_fork:a  an entry's fd. The handler, and the thread that ends the entry, see the file that goes with it.
 *   advlog_keep_on_fork:a   an entry's taken. The next to take the entry comes after the one that had it.
 *   fork_begins:a and advlog_fork_moment:a
 *   fork_ended:a and advlog_fork_moment:b
 *                           are full fences that pair with each other: a descriptor is opened and registered between two
 *                           moments, and a fork copies the descriptors between its begin and its end. If the two met, the
 *                           moments differ or one of them is 0. */
#include "atomics.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/falloc.h>
#include <sys/vfs.h>
#endif

#define MAX_CLOSED 1024

/* Written before `fd` is released to the handler, which runs in a child: with one thread, and a copy of this memory. */
typedef struct {
    atomic_u32 taken;
    atomic_u32 fd; /* plus one; 0: the entry holds none */
    uint64_t dev;
    uint64_t ino;
} closed_descriptor;

static closed_descriptor closing[MAX_CLOSED];
static bool watched;

/* Async-signal-safe throughout: the child has one thread, and no lock can be counted on. */
static void close_all(void) {
    for (unsigned i = 0; i < MAX_CLOSED; i++) {
        uint32_t fd = load32_acquire(&closing[i].fd); /* pairs with advlog_close_on_fork:a */
        store32_relaxed(&closing[i].fd, 0);           /* relaxed: there is one thread */
        store32_relaxed(&closing[i].taken, 0);
        struct stat found;
        /* A program may have closed a number that is not its own, and it is another file's by now. */
        if (fd && fstat((int)fd - 1, &found) == 0 && (uint64_t)found.st_dev == closing[i].dev &&
            (uint64_t)found.st_ino == closing[i].ino)
            close((int)fd - 1);
    }
}

static atomic_u64 forks_begun, forks_ended;

static void fork_begins(void) {
    add_relaxed(&forks_begun, 1); /* relaxed: the fence below */
    fence_full();                 /* fork_begins:a, pairs with advlog_fork_moment:a */
}

static void fork_ended(void) {
    fence_full();                 /* fork_ended:a, pairs with advlog_fork_moment:b */
    add_relaxed(&forks_ended, 1); /* relaxed: after the fence */
}

static void fork_ended_in_child(void) {
    fork_ended();
    close_all();
}

static void watch_forks(void) { watched = pthread_atfork(fork_begins, fork_ended, fork_ended_in_child) == 0; }

static bool watches_forks(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    return pthread_once(&once, watch_forks) == 0 && watched;
}

uint64_t advlog_fork_moment(void) {
    if (!watches_forks()) return 0;
    fence_full(); /* advlog_fork_moment:a, pairs with fork_begins:a */
    /* Relaxed: between two fences. The end first: of a fork that begins between the two loads only the begin is seen. */
    uint64_t ended = load_relaxed(&forks_ended), begun = load_relaxed(&forks_begun);
    fence_full(); /* advlog_fork_moment:b, pairs with fork_ended:a */
    return begun == ended ? begun + 1 : 0;
}

int advlog_close_on_fork(int fd) {
    struct stat found;
    if (fd < 0 || !watches_forks() || fstat(fd, &found) != 0) return -1;
    for (unsigned i = 0; i < MAX_CLOSED; i++) {
        if (exchange32_acquire(&closing[i].taken, 1)) continue; /* pairs with advlog_keep_on_fork:a */
        closing[i].dev = (uint64_t)found.st_dev;
        closing[i].ino = (uint64_t)found.st_ino;
        store32_release(&closing[i].fd, (uint32_t)fd + 1); /* advlog_close_on_fork:a */
        return 0;
    }
    return -1;
}

void advlog_keep_on_fork(int fd) {
    for (unsigned i = 0; i < MAX_CLOSED; i++) {
        if (load32_acquire(&closing[i].fd) != (uint32_t)fd + 1) continue; /* pairs with advlog_close_on_fork:a */
        store32_relaxed(&closing[i].fd, 0);     /* relaxed: the release below */
        store32_release(&closing[i].taken, 0); /* advlog_keep_on_fork:a */
        return;
    }
}

int advlog_unshare(int fd, uint64_t bytes) {
#ifdef FALLOC_FL_UNSHARE_RANGE
    return fallocate(fd, FALLOC_FL_UNSHARE_RANGE, 0, (off_t)bytes) == 0 ? 0 : errno;
#else
    (void)fd, (void)bytes;
    return ENOSYS;
#endif
}

void *advlog_map(int fd, uint64_t bytes) {
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

void advlog_unmap(void *memory, uint64_t bytes) { munmap(memory, bytes); }

int advlog_forget(void *memory, uint64_t bytes) {
#ifdef MADV_REMOVE
    return madvise(memory, bytes, MADV_REMOVE) == 0 ? 0 : errno;
#else
    (void)memory, (void)bytes;
    return ENOSYS;
#endif
}

int advlog_signal_does(int number) {
    struct sigaction action;
    if (sigaction(number, NULL, &action) != 0) return -1;
    if (action.sa_flags & SA_SIGINFO) return 2;
    return action.sa_handler == SIG_DFL ? 0 : action.sa_handler == SIG_IGN ? 1 : 2;
}

int64_t advlog_file_system(int fd) {
#ifdef __linux__
    struct statfs found;
    if (fstatfs(fd, &found) == 0) return (int64_t)(uint32_t)found.f_type;
#else
    (void)fd;
#endif
    return -1;
}
