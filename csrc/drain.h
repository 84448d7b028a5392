/* The drain's own state: its sinks, its statistics, its dealings with other threads.
 *
 * Ordering edges beside those of the ring:
 *   drain_unlock:a        lock. The holder of the lock sees whole totals and a whole `published`.
 *   publish:a             a sink's `done`. The files and numbers that a waiting thread then asks for have it too.
 *   count_new:a           `counted`. The statistics that a waiting thread then asks for have it too.
 *   advlog_drain_stop:a   stop. The run that is ended came after whatever the stopping thread did before. */
#pragma once

#include "format.h"
#include "slab.h"
#include "totals.h"

/* Slots looked at in one pass: 256 KiB, so that the second sink finds them in cache. */
#define PASS_SLOTS 2048

/* What threads may request of a sink: bits, since none takes back what another wished. */
enum { ROTATE = 1, ROTATE_EVEN_EMPTY = 2 };

typedef struct drain_sink drain_sink;

/* What a kind of sink does with the records of its stream: sink_kinds.c has the table. */
typedef struct {
    bool takes_events;  /* events too, whatever its stream */
    bool splits_at_gap; /* after records that were dropped comes a new file */
    bool names_ids;     /* each of its files names the ids that it uses */
    /* Formats records until the buffer is full, the file is, or `end` is reached. True where the file is full. */
    bool (*fill)(advlog_drain *drain, drain_sink *sink, uint64_t end);
} sink_kind;

const sink_kind *sink_kind_of(int kind); /* NULL: there is no such */

/* One destination. The drain formats records into `buffer` and writes it; only
 * then does `cursor` become `next` and is shown in the ring. */
struct drain_sink {
    const sink_kind *kind;
    advlog_sink_options options;
    advlog_cursor cursor; /* what is in the file */
    advlog_cursor next;   /* what will be once the buffer is written */
    uint64_t next_filtered;
    uint64_t next_file_records;

    char *buffer;
    size_t used;
    size_t sent; /* of `used`: a write may take a part */
    size_t capacity;

    int fd;
    int next_fd; /* opened ahead; -1: none */
    uint64_t next_dev, next_ino, next_file_number;

    advlog_sink_info info; /* what others are shown: copied under the drain's lock */
    uint64_t lines;        /* text: batch lines seen, for `every` */
    uint64_t named[ADVLOG_MAX_NAMES / 64 + 1]; /* spool: the ids that the current file names, a bit each */
    bool begun;            /* spool: the current file has its first slot */
    bool gap;              /* spool: records were dropped, so the next needs a file of its own */
    bool torn;             /* what was discarded lies in part in the file, beyond cursor.length */
    int64_t retry_ns;      /* failing: not before this */

    atomic_u32 rotate;
    atomic_u64 done; /* cursor.position, for threads that wait: publish:a */
    uint32_t copies; /* cursor commits so far */
};

struct advlog_drain {
    advlog_ring *ring;
    int count;
    uint64_t frontier; /* every record below it is settled, and counted in the totals */
    bool waits_for_value;         /* the record there waits for an accelerator */
    bool suspends_none;
    slab_quarantine given_up;
    int64_t deferred_timeout_ns;
    advlog_line_cache line;
    advlog_labels *labels;
    running_totals totals;
    int reasons; /* to come back with: bits of advlog_drain_reason */
    int64_t sleep_ns;

    /* Held only while numbers are copied or counted, never while waiting or in
     * a system call; guards totals and each sink's published info. */
    atomic_u32 lock;
    advlog_sink_info published[ADVLOG_MAX_SINKS];
    atomic_u64 counted; /* frontier, for threads that wait: count_new:a */
    atomic_u32 stop;    /* advlog_drain_stop:a */
    atomic_u64 give_up_at_ns; /* no value is waited for from then on */
    atomic_u32 wake_soon; /* someone waits: do not sleep long */

    drain_sink sink[ADVLOG_MAX_SINKS];
    struct drain_child **children; /* an array */
    unsigned child_count;
};

void drain_lock(advlog_drain *drain);
void drain_unlock(advlog_drain *drain);

/* Brings one sink as near to `end` as its file allows, and to `end` if it is set
 * aside; true if it moved. */
bool sink_advance(advlog_drain *drain, int index, uint64_t end);
/* Copies records of the children into the ring; true if there were any. */
bool children_advance(advlog_drain *drain);
void children_free(advlog_drain *drain);
/* Whether the sink takes records of a stream. */
static inline bool sink_takes(const drain_sink *sink, int stream) {
    return stream == sink->options.stream || (sink->kind->takes_events && stream == ADVLOG_STREAM_EVENTS);
}
/* Makes the buffer larger, where it is empty. False: it is not, or memory is short. */
ADVLOG_COLD bool sink_grow(drain_sink *sink, size_t bytes);
static inline bool sink_has_room(drain_sink *sink, size_t bytes) {
    return ADVLOG_LIKELY(sink->used + bytes <= sink->capacity) || sink_grow(sink, bytes);
}
/* The sink's file failed: errno. It will be tried again. */
void sink_fault(advlog_drain *drain, drain_sink *sink, int error);
