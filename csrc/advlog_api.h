/* The C API but for statistics and spools, which stats_api.h and spool_api.h have. All of these files are cdef'd by cffi and
 * #included by C, so they hold declarations and integer constants only, and no include guard: their one includer is
 * compiler.h. */

#define ADVLOG_ABI_VERSION 1
#define ADVLOG_RING_VERSION 2  /* of the layout; rings of version 1 can be attached too */
#define ADVLOG_SPOOL_VERSION 1
#define ADVLOG_CORE_METRICS 6
#define ADVLOG_MAX_NAMES 65535
#define ADVLOG_NAME_NO_ROOM -2
#define ADVLOG_MAX_NAME_BYTES 255
#define ADVLOG_MAX_TEXT_BYTES 4096
#define ADVLOG_MAX_HOME_BYTES 1024
#define ADVLOG_MAX_SINKS 8
#define ADVLOG_SLAB_ENTRIES 4096 /* the default, and the least */
#define ADVLOG_MAX_SLAB_ENTRIES 65536
#define ADVLOG_STREAMS 3

/* What a slot has room for: slot.h draws it. */
#define ADVLOG_SLOT_BYTES 128
#define ADVLOG_HEADER_EXTRAS 3
#define ADVLOG_PART_EXTRAS 11
#define ADVLOG_PART_TEXT 112

/* What a record has room for, in a ring that is large enough. */
#define ADVLOG_MAX_RECORD_SLOTS 255
#define ADVLOG_MAX_RECORD_EXTRAS 2797

/* What a slot holds. Kinds below ADVLOG_KIND_PART begin a record. */
enum advlog_kind {
    ADVLOG_KIND_BATCH = 1,       /* log_batch_progress */
    ADVLOG_KIND_METRICS = 2,     /* log_metrics */
    ADVLOG_KIND_MEMORY = 3,      /* a memory sample: system stream */
    ADVLOG_KIND_PERFORMANCE = 4, /* log_performance_metrics: system stream */
    ADVLOG_KIND_EVENT = 5,       /* a line of text for the training log */
    ADVLOG_KIND_SPOOL = 6,       /* first slot of a spool file */
    ADVLOG_KIND_NAME = 7,        /* in a spool: the name of metric id `level`, as text */
    ADVLOG_KIND_LOST = 8,        /* slots that a dead process had reserved and never published */
    ADVLOG_KIND_PART = 16,       /* continuation with values */
    ADVLOG_KIND_PART_TEXT = 17   /* continuation with text */
};

/* seq is dense in each stream of an (attempt, rank). */
enum advlog_stream { ADVLOG_STREAM_METRICS = 0, ADVLOG_STREAM_SYSTEM = 1, ADVLOG_STREAM_EVENTS = 2 };

/* Core metrics, in the order of the slot and of every output. */
enum advlog_core {
    ADVLOG_LOSS = 0,
    ADVLOG_ACCURACY = 1,
    ADVLOG_LEARNING_RATE = 2,
    ADVLOG_GRADIENT_NORM = 3,
    ADVLOG_BATCH_TIME = 4,
    ADVLOG_DATA_TIME = 5
};

/* Bits of `present` above the core metrics. */
#define ADVLOG_HAS_EPOCH 0x40
#define ADVLOG_HAS_BATCH 0x80
#define ADVLOG_HAS_TOTAL 0x100
#define ADVLOG_HAS_STEP 0x200

/* What a push, or a wait for room, came to. */
enum advlog_status {
    ADVLOG_OK = 0,
    ADVLOG_FULL = 1,     /* no room now */
    ADVLOG_CLOSED = 2,   /* never again */
    ADVLOG_TOO_LONG = 3, /* more slots than a record may have in this ring */
    ADVLOG_TIMEOUT = 4,
    ADVLOG_SLOW = 5,     /* an argument needs conversion, or a name is new */
    ADVLOG_FORKED = 6,   /* this process is a child of the ring's owner */
    ADVLOG_OFF = 7,      /* the producer is not bound to a ring */
    ADVLOG_STEPS = 8     /* how its step follows from its epoch must be settled first */
};

/* Why a ring's memory cannot be used. */
enum advlog_ring_error {
    ADVLOG_RING_TOO_SMALL = 1,
    ADVLOG_RING_BAD_MAGIC = 2,
    ADVLOG_RING_BAD_VERSION = 3,
    ADVLOG_RING_BAD_LAYOUT = 4,
    ADVLOG_RING_NO_MEMORY = 5
};

/* Why a value that an accelerator was to fill in is missing. */
enum advlog_unresolved {
    ADVLOG_UNRESOLVED_TIMEOUT = 1,
    ADVLOG_UNRESOLVED_SLAB_FULL = 2,
    ADVLOG_UNRESOLVED_CAPTURE = 3,
    ADVLOG_UNRESOLVED_KILLED = 4,
    ADVLOG_UNRESOLVED_REASONS = 5 /* 0: the reason is unknown */
};

/* Why a call's record never entered the ring. */
enum advlog_drop {
    ADVLOG_DROP_FULL = 0,   /* overflow: the ring stayed full */
    ADVLOG_DROP_CLOSED = 1, /* the logger was closed */
    ADVLOG_DROP_FORKED = 2, /* a forked child without a ring of its own */
    ADVLOG_DROP_REASONS = 3
};

typedef struct advlog_ring advlog_ring;
typedef struct advlog_drain advlog_drain;

/* Who writes into a ring; kept in its header for recovery. */
typedef struct {
    uint8_t run_id[16];
    uint8_t boot_id[16];
    int64_t pid;
    int64_t process_start; /* clock ticks after boot: with pid, names one process */
    int32_t attempt;
    int32_t rank;
    uint32_t worker; /* 0: the process itself */
    uint32_t reserved;
} advlog_identity;

/* One call's values, for the push that any C caller may make. */
typedef struct {
    int64_t time_ns;
    int64_t step;
    double core[ADVLOG_CORE_METRICS];
    int32_t epoch;
    int32_t batch;
    int32_t total_batches;
    uint32_t present; /* bit i: core[i]; ADVLOG_HAS_* */
    uint8_t kind;
    uint16_t extras;
    uint16_t core_deferred; /* bit i: core[i] holds a reference into the slab, or an advlog_unresolved */
    const uint16_t *extra_ids;
    const double *extra_values;
    const uint8_t *extra_deferred; /* a bit for each extra, LSB first; NULL: none */
} advlog_record;

/* What a sink has completed. 64 bytes: two copies a sink lie in the ring. */
typedef struct {
    uint64_t position; /* every slot below it is in the file, or counted as dropped */
    int64_t next_seq;
    uint64_t written; /* records */
    uint64_t dropped; /* records */
    uint64_t dev;
    uint64_t ino;
    uint64_t length; /* bytes of whole records in that file */
    uint64_t file_number;
} advlog_cursor;

enum advlog_sink_kind {
    ADVLOG_SINK_TEXT = 1,
    ADVLOG_SINK_JSONL = 2,
    ADVLOG_SINK_SPOOL = 3,
    ADVLOG_SINK_KINDS = 4 /* one more */
};

typedef struct {
    int32_t kind;   /* enum advlog_sink_kind */
    int32_t stream; /* enum advlog_stream; a text sink takes events too */
    uint64_t max_bytes;   /* a file ends before the record that would exceed this */
    uint64_t max_records; /* a file ends before one more; 0 for no limit */
    uint32_t every;       /* text: one batch line in so many; 1 for all */
    int32_t level;        /* text: lines below this level are filtered out */
    uint32_t digits;      /* text: significant digits of a value that is not integral; 0 for all */
    int32_t sync;         /* every write is followed by fdatasync */
} advlog_sink_options;

/* A sink as the drain sees it now. */
typedef struct {
    advlog_cursor cursor;
    uint64_t filtered;       /* records that the sink left out (text: a level, one line in so many); part of cursor.written */
    uint64_t file_records;   /* in the current file */
    int64_t file_first_seq;  /* seq of the first record of the current file */
    int64_t failing_since_ns; /* monotonic; 0 while it works */
    int32_t error;           /* errno of the last fault; 0 if there was none */
    int32_t suspended;       /* its records are being dropped */
    int32_t torn;            /* its file goes on beyond cursor.length, and could not be cut yet */
    int32_t needs_file;      /* it has no file opened ahead */
    int32_t closed_fd;      /* the file it rotated away from; -1 if none waits */
    int64_t closed_first_seq;
    int64_t closed_next_seq;
    uint64_t closed_records;
    uint64_t faults; /* since the start */
} advlog_sink_info;

/* Why advlog_drain_run came back: bits. */
enum advlog_drain_reason {
    ADVLOG_DRAIN_FILES = 1,   /* a sink rotated, or needs a file opened ahead */
    ADVLOG_DRAIN_STOPPED = 2, /* advlog_drain_stop was called */
    ADVLOG_DRAIN_DONE = 4,    /* the ring is closed and every sink has passed its end */
    ADVLOG_DRAIN_TIMEOUT = 8, /* the time given has passed */
    ADVLOG_DRAIN_FAULT = 16,  /* a sink began or ceased to fail, or was set aside */
    ADVLOG_DRAIN_FINDING = 32 /* advlog_drain_next_finding has one */
};

/* ---- numbers (number.c). Each returns the bytes written; no NUL. What follows
 * them is overwritten: both need room for ADVLOG_NUMBER_BYTES. ---- */

#define ADVLOG_NUMBER_BYTES 32
#define ADVLOG_ALL_DIGITS 17 /* as many as a double can need */

/* What Python's repr says of a float: the fewest digits that read back as the same
 * double, with '.' or an exponent ("1.0", "-0.0", "5e-324"); "nan", "inf", "-inf". At
 * most 24 bytes. */
size_t advlog_number_double(char *out, double value);
/* For people: an integral value below 2^53 without a point, another with so many significant digits (1 to ADVLOG_ALL_DIGITS), rounded
 * as printf's %g rounds, and none of them a zero that stands for an unknown one ("64", "0.693147", "1.23457e+06");
 * with all of them the fewest that read back as the same double. At most 24 bytes. */
size_t advlog_number_text(char *out, double value, unsigned digits);
/* At most 20 bytes. */
size_t advlog_number_int(char *out, int64_t value);

/* ---- ring (ring.c, names.c) ---- */

/* Bytes of memory for a ring of `slots` slots (a power of two, at least 64), with room for all names and for
 * `slab_entries` values that an accelerator fills in later (a power of two, ADVLOG_SLAB_ENTRIES to ADVLOG_MAX_SLAB_ENTRIES). */
uint64_t advlog_ring_bytes(uint64_t slots, uint32_t slab_entries);
/* Those of them that must be there from the first. What follows them is room for more names: in a file it may be a
 * hole, in which advlog_name_intern allocates as names come. */
uint64_t advlog_ring_first_bytes(uint64_t slots, uint32_t slab_entries);
/* Lays a ring out in zeroed memory of that many bytes, of which the first `there` are there; its positions start at
 * `start` (normally `slots`). The magic number is stored last. 0, or an advlog_ring_error. */
int advlog_ring_init(void *memory, uint64_t bytes, uint64_t there, uint64_t slots, uint32_t slab_entries, uint64_t start,
                     const advlog_identity *identity);
/* A handle on an initialised ring; NULL with *error set where it is none. The
 * memory must outlive the handle. */
advlog_ring *advlog_ring_attach(void *memory, uint64_t bytes, int *error);
void advlog_ring_detach(advlog_ring *ring);

/* Never waits. Any thread. ADVLOG_OK, _FULL, _CLOSED, _TOO_LONG or _FORKED. */
int advlog_push(advlog_ring *ring, const advlog_record *record);
int advlog_push_text(advlog_ring *ring, int level, int64_t time_ns, const char *text, uint64_t bytes);
/* The same into a ring that is closed, for the one thread that closed it. ADVLOG_FULL where it is not closed, too. */
int advlog_push_last_text(advlog_ring *ring, int level, int64_t time_ns, const char *text, uint64_t bytes);
/* Waits until `slots` slots are free: ADVLOG_OK, _CLOSED or _TIMEOUT; _FORKED at once. */
int advlog_wait_room(advlog_ring *ring, uint64_t slots, int64_t timeout_ns);
/* From here on every push fails. The position at which the ring ends. */
uint64_t advlog_ring_close(advlog_ring *ring);

uint64_t advlog_ring_slots(const advlog_ring *ring);
uint64_t advlog_ring_write_pos(const advlog_ring *ring);
uint64_t advlog_ring_read_pos(const advlog_ring *ring);
bool advlog_ring_closed(const advlog_ring *ring);
/* Records that entered the ring, of one stream. */
uint64_t advlog_ring_accepted(const advlog_ring *ring, int stream);
void advlog_ring_count_drop(advlog_ring *ring, int reason);
uint64_t advlog_ring_dropped(const advlog_ring *ring, int reason);
/* For a ring whose drain is at rest or dead: advlog_sink_get asks a live one. */
void advlog_ring_cursor(const advlog_ring *ring, int sink, advlog_cursor *out);

/* ---- values that an accelerator fills in later (slab.c) ---- */

/* Reserves `count` entries side by side, for one copy of as many values: the reference
 * of the first, those of the others follow it. 0: there are not so many, memory is
 * short, or the process is a forked child. Under the GIL. */
uint64_t advlog_slab_reserve(advlog_ring *ring, uint32_t count);
/* What the value's bits are to be XORed with for the second half of its entry; the same
 * for all references of a reservation. Entry `reference % advlog_slab_entries()` of the
 * slab, 16 bytes, is where both belong. */
uint64_t advlog_slab_key(const advlog_ring *ring, uint64_t reference);
uint32_t advlog_slab_entries(const advlog_ring *ring);
void *advlog_slab_memory(const advlog_ring *ring);
/* Entries lie in this memory from now on, of which the accelerator knows more; what it has
 * is lost with the process. Before the first reservation. */
void advlog_slab_move(advlog_ring *ring, void *memory);
/* Entries into which a copy may still come. Under the GIL. */
uint32_t advlog_slab_used(const advlog_ring *ring);

/* ---- a dead process's ring (repair.c) ---- */

typedef struct {
    uint64_t records[ADVLOG_STREAMS]; /* published, at or past the oldest cursor */
    uint64_t lost;       /* runs of slots reserved and never published: records lost in flight */
    uint64_t lost_slots;
    uint64_t end;        /* position */
} advlog_repair;
/* Checks everything between read_pos and the end, closes the ring, and marks what
 * was never published as ADVLOG_KIND_LOST, so that a drain can follow to the end;
 * with `dry` it only looks. May be stopped at any point and run again. 0, or
 * ADVLOG_RING_BAD_LAYOUT for a ring that no process of ours leaves behind. */
int advlog_ring_repair(advlog_ring *ring, bool dry, advlog_repair *out);
/* Takes a close back, to go on with a dead process's ring. */
void advlog_ring_reopen(advlog_ring *ring);
/* What is known of a sink by its index: enum advlog_sink_kind (0: no such sink) and stream. */
int advlog_ring_sink_kind(const advlog_ring *ring, int sink);
int advlog_ring_sink_stream(const advlog_ring *ring, int sink);
/* Records of the sink in files that are gone: `expired` by rotation, `vanished` by
 * somebody else's hand. Set by the thread that runs the drain. */
uint64_t advlog_ring_expired(const advlog_ring *ring, int sink);
uint64_t advlog_ring_vanished(const advlog_ring *ring, int sink);
void advlog_ring_set_gone(advlog_ring *ring, int sink, uint64_t expired, uint64_t vanished);
const advlog_identity *advlog_ring_identity(const advlog_ring *ring);
/* Notes the folder that the ring's records are for; one that is longer than ADVLOG_MAX_HOME_BYTES is not noted. */
void advlog_ring_set_home(advlog_ring *ring, const char *path, uint64_t bytes);
/* Bytes of it copied to out (at most ADVLOG_MAX_HOME_BYTES); 0: it is not known. */
uint64_t advlog_ring_home(const advlog_ring *ring, char *out);

/* The file that the ring lies in, where room for more names is allocated; -1: none (any more). */
void advlog_ring_set_file(advlog_ring *ring, int fd);
/* Bytes from the ring's begin on that are there. */
uint64_t advlog_ring_there(const advlog_ring *ring);
/* Where its slots begin. */
uint64_t advlog_ring_slots_offset(const advlog_ring *ring);
/* The id of a name, given one if it is new; -1: there are no more ids, it cannot be a name, or the process is a forked
 * child; ADVLOG_NAME_NO_ROOM: there is no memory for it now. Any thread. */
int advlog_name_intern(advlog_ring *ring, const char *utf8, uint64_t bytes);
uint32_t advlog_name_count(const advlog_ring *ring);
/* Values of child processes' records that were left out, since there was no room for their names. */
uint64_t advlog_ring_left_out(const advlog_ring *ring);
/* The values that launches have copied from a GPU. */
uint64_t advlog_ring_launched(const advlog_ring *ring);
/* Bytes of the name copied to out (at most ADVLOG_MAX_NAME_BYTES), or -1. Any thread. */
int advlog_name_get(advlog_ring *ring, uint32_t id, char *out);

/* ---- descriptors and signals, as the system has them (descriptors.c) ---- */

/* From now on each child that is forked closes its copy of fd as it begins. 0, or -1: it cannot be so, or
 * there are too many. Any thread. */
int advlog_close_on_fork(int fd);
/* No longer. Before fd is closed. */
void advlog_keep_on_fork(int fd);
/* A number that changes with each fork; 0 while one goes on, and where forks are not watched. A descriptor that was
 * opened and given to advlog_close_on_fork between two equal numbers above 0 is open in no child. Any thread. */
uint64_t advlog_fork_moment(void);
/* The type of the file system that fd lies on, as statfs(2) of Linux has it; -1 where it is unknown. */
int64_t advlog_file_system(int fd);
/* Gives the file blocks of its own in place of those that it shares with a copy (reflink), so that
 * a store to its mapping needs no new ones: 0, or errno. */
int advlog_unshare(int fd, uint64_t bytes);
/* Maps `bytes` of the file that fd is, shared, or of fresh memory where fd is -1; NULL with errno. Unlike Python's mmap it keeps
 * no descriptor. */
void *advlog_map(int fd, uint64_t bytes);
void advlog_unmap(void *memory, uint64_t bytes);
/* Releases what lies in these whole pages of a file's mapping, on the disk too: 0, or errno. */
int advlog_forget(void *memory, uint64_t bytes);
/* What a signal does: 0: the default; 1: nothing; 2: a handler is called, Python's or another; -1: it is unknown. */
int advlog_signal_does(int number);

/* ---- drain (drain.c): one thread at a time runs it ---- */

advlog_drain *advlog_drain_new(advlog_ring *ring);
void advlog_drain_free(advlog_drain *drain);
/* The new sink's index, or -1. Before the first run. */
int advlog_drain_add_sink(advlog_drain *drain, const advlog_sink_options *options);
/* Gives a sink the file that it switches to when its current one is full, or
 * at once if it has none. The drain writes to fd and never closes it. This and
 * the next two are for the thread that runs the drain. */
void advlog_sink_give_file(advlog_drain *drain, int sink, int fd, uint64_t dev, uint64_t ino, uint64_t file_number);
/* The file it had could not be opened: errno. Counts as a fault of the sink. */
void advlog_sink_file_fault(advlog_drain *drain, int sink, int error);
/* The sink goes on where a dead drain's stopped: at its cursor in the ring, in the
 * file `fd` if that holds cursor.length bytes (-1: in a file yet to be given), which
 * has `records` records from `first_seq` on. After advlog_ring_repair, before the
 * first run; for every sink. */
void advlog_sink_resume(advlog_drain *drain, int sink, int fd, uint64_t records, int64_t first_seq);
/* The caller has dealt with closed_fd. */
void advlog_sink_closed_done(advlog_drain *drain, int sink);
/* The sink switches files at its next pass, if its file has any records, or even if
 * it has none. Any thread. */
void advlog_sink_rotate(advlog_drain *drain, int sink, bool even_empty);
void advlog_sink_get(advlog_drain *drain, int sink, advlog_sink_info *out);

/* Drains until something needs the caller; bits of advlog_drain_reason. */
int advlog_drain_run(advlog_drain *drain, int64_t timeout_ns);
/* How long a record waits for its values that an accelerator is to fill in, from when each was
 * asked for, unless the ring is nearly full before. Before the first run. */
void advlog_drain_set_deferred_timeout(advlog_drain *drain, int64_t deferred_timeout_ns);
/* No sink is suspended, however long it fails: a recovery drops no record. Before the first run. */
void advlog_drain_suspend_none(advlog_drain *drain);
/* From this moment on, on CLOCK_MONOTONIC, none waits any more. Any thread. */
void advlog_drain_give_up_at(advlog_drain *drain, int64_t moment_ns);
/* Makes one run return soon: this one, else the next. Any thread. */
void advlog_drain_stop(advlog_drain *drain);
/* Waits until every sink that works has completed what lies below `position`,
 * and the statistics cover it: ADVLOG_OK, _TIMEOUT, or _FORKED at once. Any
 * thread but the drain's. */
int advlog_drain_wait(advlog_drain *drain, uint64_t position, int64_t timeout_ns);
/* Waits for the statistics alone. */
int advlog_drain_wait_totals(advlog_drain *drain, uint64_t position, int64_t timeout_ns);

/* ---- the rings of child processes (child_ring.c) ----
 * A child that logs has a small ring of its own. The drain of its parent's ring copies
 * the child's records into that ring, each once whatever is killed when. */

/* What became of a child. */
typedef struct {
    uint64_t number;    /* as its records have it, 1..65535 */
    uint64_t taken;     /* records, since it was added */
    uint64_t dropped;   /* records with too many metrics for the parent's ring */
    int32_t damaged;    /* it holds what no producer writes: nothing more is taken */
} advlog_child_info;
/* From now on the drain takes over the child's records, under the number that it has or
 * is now given: 0, or -1 where memory is short. Like the next two, for the thread that
 * runs the drain. */
int advlog_drain_add_child(advlog_drain *drain, advlog_ring *child);
/* No longer; what the child itself dropped is counted as dropped in the drain's ring. */
void advlog_drain_remove_child(advlog_drain *drain, advlog_ring *child);
void advlog_drain_child(const advlog_drain *drain, const advlog_ring *child, advlog_child_info *out);
/* Finishes the copy of the one record that a dead parent's drain may have been at, so
 * that the next one begins with the record after. Before advlog_ring_repair of that
 * parent's ring. 0, or ADVLOG_RING_BAD_LAYOUT for a child that is damaged. */
int advlog_child_ring_settle(advlog_ring *ring, advlog_ring *child);

/* ---- formatting, for tests and recovery (format_text.c, format_jsonl.c) ---- */

/* Formats `count` slots of one record starting at slots[0] as the drain does,
 * names taken from the ring; bytes written, or -1 where `capacity` is too small,
 * memory is short, or the slots hold no whole record that the sink writes. */
int64_t advlog_format_record(advlog_ring *ring, const void *slots, uint32_t count, int sink_kind, int64_t seq, char *out,
                             uint64_t capacity);
