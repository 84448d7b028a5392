/* A sink that cannot write holds its records in the ring for a while, then drops them one by one and counted, and
 * goes on when it can; the other sinks feel nothing, and no file ever holds half a record. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "build_drain.h"

static void limit_files_to(rlim_t bytes) {
    struct rlimit limit;
    CHECK_INT(0, getrlimit(RLIMIT_FSIZE, &limit));
    limit.rlim_cur = bytes;
    CHECK_INT(0, setrlimit(RLIMIT_FSIZE, &limit));
}

static void run_for(rig *r, int64_t ns) {
    for (int64_t end = advlog_monotonic_ns() + ns; advlog_monotonic_ns() < end;) rig_run(r, SECOND / 1000);
}

/* Pushes `count` records from `n` on, running the drain wherever the ring is full. */
static void push_and_drain(rig *r, int64_t n, int64_t count, unsigned extras) {
    for (int64_t end = n + count; n < end; n++) {
        int status;
        while ((status = rig_try_push(r, ADVLOG_KIND_BATCH, n, extras)) == ADVLOG_FULL) rig_run(r, SECOND / 1000);
        CHECK_INT(ADVLOG_OK, status);
    }
}

static void check_account(rig *r, int sink, bool failing, bool suspended) {
    advlog_sink_info info = rig_info(r, sink);
    CHECK_INT(failing, info.failing_since_ns != 0);
    CHECK_INT(suspended, info.suspended);
    CHECK(info.cursor.written + info.cursor.dropped <= rig_accepted(r, sink));
}

static uint64_t file_bytes(const char *path) {
    struct stat s;
    CHECK_INT(0, stat(path, &s));
    return (uint64_t)s.st_size;
}

static void a_full_disk_loses_nothing_where_room_comes_in_time(void) {
    rig r = rig_new(1024, 0 - UINT64_C(50));
    int jsonl = rig_add(&r, ADVLOG_SINK_JSONL, ADVLOG_STREAM_METRICS, NO_LIMIT, 0);
    int text = rig_add(&r, ADVLOG_SINK_TEXT, ADVLOG_STREAM_METRICS, NO_LIMIT, 0);
    push_and_drain(&r, 0, 10, 0);
    rig_settle(&r);
    uint64_t whole = file_bytes(rig_path(&r, jsonl, 1));
    limit_files_to(whole + 1000); /* some of the next lines, and a part of one */
    push_and_drain(&r, 10, 100, 0);
    run_for(&r, SECOND / 4);
    limit_files_to(RLIM_INFINITY);
    check_account(&r, jsonl, true, false);
    CHECK_INT(EFBIG, rig_info(&r, jsonl).error);
    CHECK(rig_info(&r, jsonl).faults >= 2); /* tried again meanwhile */
    CHECK_INT(whole, file_bytes(rig_path(&r, jsonl, 1)));
    CHECK_INT(10, rig_info(&r, jsonl).cursor.written);
    CHECK_INT(ADVLOG_TIMEOUT, advlog_drain_wait(r.drain, advlog_ring_write_pos(r.t.ring), SECOND / 100));
    CHECK_INT(ADVLOG_OK, advlog_drain_wait_totals(r.drain, advlog_ring_write_pos(r.t.ring), 0));
    rig_settle(&r);
    check_account(&r, jsonl, false, false);
    int64_t last = 0;
    CHECK_INT(110, jsonl_lines(rig_path(&r, jsonl, 1), &last, true));
    CHECK_INT(0, rig_info(&r, jsonl).cursor.dropped + rig_info(&r, text).cursor.dropped);
    rig_free(&r);
}

static void a_sink_that_fills_the_ring_is_set_aside_and_comes_back(void) {
    rig r = rig_new(64, (UINT64_C(1) << 63) - 100);
    int bad = rig_add(&r, ADVLOG_SINK_JSONL, ADVLOG_STREAM_METRICS, NO_LIMIT, 0);
    int good = rig_add(&r, ADVLOG_SINK_JSONL, ADVLOG_STREAM_METRICS, NO_LIMIT, 0);
    int full = open("/dev/full", O_WRONLY);
    CHECK(full >= 0);
    rig_give(&r, bad, full);
    rig_serve(&r);
    push_and_drain(&r, 0, 1000, 0);
    rig_settle(&r);
    check_account(&r, bad, true, true);
    CHECK_INT(ENOSPC, rig_info(&r, bad).error);
    CHECK_INT(1000, rig_info(&r, bad).cursor.dropped);
    CHECK_INT(1000, rig_info(&r, good).cursor.written);
    CHECK_INT(ADVLOG_OK, advlog_drain_wait(r.drain, advlog_ring_write_pos(r.t.ring), 0)); /* nobody waits for it */

    int disk = open(rig_path(&r, bad, 1), O_WRONLY | O_CREAT | O_APPEND, 0600);
    CHECK(disk >= 0 && dup2(disk, full) == full);
    close(disk);
    int64_t n = 1000, deadline = advlog_monotonic_ns() + 20 * SECOND;
    for (; rig_info(&r, bad).cursor.written == 0; n++) {
        CHECK(advlog_monotonic_ns() < deadline);
        push_and_drain(&r, n, 1, 0);
        run_for(&r, SECOND / 100);
    }
    push_and_drain(&r, n, 500, 0);
    rig_settle(&r);
    check_account(&r, bad, false, false);
    int64_t last = 0, dropped = (int64_t)rig_info(&r, bad).cursor.dropped;
    CHECK_INT(rig_info(&r, good).cursor.written, jsonl_lines(rig_path(&r, good, 1), &last, true));
    CHECK_INT(n + 500, last);
    last = dropped; /* what was dropped came first; the rest is dense */
    CHECK_INT(n + 500 - dropped, jsonl_lines(rig_path(&r, bad, 1), &last, true));
    CHECK_INT(n + 500, last);
    rig_free(&r);
}

static void a_spool_begins_anew_after_a_gap(void) {
    rig r = rig_new(64, 64);
    for (int i = 0; i < 20; i++) test_ring_name(&r.t, (char[]){'m', (char)('a' + i), 0});
    int spool = rig_add(&r, ADVLOG_SINK_SPOOL, ADVLOG_STREAM_METRICS, NO_LIMIT, 0);
    push_and_drain(&r, 0, 5, 20);
    rig_settle(&r);
    uint64_t whole = file_bytes(rig_path(&r, spool, 1));
    CHECK_INT(5, spool_records(rig_path(&r, spool, 1), 1, 20));
    test_ring_name(&r.t, "new"); /* first met in what cannot be written: named again in the next file */
    limit_files_to(whole + 200);
    push_and_drain(&r, 5, 200, 21);
    rig_settle(&r);
    limit_files_to(RLIM_INFINITY);
    check_account(&r, spool, true, true);
    CHECK_INT(whole, file_bytes(rig_path(&r, spool, 1)));
    CHECK_INT(200, rig_info(&r, spool).cursor.dropped);
    run_for(&r, 11 * SECOND / 10); /* until it is tried again */
    push_and_drain(&r, 205, 10, 21);
    rig_settle(&r);
    check_account(&r, spool, false, false);
    CHECK_INT(2, r.files[spool]);
    CHECK_INT(5, spool_records(rig_path(&r, spool, 1), 1, 20));
    CHECK_INT(10, spool_records(rig_path(&r, spool, 2), 206, 21));
    CHECK_INT(206, rig_info(&r, spool).file_first_seq);
    rig_free(&r);
}

/* The fault lasts, so the sink is set aside, and what a write had left of its records in
 * the file is dropped: it must be out of the file before the sink turns to the next. */
static void a_file_is_not_left_before_what_was_dropped_is_cut_off(void) {
    rig r = rig_new(64, 64);
    int spool = rig_add(&r, ADVLOG_SINK_SPOOL, ADVLOG_STREAM_METRICS, NO_LIMIT, 0);
    int fd = memfd_create("uncuttable", MFD_ALLOW_SEALING);
    CHECK(fd >= 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    rig_give(&r, spool, fd);
    push_and_drain(&r, 0, 5, 0);
    rig_settle(&r);
    uint64_t whole = rig_info(&r, spool).cursor.length;
    CHECK_INT(0, rig_info(&r, spool).torn);
    limit_files_to(whole + 300); /* two records, and a part of one */
    push_and_drain(&r, 5, 200, 0);
    rig_settle(&r);
    limit_files_to(RLIM_INFINITY);
    check_account(&r, spool, true, true);
    CHECK_INT(200, rig_info(&r, spool).cursor.dropped);
    CHECK_INT(1, rig_info(&r, spool).torn);
    int64_t n = 205;
    for (int tries = 0; tries < 2; tries++) { /* probes: there is a next file, and room */
        run_for(&r, 11 * SECOND / 10);
        push_and_drain(&r, n++, 1, 0);
        rig_settle(&r);
        CHECK_INT(fd, r.drain->sink[spool].fd);
        CHECK_INT(EPERM, rig_info(&r, spool).error);
    }
    /* The same file, where it can be cut. */
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    content torn = content_of(path);
    CHECK_INT(whole + 300, torn.length);
    int disk = open(rig_path(&r, spool, 1), O_RDWR | O_CREAT | O_APPEND, 0600);
    CHECK(disk >= 0 && write(disk, torn.bytes, torn.length) == (ssize_t)torn.length && dup2(disk, fd) == fd);
    close(disk);
    free(torn.bytes);
    run_for(&r, 11 * SECOND / 10);
    push_and_drain(&r, n, 10, 0);
    rig_settle(&r);
    check_account(&r, spool, false, false);
    CHECK_INT(0, rig_info(&r, spool).torn);
    CHECK_INT(5, spool_records(rig_path(&r, spool, 1), 1, 0));
    CHECK_INT(10, spool_records(rig_path(&r, spool, 2), n + 1, 0));
    rig_free(&r);
}

static void a_gap_before_the_first_record_costs_no_file(void) {
    rig r = rig_new(64, 64);
    int spool = rig_add(&r, ADVLOG_SINK_SPOOL, ADVLOG_STREAM_METRICS, NO_LIMIT, 0);
    limit_files_to(0);
    rig_run(&r, SECOND / 1000);
    push_and_drain(&r, 0, 100, 0);
    rig_settle(&r);
    limit_files_to(RLIM_INFINITY);
    run_for(&r, 11 * SECOND / 10);
    push_and_drain(&r, 100, 10, 0);
    rig_settle(&r);
    CHECK_INT(100, rig_info(&r, spool).cursor.dropped);
    CHECK_INT(10, spool_records(rig_path(&r, spool, 1), 101, 0));
    CHECK_INT(101, rig_info(&r, spool).file_first_seq);
    rig_free(&r);
}

static void a_sink_without_a_next_file_is_set_aside_while_the_ring_goes_round(void) {
    rig r = rig_new(64, 0 - UINT64_C(64));
    int first = rig_add(&r, ADVLOG_SINK_JSONL, ADVLOG_STREAM_METRICS, 2000, 0);
    int never = rig_add(&r, ADVLOG_SINK_JSONL, ADVLOG_STREAM_METRICS, 2000, 0);
    r.refused[never] = true;
    push_and_drain(&r, 0, 10, 0);
    while (rig_info(&r, first).cursor.written < 10) rig_run(&r, SECOND / 1000);
    r.refused[first] = true;
    push_and_drain(&r, 10, 1000, 0);
    run_for(&r, 11 * SECOND / 10);
    for (int64_t n = 1010; n < 10010; n++) { /* its caller is slow to say that there is no file */
        while (rig_try_push(&r, ADVLOG_KIND_BATCH, n, (unsigned)(n % 48)) == ADVLOG_FULL)
            advlog_drain_run(r.drain, SECOND / 1000);
    }
    rig_serve(&r);
    rig_settle(&r);
    check_account(&r, first, true, true);
    check_account(&r, never, true, true);
    CHECK_INT(ENOSPC, rig_info(&r, never).error);
    CHECK_INT(10010, rig_info(&r, never).cursor.dropped);
    r.refused[first] = r.refused[never] = false;
    run_for(&r, 11 * SECOND / 10);
    push_and_drain(&r, 10010, 20, 0);
    rig_settle(&r);
    for (int sink = first; sink <= never; sink++) {
        int64_t last = 0;
        uint64_t lines = 0;
        for (int file = 1; file <= r.files[sink]; file++) lines += jsonl_lines(rig_path(&r, sink, file), &last, false);
        CHECK_INT(10030, last);
        CHECK_INT(rig_info(&r, sink).cursor.written, lines);
        CHECK_INT(10030, lines + rig_info(&r, sink).cursor.dropped);
        check_account(&r, sink, false, false);
    }
    rig_free(&r);
}

static void a_sink_whose_next_try_is_always_due_is_set_aside_too(void) {
    rig r = rig_new(64, 64);
    int bad = rig_add(&r, ADVLOG_SINK_JSONL, ADVLOG_STREAM_METRICS, NO_LIMIT, 0);
    int full = open("/dev/full", O_WRONLY);
    CHECK(full >= 0);
    rig_give(&r, bad, full);
    for (int64_t n = 0; n < 60; n++) CHECK_INT(ADVLOG_OK, rig_try_push(&r, ADVLOG_KIND_BATCH, n, 0));
    for (int tries = 0; tries < 3; tries++) { /* passes as far apart as where other sinks' writes hang */
        rig_run(&r, 0);
        nanosleep(&(struct timespec){0, 110000000}, NULL);
    }
    check_account(&r, bad, true, true);
    CHECK_INT(60, rig_info(&r, bad).cursor.dropped);
    rig_free(&r);
}

/* Its file is gone, and before there is a next one somebody wishes for a seal. */
static void a_file_that_is_gone_gets_nothing_more_whatever_else_is_wished(void) {
    rig r = rig_new(64, 64);
    int jsonl = rig_add(&r, ADVLOG_SINK_JSONL, ADVLOG_STREAM_METRICS, NO_LIMIT, 0);
    push_and_drain(&r, 0, 5, 0);
    rig_settle(&r);
    r.refused[jsonl] = true;
    advlog_sink_rotate(r.drain, jsonl, true);
    advlog_sink_rotate(r.drain, jsonl, false);
    push_and_drain(&r, 5, 5, 0);
    run_for(&r, SECOND / 20);
    CHECK_INT(5, rig_info(&r, jsonl).cursor.written);
    r.refused[jsonl] = false;
    rig_settle(&r);
    int64_t last = 0;
    CHECK_INT(5, jsonl_lines(rig_path(&r, jsonl, 1), &last, true));
    CHECK_INT(5, jsonl_lines(rig_path(&r, jsonl, 2), &last, true));
    rig_free(&r);
}

static void a_pipe_that_is_full_gets_the_rest_when_it_is_read(void) {
    rig r = rig_new(4096, 4096);
    int jsonl = rig_add(&r, ADVLOG_SINK_JSONL, ADVLOG_STREAM_METRICS, NO_LIMIT, 0);
    int ends[2];
    CHECK_INT(0, pipe(ends));
    CHECK_INT(0, fcntl(ends[1], F_SETFL, O_NONBLOCK));
    CHECK_INT(0, fcntl(ends[0], F_SETFL, O_NONBLOCK));
    rig_give(&r, jsonl, ends[1]);
    push_and_drain(&r, 0, 2000, 0);
    FILE *copy = fopen(rig_path(&r, jsonl, 1), "wb");
    CHECK(copy != NULL);
    int64_t deadline = advlog_monotonic_ns() + 30 * SECOND;
    while (rig_info(&r, jsonl).cursor.written < 2000) {
        CHECK(advlog_monotonic_ns() < deadline);
        run_for(&r, SECOND / 20);
        CHECK(rig_info(&r, jsonl).faults > 0);
        char piece[30000]; /* parts of lines, too */
        ssize_t n = read(ends[0], piece, sizeof piece);
        if (n > 0) CHECK_INT(n, fwrite(piece, 1, (size_t)n, copy));
    }
    char piece[1 << 16];
    for (ssize_t n; (n = read(ends[0], piece, sizeof piece)) > 0;) CHECK_INT(n, fwrite(piece, 1, (size_t)n, copy));
    fclose(copy);
    int64_t last = 0;
    CHECK_INT(2000, jsonl_lines(rig_path(&r, jsonl, 1), &last, true));
    check_account(&r, jsonl, false, false);
    close(ends[0]);
    rig_free(&r);
}

static void a_descriptor_that_was_closed_under_it_is_a_fault_too(void) {
    rig r = rig_new(256, 256);
    int jsonl = rig_add(&r, ADVLOG_SINK_JSONL, ADVLOG_STREAM_METRICS, NO_LIMIT, 0);
    push_and_drain(&r, 0, 10, 0);
    rig_settle(&r);
    int fd = r.drain->sink[jsonl].fd;
    close(fd);
    push_and_drain(&r, 10, 10, 0);
    run_for(&r, SECOND / 20);
    check_account(&r, jsonl, true, false);
    CHECK_INT(EBADF, rig_info(&r, jsonl).error);
    int disk = open(rig_path(&r, jsonl, 1), O_WRONLY | O_APPEND);
    CHECK(disk >= 0);
    if (disk != fd) {
        CHECK_INT(fd, dup2(disk, fd));
        close(disk);
    }
    rig_settle(&r);
    int64_t last = 0;
    CHECK_INT(20, jsonl_lines(rig_path(&r, jsonl, 1), &last, true));
    CHECK_INT(0, rig_info(&r, jsonl).cursor.dropped);
    rig_free(&r);
}

int main(void) {
    signal(SIGXFSZ, SIG_IGN);
    alarm(120);
    a_full_disk_loses_nothing_where_room_comes_in_time();
    a_sink_that_fills_the_ring_is_set_aside_and_comes_back();
    a_spool_begins_anew_after_a_gap();
    a_file_is_not_left_before_what_was_dropped_is_cut_off();
    a_gap_before_the_first_record_costs_no_file();
    a_sink_without_a_next_file_is_set_aside_while_the_ring_goes_round();
    a_sink_whose_next_try_is_always_due_is_set_aside_too();
    a_file_that_is_gone_gets_nothing_more_whatever_else_is_wished();
    a_pipe_that_is_full_gets_the_rest_when_it_is_read();
    a_descriptor_that_was_closed_under_it_is_a_fault_too();
    return 0;
}
