/* The drain: the one consumer of a ring. It follows the producers, counts every
 * record once, brings each sink forward, and frees the slots that all have passed. */
#include "drain.h"

#include <stdlib.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define SLEEP_MIN_NS INT64_C(1000000)
#define SLEEP_MAX_NS INT64_C(20000000)

static void sleep_ns(long ns) { nanosleep(&(struct timespec){0, ns}, NULL); }

void drain_lock(advlog_drain *d) {
    /* In a forked child the holder may be gone, and no other thread wants the numbers. */
    while (!ring_is_child(d->ring) && exchange32_acquire(&d->lock, 1)) /* pairs with drain_unlock:a */
        sleep_ns(20000);
}
void drain_unlock(advlog_drain *d) { store32_release(&d->lock, 0); /* drain_unlock:a */ }

/* ---- making ---- */

advlog_drain *advlog_drain_new(advlog_ring *ring) {
    advlog_drain *d = calloc(1, sizeof *d);
    if (!d) return NULL;
    d->ring = ring;
    d->frontier = load_acquire(&ring->header->read_pos); /* pairs with drain_once:a, of a drain before this one */
    d->line.second = INT64_MIN;
    d->sleep_ns = SLEEP_MIN_NS;
    d->deferred_timeout_ns = INT64_MAX;
    store_relaxed(&d->give_up_at_ns, UINT64_MAX); /* relaxed: no other thread has d yet */
    d->labels = labels_new();
    store_relaxed(&d->counted, d->frontier); /* relaxed: no other thread has d yet */
    if (!d->labels || !totals_init(&d->totals, d->frontier)) {
        advlog_drain_free(d);
        return NULL;
    }
    return d;
}

void advlog_drain_free(advlog_drain *d) {
    if (!d) return;
    for (int i = 0; i < d->count; i++) free(d->sink[i].buffer);
    children_free(d);
    totals_free(&d->totals);
    if (d->labels) labels_free(d->labels);
    free(d);
}

int advlog_drain_add_sink(advlog_drain *d, const advlog_sink_options *options) {
    const sink_kind *kind = sink_kind_of(options->kind);
    if (!kind || d->count == ADVLOG_MAX_SINKS) return -1;
    drain_sink *s = &d->sink[d->count];
    s->kind = kind;
    s->options = *options;
    if (!s->options.every) s->options.every = 1;
    if (!s->options.digits) s->options.digits = ADVLOG_ALL_DIGITS;
    s->fd = s->next_fd = s->info.closed_fd = -1;
    s->cursor.position = d->frontier;
    s->cursor.next_seq = 1;
    s->next = s->cursor;
    s->info.needs_file = 1;
    s->info.cursor = s->cursor;
    store_relaxed(&s->done, d->frontier); /* relaxed: no other thread knows the sink yet */
    d->ring->header->cursor[d->count].kind = options->kind;
    d->ring->header->cursor[d->count].stream = options->stream;
    d->published[d->count] = s->info;
    d->count++;
    return d->count - 1;
}

/* ---- files and faults, from the caller of advlog_drain_run ---- */

static void publish(advlog_drain *d, int index) {
    drain_sink *s = &d->sink[index];
    s->info.cursor = s->cursor;
    s->info.torn = s->torn || s->sent > 0;
    drain_lock(d);
    d->published[index] = s->info;
    drain_unlock(d);
    /* Last: a thread that waited for it then reads numbers that include it. */
    store_release(&s->done, s->cursor.position); /* publish:a */
}

void advlog_sink_give_file(advlog_drain *d, int index, int fd, uint64_t dev, uint64_t ino, uint64_t file_number) {
    drain_sink *s = &d->sink[index];
    s->next_fd = fd;
    s->next_dev = dev;
    s->next_ino = ino;
    s->next_file_number = file_number;
    s->info.needs_file = 0;
    publish(d, index);
}

void advlog_sink_file_fault(advlog_drain *d, int index, int error) {
    sink_fault(d, &d->sink[index], error);
    publish(d, index);
}

void advlog_sink_closed_done(advlog_drain *d, int index) {
    d->sink[index].info.closed_fd = -1;
    publish(d, index);
}

void advlog_sink_rotate(advlog_drain *d, int index, bool even_empty) {
    or32_relaxed(&d->sink[index].rotate, even_empty ? ROTATE_EVEN_EMPTY : ROTATE); /* relaxed: a request */
    ring_wake(d->ring);
}

void advlog_sink_get(advlog_drain *d, int index, advlog_sink_info *out) {
    drain_lock(d);
    *out = d->published[index];
    drain_unlock(d);
}

/* ---- the loop ---- */

/* Whether a value that was asked for then is waited for no longer. */
static bool is_overdue(const advlog_drain *d, uint64_t position, int64_t since_ns) {
    const advlog_ring *ring = d->ring;
    int64_t now = advlog_monotonic_ns();
    /* Better a value lost than a record: those behind it need the room. */
    bool crowded = advlog_ring_write_pos(ring) - position > ring->count - ring->count / 8;
    /* Relaxed: a moment, nothing comes with it. */
    return crowded || now - since_ns >= d->deferred_timeout_ns || (uint64_t)now >= load_relaxed(&d->give_up_at_ns);
}

/* Puts the values that an accelerator owes into the record. False: it waits for one. */
static ADVLOG_COLD bool settle(advlog_drain *d, uint64_t position) {
    int64_t since_ns;
    if (slab_settle(d->ring, position, 0, &d->given_up, &since_ns)) return true;
    if (!is_overdue(d, position, since_ns)) return false;
    return slab_settle(d->ring, position, ADVLOG_UNRESOLVED_TIMEOUT, &d->given_up, &since_ns);
}

/* In a pass without records: looks whether the wall clock has jumped. False: there were none. */
static bool note_jump(advlog_drain *d) {
    drain_lock(d);
    totals_look_at_clock(&d->totals);
    if (totals_end_pass(&d->totals)) d->reasons |= ADVLOG_DRAIN_FINDING;
    drain_unlock(d);
    return false;
}

/* Counts the records published since the last pass. True if there were any. */
static bool count_new(advlog_drain *d) {
    advlog_ring *ring = d->ring;
    uint64_t start = d->frontier, end = start;
    d->waits_for_value = false;
    while (end - start < PASS_SLOTS) {
        const advlog_view view = {ring->slots, ring->mask, end};
        const advlog_slot *h = view_slot(&view, 0);
        if (load_acquire(&h->mark) != end + 1) break; /* pairs with ring_publish:a */
        if (ADVLOG_UNLIKELY(record_defers(&view)) && !settle(d, end)) {
            d->waits_for_value = true;
            break;
        }
        end += h->part;
    }
    if (end == start) return note_jump(d);
    /* After the marks, so every id used is counted. Labels that memory was short for are tried again. */
    if (names_count(ring) != d->labels->count) labels_update(d->labels, ring);
    drain_lock(d);
    totals_look_at_clock(&d->totals);
    totals_names(&d->totals, ring);
    for (uint64_t p = start; p != end;) {
        advlog_view view = {ring->slots, ring->mask, p};
        if (totals_add(&d->totals, &view)) d->reasons |= ADVLOG_DRAIN_FINDING;
        p += view_slot(&view, 0)->part;
    }
    if (totals_end_pass(&d->totals)) d->reasons |= ADVLOG_DRAIN_FINDING;
    d->totals.sum.position = end;
    drain_unlock(d);
    d->frontier = end;
    store_release(&d->counted, end); /* count_new:a */
    return true;
}

void advlog_sink_resume(advlog_drain *d, int index, int fd, uint64_t records, int64_t first_seq) {
    drain_sink *s = &d->sink[index];
    /* To the end at once: cursors differ, and none may lie past the frontier. */
    while (count_new(d)) continue;
    s->copies = (uint32_t)load_acquire(&d->ring->header->cursor[index].selected); /* pairs with commit:a */
    advlog_ring_cursor(d->ring, index, &s->cursor);
    s->fd = fd;
    if (fd < 0) records = s->cursor.length = 0;
    s->next = s->cursor;
    s->next_file_records = s->info.file_records = records;
    s->info.file_first_seq = first_seq;
    s->begun = s->cursor.length > 0;
    s->gap = records && first_seq + (int64_t)records != s->cursor.next_seq; /* dropped after the file's last record */
    s->info.needs_file = fd < 0;
    store_relaxed(&s->done, s->cursor.position); /* relaxed: before the first run no thread waits */
    publish(d, index);
}

/* One pass over all sinks. True if anything moved. */
static bool drain_once(advlog_drain *d) {
    bool progress = children_advance(d);
    slab_sweep(d->ring, &d->given_up);
    progress |= count_new(d);
    if (progress) FAILPOINT("drain_counted");
    uint64_t oldest = d->frontier;
    for (int i = 0; i < d->count; i++) {
        drain_sink *s = &d->sink[i];
        progress |= sink_advance(d, i, d->frontier);
        publish(d, i);
        if (d->frontier - s->cursor.position > d->frontier - oldest) oldest = s->cursor.position;
    }
    if (progress) FAILPOINT("drain_before_release");
    store_release(&d->ring->header->read_pos, oldest); /* drain_once:a */
    if (progress) FAILPOINT("drain_released");
    return progress;
}

static bool finished(const advlog_drain *d) {
    if (!advlog_ring_closed(d->ring)) return false;
    uint64_t end = advlog_ring_write_pos(d->ring);
    if (d->frontier != end) return false;
    for (int i = 0; i < d->count; i++)
        if (d->sink[i].cursor.position != end) return false;
    return true;
}

/* Sleeps until woken or for up to `ns`. */
static void sleep_until_woken(advlog_drain *d, int64_t ns) {
    advlog_ring_header *h = d->ring->header;
    uint32_t seen = load32_relaxed(&h->wake); /* relaxed: the kernel compares it again */
    store32_relaxed(&h->sleeping, 1);
    fence_full(); /* sleep_until_woken:a, pairs with ring_look_again:b */
    bool work = (!d->waits_for_value && advlog_ring_write_pos(d->ring) - d->frontier > d->ring->count / 2) ||
                load32_relaxed(&d->stop) || load32_relaxed(&d->wake_soon); /* relaxed: after the fence */
    if (!work) {
        struct timespec t = {ns / 1000000000, ns % 1000000000};
#ifdef __linux__
        syscall(SYS_futex, &h->wake, FUTEX_WAIT, seen, &t, NULL, 0);
#else
        (void)seen;
        nanosleep(&t, NULL);
#endif
    }
    store32_relaxed(&h->sleeping, 0); /* relaxed: at worst one wake too many */
}

int advlog_drain_run(advlog_drain *d, int64_t timeout_ns) {
    int64_t deadline = advlog_monotonic_ns() + timeout_ns;
    for (;;) {
        uint32_t hurried = load32_relaxed(&d->wake_soon); /* relaxed: a request */
        uint64_t before = d->frontier;
        bool progress = drain_once(d);
        int why = d->reasons;
        d->reasons = 0;
        if (finished(d)) why |= ADVLOG_DRAIN_DONE;
        if (exchange32_acquire(&d->stop, 0)) why |= ADVLOG_DRAIN_STOPPED; /* pairs with advlog_drain_stop:a */
        int64_t now = advlog_monotonic_ns();
        if (now >= deadline) why |= ADVLOG_DRAIN_TIMEOUT;
        if (why) return why;

        if (d->frontier - before >= PASS_SLOTS) continue; /* there is more already */
        if (hurried) store32_relaxed(&d->wake_soon, 0); /* relaxed: a thread that still waits sets it again */
        /* Busy: gather a millisecond's records for each write. Idle: wake less and less. */
        d->sleep_ns = progress ? SLEEP_MIN_NS : d->sleep_ns * 2 < SLEEP_MAX_NS ? d->sleep_ns * 2 : SLEEP_MAX_NS;
        sleep_until_woken(d, d->sleep_ns < deadline - now ? d->sleep_ns : deadline - now);
    }
}

void advlog_drain_set_deferred_timeout(advlog_drain *d, int64_t deferred_timeout_ns) {
    d->deferred_timeout_ns = deferred_timeout_ns;
}

void advlog_drain_suspend_none(advlog_drain *d) { d->suspends_none = true; }

void advlog_drain_give_up_at(advlog_drain *d, int64_t moment_ns) {
    store_relaxed(&d->give_up_at_ns, (uint64_t)moment_ns); /* relaxed: a moment, nothing comes with it */
}

void advlog_drain_stop(advlog_drain *d) {
    store32_release(&d->stop, 1); /* advlog_drain_stop:a */
    ring_wake(d->ring);
}

/* ---- other threads ---- */

static bool reached(const atomic_u64 *done, uint64_t position) {
    return (int64_t)(load_acquire(done) - position) >= 0; /* pairs with publish:a, count_new:a */
}

static bool waited_for(const advlog_drain *d, uint64_t position, bool sinks) {
    if (!reached(&d->counted, position)) return false;
    for (int i = 0; sinks && i < d->count; i++)
        if (!reached(&d->sink[i].done, position)) return false;
    return true;
}

static int wait_for(advlog_drain *d, uint64_t position, int64_t timeout_ns, bool sinks) {
    int64_t deadline = advlog_monotonic_ns() + timeout_ns;
    if (ring_is_child(d->ring)) return ADVLOG_FORKED;
    for (long pause = 20000; !waited_for(d, position, sinks); pause = pause < 500000 ? pause * 2 : pause) {
        if (advlog_monotonic_ns() >= deadline) return ADVLOG_TIMEOUT;
        store32_relaxed(&d->wake_soon, 1); /* relaxed: a request; the wake below makes it seen */
        ring_wake(d->ring);
        sleep_ns(pause);
    }
    return ADVLOG_OK;
}

int advlog_drain_wait(advlog_drain *d, uint64_t position, int64_t timeout_ns) { return wait_for(d, position, timeout_ns, true); }
int advlog_drain_wait_totals(advlog_drain *d, uint64_t position, int64_t timeout_ns) {
    return wait_for(d, position, timeout_ns, false);
}

bool advlog_drain_next_finding(advlog_drain *d, advlog_finding *out) {
    drain_lock(d);
    bool found = totals_next_finding(&d->totals, out);
    drain_unlock(d);
    return found;
}

void advlog_drain_unresolved(advlog_drain *d, uint64_t *out) {
    drain_lock(d);
    memcpy(out, d->totals.sum.unresolved, sizeof d->totals.sum.unresolved);
    drain_unlock(d);
}

void advlog_drain_totals(advlog_drain *d, advlog_totals *out) {
    drain_lock(d);
    *out = d->totals.sum;
    drain_unlock(d);
}

void advlog_drain_resume(advlog_drain *d, int32_t epoch, int32_t batch, int32_t total) {
    drain_lock(d);
    epochs_resume(&d->totals.epochs, epoch, batch, total);
    drain_unlock(d);
}

void advlog_drain_name_stats(advlog_drain *d, int stream, uint32_t first, uint32_t count, advlog_stat *out) {
    drain_lock(d);
    for (uint32_t i = 0; i < count; i++) {
        if (first + i < d->totals.sum.names) out[i] = d->totals.named[stream][first + i];
        else advlog_stat_init(&out[i]);
    }
    drain_unlock(d);
}
