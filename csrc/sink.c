/* A sink's way through the ring: format, write, commit the cursor, rotate.
 *
 * At every moment the file holds `cursor.length` bytes of whole records, and
 * perhaps a torn rest from a write that failed or a process that died; to
 * go on from there, the file is cut to that length first. */
#include "drain.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUFFER_BYTES (256 * 1024)
#define RETRY_NS INT64_C(100000000)     /* a sink that fails is tried again after so long, ... */
#define PROBE_NS INT64_C(1000000000)    /* ... one that is set aside after so long, ... */
#define SINK_SUSPEND_NS INT64_C(30000000000) /* ... and it is set aside after this */

static void commit(advlog_drain *d, int index) {
    drain_sink *s = &d->sink[index];
    s->cursor = s->next;
    s->info.filtered = s->next_filtered;
    s->info.file_records = s->next_file_records;
    uint32_t copy = ++s->copies & 1;
    d->ring->header->cursor[index].copy[copy] = s->cursor;
    FAILPOINT("commit_copied");
    store_release(&d->ring->header->cursor[index].selected, copy); /* commit:a */
    FAILPOINT("commit_selected");
}

/* ---- faults ---- */

void sink_fault(advlog_drain *d, drain_sink *s, int error) {
    int64_t now = advlog_monotonic_ns();
    s->info.error = error;
    s->info.faults++;
    s->retry_ns = now + (s->info.suspended ? PROBE_NS : RETRY_NS);
    if (!s->info.failing_since_ns) {
        s->info.failing_since_ns = now;
        d->reasons |= ADVLOG_DRAIN_FAULT;
    }
}

static void recovered(advlog_drain *d, drain_sink *s) {
    if (!s->info.failing_since_ns) return;
    s->info.failing_since_ns = 0;
    s->info.suspended = 0;
    d->reasons |= ADVLOG_DRAIN_FAULT;
}

/* Whether the file is no longer than `length` now. One that somebody else has cut shorter stays so: it would be made
 * longer with zeros. */
static bool cut_to(int fd, uint64_t length) {
    struct stat found;
    if (fstat(fd, &found) == 0 && S_ISREG(found.st_mode) && (uint64_t)found.st_size <= length) return true;
    return ftruncate(fd, (off_t)length) == 0;
}

/* Takes out of the file what was discarded after it was written. False where it could not. */
static bool cut(drain_sink *s) {
    /* EINVAL: no regular file, so it has no length. ESTALE: the file is gone. */
    if (!cut_to(s->fd, s->cursor.length) && errno != EINVAL && errno != ESTALE) return false;
    s->torn = false;
    return true;
}

/* Forgets what is formatted but not written. */
static void discard_buffer(drain_sink *s) {
    if (s->sent) s->torn = true;
    s->used = s->sent = 0;
    s->next = s->cursor;
    s->next_filtered = s->info.filtered;
    s->next_file_records = s->info.file_records;
    if (!s->info.file_records) {
        s->begun = false;
        memset(s->named, 0, sizeof s->named);
    }
}

static void drop_until(advlog_drain *d, int index, uint64_t end) {
    drain_sink *s = &d->sink[index];
    while (s->next.position != end) {
        const advlog_slot *h = ring_slot(d->ring, s->next.position);
        if (sink_takes(s, kind_stream(h->kind))) {
            s->next.dropped++;
            s->next.next_seq++;
            s->gap = true;
        }
        s->next.position += h->part;
    }
    commit(d, index);
}

/* A sink that fails may hold records back for a while, but not for long, nor
 * once the ring has no room left for the producers. */
static bool should_suspend(const advlog_drain *d, const drain_sink *s) {
    if (!s->info.failing_since_ns || d->suspends_none) return false;
    uint64_t held = advlog_ring_write_pos(d->ring) - s->cursor.position;
    if (held == 0) return false;
    return advlog_monotonic_ns() - s->info.failing_since_ns >= SINK_SUSPEND_NS || held > d->ring->count - d->ring->count / 8;
}

/* ---- writing ---- */

/* True: all is in the file. False: a fault. */
static bool write_buffer(advlog_drain *d, drain_sink *s) {
    while (s->sent < s->used) {
        ssize_t n = write(s->fd, s->buffer + s->sent, s->used - s->sent);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            sink_fault(d, s, n < 0 ? errno : ENOSPC);
            /* Between two attempts, and when the process ends, no line stands half in the file. */
            if (s->sent && cut_to(s->fd, s->cursor.length)) s->sent = 0;
            return false;
        }
        s->sent += (size_t)n;
        FAILPOINT("sink_write_part");
    }
    if (s->options.sync && fdatasync(s->fd) != 0) {
        /* The kernel may have dropped the pages and called them clean: never again on
         * this file. The records are formatted anew, for the next one. */
        sink_fault(d, s, errno);
        discard_buffer(s);
        or32_relaxed(&s->rotate, ROTATE_EVEN_EMPTY); /* relaxed: a request */
        return false;
    }
    s->used = s->sent = 0;
    recovered(d, s);
    return true;
}

bool sink_grow(drain_sink *s, size_t bytes) {
    size_t capacity = bytes > BUFFER_BYTES ? bytes : BUFFER_BYTES;
    if (s->used || capacity <= s->capacity) return false;
    char *buffer = realloc(s->buffer, capacity);
    if (!buffer) return false;
    s->buffer = buffer;
    s->capacity = capacity;
    return true;
}

/* ---- files ---- */

/* Turns to the file opened ahead. False where there is none yet, or the caller
 * has not dealt with the last one. */
static bool switch_file(advlog_drain *d, int index) {
    drain_sink *s = &d->sink[index];
    if (s->next_fd < 0 || s->info.closed_fd >= 0) {
        s->info.needs_file = s->next_fd < 0;
        d->reasons |= ADVLOG_DRAIN_FILES;
        return false;
    }
    if (s->fd >= 0) {
        s->info.closed_fd = s->fd;
        s->info.closed_first_seq = s->info.file_first_seq;
        s->info.closed_next_seq = s->cursor.next_seq;
        s->info.closed_records = s->info.file_records;
    }
    s->fd = s->next_fd;
    s->next_fd = -1;
    s->next.dev = s->next_dev;
    s->next.ino = s->next_ino;
    s->next.file_number = s->next_file_number;
    s->next.length = 0;
    s->next_file_records = 0;
    s->info.file_first_seq = s->next.next_seq;
    s->info.needs_file = 0;
    s->begun = false;
    memset(s->named, 0, sizeof s->named);
    FAILPOINT("switch_before_commit");
    commit(d, index);
    FAILPOINT("switch_committed");
    d->reasons |= ADVLOG_DRAIN_FILES;
    return true;
}

static void ask_for_file(advlog_drain *d, drain_sink *s) {
    if (s->next_fd >= 0 || s->info.needs_file) return;
    s->info.needs_file = 1;
    d->reasons |= ADVLOG_DRAIN_FILES;
}

/* Asks for the next file once this one is half full. */
static void look_ahead(advlog_drain *d, drain_sink *s) {
    const advlog_sink_options *o = &s->options;
    if (s->cursor.length > o->max_bytes / 2 || (o->max_records && s->info.file_records > o->max_records / 2)) ask_for_file(d, s);
}

/* Writes records below `end` until a fault, or the want of a next file, ends it. */
static void write_until(advlog_drain *d, int index, uint64_t end) {
    drain_sink *s = &d->sink[index];
    /* First of all: what is discarded stays in no file that is written on, or left. */
    if (s->torn && !cut(s)) {
        sink_fault(d, s, errno);
        return;
    }
    if (s->fd < 0 && !switch_file(d, index)) return;
    /* Relaxed: a request, acted on at this pass or the next. */
    uint32_t request = load32_relaxed(&s->rotate);
    if (request && !s->used) {
        bool even_empty = request & ROTATE_EVEN_EMPTY;
        bool nothing = s->cursor.length == 0 && !even_empty;
        if (nothing || switch_file(d, index)) and32_relaxed(&s->rotate, ~request); /* relaxed: one made meanwhile stays */
        else if (even_empty) return; /* what goes into the old file now is lost */
    }
    while (s->cursor.position != end) {
        bool full = s->sent ? false : s->kind->fill(d, s, end);
        if (s->used) {
            FAILPOINT("sink_formatted");
            if (!write_buffer(d, s)) return;
            FAILPOINT("sink_written");
            commit(d, index);
            look_ahead(d, s);
        } else if (s->next.position != s->cursor.position) {
            commit(d, index);
        } else if (!full) {
            sink_fault(d, s, ENOMEM); /* not even one record fits the buffer */
            return;
        }
        if (full && !switch_file(d, index)) return;
    }
}

bool sink_advance(advlog_drain *d, int index, uint64_t end) {
    drain_sink *s = &d->sink[index];
    uint64_t from = s->cursor.position;
    if (!s->info.failing_since_ns || advlog_monotonic_ns() >= s->retry_ns) write_until(d, index, end);
    /* After a try, too: where those of several sinks hang, one is due whenever its turn comes. */
    if (!s->info.suspended && should_suspend(d, s)) {
        s->info.suspended = 1;
        s->retry_ns = advlog_monotonic_ns() + PROBE_NS;
        d->reasons |= ADVLOG_DRAIN_FAULT;
        if (s->options.kind == ADVLOG_SINK_SPOOL) ask_for_file(d, s); /* to be there when it comes back: see gap */
    }
    /* Nobody waits for a sink that is set aside: the slots that it leaves now are overwritten. */
    if (s->info.suspended && s->cursor.position != end) {
        discard_buffer(s);
        drop_until(d, index, end);
    }
    return s->cursor.position != from;
}
