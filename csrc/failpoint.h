/* Places where a test kills the process: nothing at all unless built with ADVLOG_FAILPOINTS.
 *
 * With it, ADVLOG_FAILPOINT=name:n in the environment, read at the first point passed,
 * makes the n-th passing of the point `name` the process's last. Each file counts its own.
 *
 * Ordering edges:
 *   failpoint:a  state. A thread that sees the environment read sees what was read. */
#pragma once

#ifdef ADVLOG_FAILPOINTS

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "atomics.h"

__attribute__((unused)) static void failpoint(const char *name) {
    static atomic_u32 state; /* 0: not read yet; 1: none is set; 2: one is */
    static const char *wanted;
    static size_t length;
    static atomic_u64 left;
    uint32_t now = load32_acquire(&state); /* pairs with failpoint:a */
    if (!now) {
        wanted = getenv("ADVLOG_FAILPOINT");
        const char *colon = wanted ? strchr(wanted, ':') : NULL;
        length = colon ? (size_t)(colon - wanted) : 0;
        store_relaxed(&left, colon ? strtoull(colon + 1, NULL, 10) : 0); /* relaxed: the release below */
        now = colon ? 2 : 1;
        store32_release(&state, now); /* failpoint:a */
    }
    if (now != 2 || strlen(name) != length || memcmp(name, wanted, length) != 0) return;
    if (add_relaxed(&left, UINT64_MAX) == 1) kill(getpid(), SIGKILL); /* relaxed: a count */
}
#define FAILPOINT(name) failpoint(name)

#else
#define FAILPOINT(name) ((void)0)
#endif
