/* Whatever enters the ring is in every sink's files, once, in order, in whole lines; files end where their
 * limits say; waits and stops come back. */
#include <sys/wait.h>

#include "build_drain.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define RECORDS_A_THREAD 5000
#else
#define RECORDS_A_THREAD 40000
#endif
#define THREADS 4

/* ---- many threads, many sinks ---- */

typedef struct {
    rig *r;
    int64_t first;
} producer_of;

static void *produce(void *of) {
    producer_of *p = of;
    for (int64_t i = 0; i < RECORDS_A_THREAD; i++) {
        int kind = i % 10 == 9 ? ADVLOG_KIND_PERFORMANCE : ADVLOG_KIND_BATCH, status;
        char text[300];
        memset(text, 'e', sizeof text);
        for (;;) {
            if (i % 10 == 5) status = advlog_push_text(p->r->t.ring, i % 20 == 5 ? 20 : 10, i, text, (uint64_t)(i % 300));
            else status = rig_try_push(p->r, kind, p->first + i, (unsigned)(i * 7 % 48));
            if (status != ADVLOG_FULL) break;
            CHECK_INT(ADVLOG_OK, advlog_wait_room(p->r->t.ring, 6, FOREVER));
        }
        CHECK_INT(ADVLOG_OK, status);
    }
    return NULL;
}

static void four_threads_feed_every_sink(uint64_t start) {
    rig r = rig_new(1024, start);
    for (int i = 0; i < 48; i++) test_ring_name(&r.t, (char[]){'m', (char)('0' + i / 10), (char)('0' + i % 10), 0});
    int text = rig_add(&r, ADVLOG_SINK_TEXT, ADVLOG_STREAM_METRICS, 3000000, 0);
    int jsonl = rig_add(&r, ADVLOG_SINK_JSONL, ADVLOG_STREAM_METRICS, 1000000, 0);
    int system = rig_add(&r, ADVLOG_SINK_JSONL, ADVLOG_STREAM_SYSTEM, 100000, 0);
    int spool = rig_add(&r, ADVLOG_SINK_SPOOL, ADVLOG_STREAM_METRICS, NO_LIMIT, 9001);
    pthread_t drain, thread[THREADS];
    producer_of of[THREADS];
    CHECK_INT(0, pthread_create(&drain, NULL, rig_drain_thread, &r));
    for (int i = 0; i < THREADS; i++) {
        of[i] = (producer_of){&r, i * RECORDS_A_THREAD};
        CHECK_INT(0, pthread_create(&thread[i], NULL, produce, &of[i]));
    }
    for (int i = 0; i < THREADS; i++) {
        advlog_totals totals; /* asked for while all of them run */
        advlog_drain_totals(r.drain, &totals);
        CHECK_INT(ADVLOG_OK, advlog_drain_wait_totals(r.drain, totals.position, FOREVER));
        CHECK_INT(0, pthread_join(thread[i], NULL));
    }
    CHECK_INT(ADVLOG_OK, advlog_drain_wait(r.drain, advlog_ring_write_pos(r.t.ring), FOREVER));
    for (int i = 0; i < r.sinks; i++) CHECK_INT(rig_accepted(&r, i), rig_info(&r, i).cursor.written); /* shown by then */
    advlog_ring_close(r.t.ring);
    CHECK_INT(0, pthread_join(drain, NULL));
    rig_settle(&r);

    const int64_t all = THREADS * RECORDS_A_THREAD;
    CHECK_INT(all * 8 / 10, rig_info(&r, jsonl).cursor.written);
    CHECK_INT(all / 10, rig_info(&r, system).cursor.written);
    CHECK_INT(all * 9 / 10, rig_info(&r, text).cursor.written);
    CHECK_INT(all / 20, rig_info(&r, text).filtered); /* the events of level 10 */
    for (int sink = text; sink <= spool; sink++) {
        uint64_t found = 0;
        int64_t last = 0;
        for (int file = 1; file <= r.files[sink]; file++) {
            content c = content_of(rig_path(&r, sink, file));
            CHECK(c.length <= r.drain->sink[sink].options.max_bytes);
            if (sink == text)
                for (size_t i = 0; i < c.length; i++) found += c.bytes[i] == '\n';
            else if (sink != spool) found += jsonl_lines(rig_path(&r, sink, file), &last, true);
            else if (c.length) found += spool_records(rig_path(&r, sink, file), (int64_t)found + 1, 48);
            CHECK(sink != spool || found % 9001 == 0 || file >= r.files[sink] - 1);
            free(c.bytes);
        }
        CHECK(r.files[sink] > 1);
        CHECK_INT(rig_info(&r, sink).cursor.written - rig_info(&r, sink).filtered, found);
    }
    rig_free(&r);
}

/* ---- limits ---- */

static void a_file_ends_before_the_line_that_would_exceed_its_limit(int more, unsigned in_first) {
    rig r = rig_new(256, 0 - UINT64_C(20));
    rig probe = rig_new(64, 64);
    rig_add(&probe, ADVLOG_SINK_JSONL, ADVLOG_STREAM_METRICS, NO_LIMIT, 0);
    rig_push(&probe, ADVLOG_KIND_BATCH, 1, 0);
    rig_settle(&probe);
    uint64_t line = rig_info(&probe, 0).cursor.length;
    rig_free(&probe);

    int jsonl = rig_add(&r, ADVLOG_SINK_JSONL, ADVLOG_STREAM_METRICS, (uint64_t)((int64_t)line * 5 + more), 0);
    for (int64_t n = 1; n <= 9; n++) rig_push(&r, ADVLOG_KIND_BATCH, n, 0); /* seq and loss: one digit each */
    rig_settle(&r);
    int64_t last = 0;
    uint64_t in[3] = {0};
    for (int file = 1; file <= r.files[jsonl] && file <= 3; file++)
        in[file - 1] = jsonl_lines(rig_path(&r, jsonl, file), &last, true);
    CHECK_INT(9, last);
    CHECK_INT(in_first, in[0]);
    rig_free(&r);
}

static void a_line_longer_than_the_limit_has_a_file_to_itself(void) {
    rig r = rig_new(256, 256);
    int jsonl = rig_add(&r, ADVLOG_SINK_JSONL, ADVLOG_STREAM_METRICS, 10, 0);
    for (int64_t n = 1; n <= 5; n++) rig_push(&r, ADVLOG_KIND_BATCH, n, 0);
    rig_settle(&r);
    int64_t last = 0;
    for (int file = 1; file <= 5; file++) CHECK_INT(1, jsonl_lines(rig_path(&r, jsonl, file), &last, true));
    rig_free(&r);
}

static void a_file_ends_at_its_number_of_records_or_when_asked(void) {
    rig r = rig_new(256, 256);
    int spool = rig_add(&r, ADVLOG_SINK_SPOOL, ADVLOG_STREAM_METRICS, NO_LIMIT, 4);
    for (int64_t n = 0; n < 9; n++) rig_push(&r, ADVLOG_KIND_BATCH, n, 0);
    rig_settle(&r);
    CHECK_INT(4, spool_records(rig_path(&r, spool, 1), 1, 0));
    CHECK_INT(4, spool_records(rig_path(&r, spool, 2), 5, 0));
    CHECK_INT(1, spool_records(rig_path(&r, spool, 3), 9, 0));
    CHECK_INT(9, rig_info(&r, spool).file_first_seq);
    advlog_sink_rotate(r.drain, spool, false);
    for (int i = 0; i < 4; i++) rig_run(&r, SECOND / 100);
    CHECK_INT(4, rig_info(&r, spool).cursor.file_number);
    CHECK_INT(0, rig_info(&r, spool).file_records);
    advlog_sink_rotate(r.drain, spool, false); /* nothing in it yet */
    for (int i = 0; i < 4; i++) rig_run(&r, SECOND / 100);
    CHECK_INT(4, rig_info(&r, spool).cursor.file_number);
    rig_push(&r, ADVLOG_KIND_BATCH, 9, 0);
    rig_settle(&r);
    CHECK_INT(1, spool_records(rig_path(&r, spool, 4), 10, 0));
    for (int64_t file_number = 5; file_number <= 6; file_number++) {
        advlog_sink_rotate(r.drain, spool, true);
        for (int i = 0; i < 4; i++) rig_run(&r, SECOND / 100);
        CHECK_INT(file_number, rig_info(&r, spool).cursor.file_number);
    }
    rig_push(&r, ADVLOG_KIND_BATCH, 10, 0);
    rig_settle(&r);
    CHECK_INT(1, spool_records(rig_path(&r, spool, 6), 11, 0));
    rig_free(&r);
}

static void one_batch_line_in_three_and_no_event_below_the_level(void) {
    rig r = rig_new(256, 256);
    advlog_sink_options o = {
        .kind = ADVLOG_SINK_TEXT, .stream = ADVLOG_STREAM_METRICS, .max_bytes = 1000, .every = 3, .level = 20};
    CHECK_INT(0, advlog_drain_add_sink(r.drain, &o));
    r.sinks = 1;
    for (int64_t n = 0; n < 60; n++) {
        rig_push(&r, ADVLOG_KIND_BATCH, n, 0);
        CHECK_INT(ADVLOG_OK, advlog_push_text(r.t.ring, n % 2 ? 10 : 30, n, "event", 5));
    }
    rig_settle(&r);
    CHECK_INT(40 + 30, rig_info(&r, 0).filtered);
    CHECK_INT(120, rig_info(&r, 0).cursor.written);
    uint64_t next_step = SAMPLE_STEP, events = 0;
    for (int file = 1; file <= r.files[0]; file++) {
        content c = content_of(rig_path(&r, 0, file));
        CHECK(c.length <= 1000);
        for (char *at = c.bytes; (at = strstr(at, " step=")); at++, next_step += 3)
            CHECK_INT(next_step, strtoll(at + 6, NULL, 10));
        for (char *at = c.bytes; (at = strstr(at, " WARNING event\n")); at++) events++;
        free(c.bytes);
    }
    CHECK(r.files[0] > 2); /* the thinning goes on across files */
    CHECK_INT(SAMPLE_STEP + 60, next_step);
    CHECK_INT(30, events);
    rig_free(&r);
}

/* ---- waits ---- */

static void waits_and_stops_come_back(void) {
    rig r = rig_new(256, 0 - UINT64_C(5));
    rig_add(&r, ADVLOG_SINK_JSONL, ADVLOG_STREAM_METRICS, NO_LIMIT, 0);
    CHECK_INT(ADVLOG_OK, advlog_drain_wait(r.drain, advlog_ring_write_pos(r.t.ring), 0));
    for (int64_t n = 0; n < 10; n++) rig_push(&r, ADVLOG_KIND_BATCH, n, 0);
    int64_t before = advlog_monotonic_ns();
    CHECK_INT(ADVLOG_TIMEOUT, advlog_drain_wait(r.drain, advlog_ring_write_pos(r.t.ring), SECOND / 20));
    CHECK_INT(ADVLOG_TIMEOUT, advlog_drain_wait_totals(r.drain, advlog_ring_write_pos(r.t.ring), 0));
    int64_t waited = advlog_monotonic_ns() - before;
    CHECK(waited >= SECOND / 20 && waited < 10 * SECOND);
    advlog_drain_stop(r.drain);
    CHECK(rig_run(&r, FOREVER) & ADVLOG_DRAIN_STOPPED);
    CHECK_INT(ADVLOG_OK, advlog_drain_wait_totals(r.drain, advlog_ring_write_pos(r.t.ring), 0));
    rig_settle(&r);
    CHECK_INT(ADVLOG_OK, advlog_drain_wait(r.drain, advlog_ring_write_pos(r.t.ring), 0));
    CHECK_INT(ADVLOG_DRAIN_TIMEOUT, rig_run(&r, SECOND / 50)); /* one stop ends one run */
    advlog_ring_close(r.t.ring);
    CHECK(rig_run(&r, FOREVER) & ADVLOG_DRAIN_DONE);
    rig_free(&r);
}

static void a_forked_child_asks_without_hanging_on_the_drains_lock(void) {
    rig r = rig_new(256, 256);
    rig_add(&r, ADVLOG_SINK_JSONL, ADVLOG_STREAM_METRICS, NO_LIMIT, 0);
    rig_push(&r, ADVLOG_KIND_BATCH, 1, 0);
    rig_settle(&r);
    rig_push(&r, ADVLOG_KIND_BATCH, 2, 0);
    drain_lock(r.drain);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(20);
        advlog_totals totals;
        advlog_drain_totals(r.drain, &totals);
        bool asked = totals.records[0] == 1 && rig_info(&r, 0).cursor.written == 1;
        _exit(asked && advlog_drain_wait(r.drain, advlog_ring_write_pos(r.t.ring), FOREVER) == ADVLOG_FORKED ? 0 : 1);
    }
    drain_unlock(r.drain);
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_INT(0, status);
    rig_free(&r);
}

int main(void) {
    four_threads_feed_every_sink(0 - UINT64_C(3000));
    four_threads_feed_every_sink((UINT64_C(1) << 63) - 3000);
    a_file_ends_before_the_line_that_would_exceed_its_limit(0, 5);
    a_file_ends_before_the_line_that_would_exceed_its_limit(-1, 4);
    a_line_longer_than_the_limit_has_a_file_to_itself();
    a_file_ends_at_its_number_of_records_or_when_asked();
    one_batch_line_in_three_and_no_event_below_the_level();
    waits_and_stops_come_back();
    a_forked_child_asks_without_hanging_on_the_drains_lock();
    return 0;
}
