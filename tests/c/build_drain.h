/* A drain with sinks in a folder of its own, served with files as its caller in
 * Python serves it; and what those files hold. */
#pragma once

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "build_ring.h"
#include "drain.h"

#define SECOND INT64_C(1000000000)
#define FOREVER (600 * SECOND)
#define SAMPLE_STEP 1000000 /* steps from here on have as many digits, so their lines are equally long */
#define NO_LIMIT (UINT64_C(1) << 40)

typedef struct {
    test_ring t;
    advlog_drain *drain;
    char folder[64];
    int sinks;
    int files[ADVLOG_MAX_SINKS];   /* opened so far */
    bool refused[ADVLOG_MAX_SINKS]; /* its next files cannot be opened */
} rig;

static inline rig rig_new(uint64_t slots, uint64_t start) {
    rig r = {.t = test_ring_at(slots, start, 3, 2), .folder = "/tmp/advlog-test-XXXXXX"};
    CHECK(mkdtemp(r.folder) != NULL);
    r.drain = advlog_drain_new(r.t.ring);
    CHECK(r.drain != NULL);
    return r;
}

static inline int rig_add(rig *r, int kind, int stream, uint64_t max_bytes, uint64_t max_records) {
    const advlog_sink_options o = {
        .kind = kind, .stream = stream, .max_bytes = max_bytes, .max_records = max_records, .level = 20};
    CHECK_INT(r->sinks, advlog_drain_add_sink(r->drain, &o));
    return r->sinks++;
}

static inline const char *rig_path(const rig *r, int sink, int file) {
    static _Thread_local char path[128];
    snprintf(path, sizeof path, "%s/%d-%04d", r->folder, sink, file);
    return path;
}

/* The sink's next file is `fd`. */
static inline void rig_give(rig *r, int sink, int fd) {
    struct stat s;
    CHECK_INT(0, fstat(fd, &s));
    r->files[sink]++;
    advlog_sink_give_file(r->drain, sink, fd, s.st_dev, s.st_ino, (uint64_t)r->files[sink]);
}

/* What the caller of advlog_drain_run owes the sinks. */
static inline void rig_serve(rig *r) {
    for (int i = 0; i < r->sinks; i++) {
        advlog_sink_info info;
        advlog_sink_get(r->drain, i, &info);
        if (info.closed_fd >= 0) {
            struct stat s;
            CHECK_INT(0, fstat(info.closed_fd, &s));
            /* Less by what a text sink leaves out, and by what was dropped before the next file. */
            CHECK((int64_t)info.closed_records <= info.closed_next_seq - info.closed_first_seq);
            close(info.closed_fd);
            advlog_sink_closed_done(r->drain, i);
        }
        if (!info.needs_file) continue;
        int fd = r->refused[i] ? -1 : open(rig_path(r, i, r->files[i] + 1), O_WRONLY | O_CREAT | O_EXCL | O_APPEND, 0600);
        if (fd < 0) advlog_sink_file_fault(r->drain, i, r->refused[i] ? ENOSPC : errno);
        else rig_give(r, i, fd);
    }
}

static inline int rig_run(rig *r, int64_t timeout_ns) {
    int why = advlog_drain_run(r->drain, timeout_ns);
    rig_serve(r);
    return why;
}

static inline advlog_sink_info rig_info(rig *r, int sink) {
    advlog_sink_info info;
    advlog_sink_get(r->drain, sink, &info);
    return info;
}

static inline uint64_t rig_accepted(rig *r, int sink) {
    const advlog_sink_options *o = &r->drain->sink[sink].options;
    uint64_t events = o->kind == ADVLOG_SINK_TEXT ? advlog_ring_accepted(r->t.ring, ADVLOG_STREAM_EVENTS) : 0;
    return advlog_ring_accepted(r->t.ring, o->stream) + events;
}

/* Runs the drain until every sink has written or dropped what was accepted. */
static inline void rig_settle(rig *r) {
    uint64_t end = advlog_ring_write_pos(r->t.ring);
    int64_t deadline = advlog_monotonic_ns() + 60 * SECOND;
    for (bool done = false; !done;) {
        CHECK(advlog_monotonic_ns() < deadline);
        rig_run(r, SECOND / 1000);
        done = true;
        for (int i = 0; i < r->sinks; i++) done &= rig_info(r, i).cursor.position == end;
    }
    for (int i = 0; i < r->sinks; i++) {
        advlog_sink_info info = rig_info(r, i);
        CHECK_INT(rig_accepted(r, i), info.cursor.written + info.cursor.dropped);
        advlog_cursor shown;
        advlog_ring_cursor(r->t.ring, i, &shown);
        CHECK(memcmp(&shown, &info.cursor, sizeof shown) == 0);
    }
}

/* The drain's own thread: until the ring is closed and all of it written. */
static inline void *rig_drain_thread(void *of) {
    while (!(rig_run(of, SECOND / 2) & ADVLOG_DRAIN_DONE)) {}
    return NULL;
}

static inline void rig_free(rig *r) {
    for (int i = 0; i < r->sinks; i++) {
        if (r->drain->sink[i].fd >= 0) close(r->drain->sink[i].fd);
        if (r->drain->sink[i].next_fd >= 0) close(r->drain->sink[i].next_fd);
        for (int file = 1; file <= r->files[i]; file++) unlink(rig_path(r, i, file));
    }
    rmdir(r->folder);
    advlog_drain_free(r->drain);
    test_ring_free(&r->t);
}

/* A batch record whose values all follow from `n`. */
static inline int rig_try_push(rig *r, int kind, int64_t n, unsigned extras) {
    uint16_t ids[64];
    double values[64];
    for (unsigned i = 0; i < extras; i++) ids[i] = (uint16_t)i, values[i] = (double)n + i;
    advlog_record record = {.time_ns = n,
                            .step = SAMPLE_STEP + n,
                            .core = {(double)n},
                            .present = 1u << ADVLOG_LOSS | ADVLOG_HAS_STEP,
                            .kind = (uint8_t)kind,
                            .extras = (uint16_t)extras,
                            .extra_ids = ids,
                            .extra_values = values};
    return advlog_push(r->t.ring, &record);
}

static inline void rig_push(rig *r, int kind, int64_t n, unsigned extras) {
    CHECK_INT(ADVLOG_OK, rig_try_push(r, kind, n, extras));
}

/* ---- files ---- */

typedef struct {
    char *bytes;
    size_t length;
} content;

static inline content content_of(const char *path) {
    FILE *f = fopen(path, "rb");
    CHECK(f != NULL);
    content c = {.bytes = malloc(1 << 26)};
    CHECK(c.bytes != NULL);
    c.length = fread(c.bytes, 1, (1 << 26) - 1, f);
    c.bytes[c.length] = 0;
    fclose(f);
    return c;
}

/* Checks that there are whole JSON lines only, each seq above the one before; `*last` goes
 * on from file to file. With `dense`, no seq may be missing. The number of lines. */
static inline uint64_t jsonl_lines(const char *path, int64_t *last, bool dense) {
    content c = content_of(path);
    uint64_t lines = 0;
    CHECK(c.length == 0 || c.bytes[c.length - 1] == '\n');
    for (char *line = c.bytes, *end; line < c.bytes + c.length; line = end + 1, lines++) {
        end = strchr(line, '\n');
        *end = 0;
        const char *seq = strstr(line, "\"seq\":"), *step = strstr(line, "\"step\":");
        CHECK(strncmp(line, "{\"timestamp\":\"", 14) == 0 && end[-1] == '}' && seq);
        int64_t now = strtoll(seq + 6, NULL, 10);
        CHECK(dense ? now == *last + 1 : now > *last);
        CHECK(step && strstr(line, "\"loss\":") && strstr(line, "\"attempt\":3,\"rank\":2,"));
        CHECK_NEAR(strtod(step + 7, NULL) - SAMPLE_STEP, strtod(strstr(line, "\"loss\":") + 7, NULL), 0);
        *last = now;
    }
    free(c.bytes);
    return lines;
}

/* Checks that a spool is whole, begins at seq `first` and names what it uses, of `names` names; its records. */
static inline uint64_t spool_records(const char *path, int64_t first, uint32_t names) {
    content c = content_of(path);
    CHECK(c.length > 0 && c.length % ADVLOG_SLOT_BYTES == 0);
    advlog_scan *scan = advlog_scan_new();
    advlog_spool_info info;
    advlog_scan_feed(scan, c.bytes, c.length / ADVLOG_SLOT_BYTES);
    advlog_scan_info(scan, &info);
    CHECK_INT(0, info.damaged);
    CHECK_INT(c.length / ADVLOG_SLOT_BYTES, info.slots);
    CHECK_INT(first, info.first_seq);
    CHECK(info.attempt == 3 && info.rank == 2 && info.names <= names);
    for (uint32_t id = 0; id < info.names; id++) {
        char name[ADVLOG_MAX_NAME_BYTES];
        CHECK(advlog_scan_uses(scan, id) == (advlog_scan_name(scan, id, name) > 0));
    }
    advlog_scan_free(scan);
    free(c.bytes);
    return info.records;
}
