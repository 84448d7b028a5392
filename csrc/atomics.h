/* Every atomic operation of the project, named by its ordering.
 *
 * No other file uses <stdatomic.h>. An acquire load sees everything written
 * before the release store whose value it reads; a relaxed operation orders
 * nothing, and each use of one says why that is enough. */
#pragma once

#include <stdatomic.h>

#include "compiler.h"

typedef _Atomic(uint32_t) atomic_u32;
typedef _Atomic(uint64_t) atomic_u64;

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "64-bit atomics must be lock-free: the ring is shared memory");

static inline uint64_t load_relaxed(const atomic_u64 *p) { return atomic_load_explicit((atomic_u64 *)p, memory_order_relaxed); }
static inline uint64_t load_acquire(const atomic_u64 *p) { return atomic_load_explicit((atomic_u64 *)p, memory_order_acquire); }
static inline void store_relaxed(atomic_u64 *p, uint64_t v) { atomic_store_explicit(p, v, memory_order_relaxed); }
static inline void store_release(atomic_u64 *p, uint64_t v) { atomic_store_explicit(p, v, memory_order_release); }

/* On failure *expected becomes the value found. */
static inline bool cas_relaxed(atomic_u64 *p, uint64_t *expected, uint64_t desired) {
    return atomic_compare_exchange_weak_explicit(p, expected, desired, memory_order_relaxed, memory_order_relaxed);
}
static inline uint64_t add_relaxed(atomic_u64 *p, uint64_t n) { return atomic_fetch_add_explicit(p, n, memory_order_relaxed); }

static inline uint32_t load32_relaxed(const atomic_u32 *p) { return atomic_load_explicit((atomic_u32 *)p, memory_order_relaxed); }
static inline uint32_t load32_acquire(const atomic_u32 *p) { return atomic_load_explicit((atomic_u32 *)p, memory_order_acquire); }
static inline void store32_relaxed(atomic_u32 *p, uint32_t v) { atomic_store_explicit(p, v, memory_order_relaxed); }
static inline void store32_release(atomic_u32 *p, uint32_t v) { atomic_store_explicit(p, v, memory_order_release); }
static inline uint32_t exchange32_acquire(atomic_u32 *p, uint32_t v) {
    return atomic_exchange_explicit(p, v, memory_order_acquire);
}
static inline uint32_t or32_relaxed(atomic_u32 *p, uint32_t bits) {
    return atomic_fetch_or_explicit(p, bits, memory_order_relaxed);
}
static inline uint32_t and32_relaxed(atomic_u32 *p, uint32_t bits) {
    return atomic_fetch_and_explicit(p, bits, memory_order_relaxed);
}
static inline uint32_t add32_release(atomic_u32 *p, uint32_t n) { return atomic_fetch_add_explicit(p, n, memory_order_release); }
static inline uint32_t add32_relaxed(atomic_u32 *p, uint32_t n) { return atomic_fetch_add_explicit(p, n, memory_order_relaxed); }

/* Everything before it comes before everything after it, to a thread that passes such a
 * fence too. For what acquire and release do not order: a store before a load of
 * something else, and two stores of which a SIGKILL may not leave the later alone. */
static inline void fence_full(void) { atomic_thread_fence(memory_order_seq_cst); }
