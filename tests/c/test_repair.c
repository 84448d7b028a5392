/* A dead process's ring: what was never published is passed over, what no process of ours leaves is refused, and the
 * sinks go on where they stopped. Damage of every other kind: fuzz_ring.c. */
#include "build_drain.h"

static int repair(test_ring *t, advlog_repair *out) {
    advlog_repair looked;
    int dry = advlog_ring_repair(t->ring, true, &looked), result = advlog_ring_repair(t->ring, false, out);
    CHECK_INT(dry, result);
    CHECK(result || memcmp(&looked, out, sizeof looked) == 0);
    return result;
}

static void push_text(test_ring *t) { CHECK_INT(ADVLOG_OK, advlog_push_text(t->ring, 20, 1, "x", 1)); }

static void what_was_never_published_is_one_loss_however_often_it_is_repaired(void) {
    test_ring t = test_ring_at(2048, 0 - UINT64_C(300), 3, 2);
    uint64_t position;
    push_text(&t);
    for (int i = 0; i < 3; i++) CHECK_INT(ADVLOG_OK, ring_try_reserve(t.ring, 200, &position));
    push_text(&t);
    CHECK_INT(ADVLOG_OK, ring_try_reserve(t.ring, 1, &position));
    for (int time = 0; time < 3; time++) {
        advlog_repair found;
        CHECK_INT(0, repair(&t, &found));
        CHECK_INT(2, found.records[ADVLOG_STREAM_EVENTS]);
        CHECK(found.lost == 2 && found.lost_slots == 601);
    }
    test_ring_free(&t);
}

static void a_mark_that_leads_past_the_end_is_damage(void) {
    test_ring t = test_ring_at(64, 64, 3, 2);
    push_text(&t);
    uint64_t end = advlog_ring_write_pos(t.ring);
    ring_publish(ring_slot(t.ring, end), end);
    advlog_repair found;
    CHECK_INT(ADVLOG_RING_BAD_LAYOUT, repair(&t, &found));
    test_ring_free(&t);
}

static void a_cursor_that_no_drain_commits_is_damage(void) {
    static const struct {
        int32_t kind, stream;
        advlog_cursor cursor;
        int expected;
    } cases[] = {
        {ADVLOG_SINK_SPOOL, ADVLOG_STREAM_SYSTEM, {.position = 64, .next_seq = 6, .written = 3, .dropped = 2}, 0},
        {ADVLOG_SINK_SPOOL,
         ADVLOG_STREAM_SYSTEM,
         {.position = 64, .next_seq = 7, .written = 3, .dropped = 2},
         ADVLOG_RING_BAD_LAYOUT},
        {ADVLOG_SINK_SPOOL,
         ADVLOG_STREAM_SYSTEM,
         {.position = 64, .next_seq = INT64_MAX, .written = INT64_MAX - 1},
         ADVLOG_RING_BAD_LAYOUT},
        {ADVLOG_SINK_SPOOL, ADVLOG_STREAM_SYSTEM, {.position = 64, .next_seq = 1, .length = UINT64_MAX}, ADVLOG_RING_BAD_LAYOUT},
        {ADVLOG_SINK_SPOOL,
         ADVLOG_STREAM_SYSTEM,
         {.position = 64, .next_seq = 1, .file_number = UINT64_MAX},
         ADVLOG_RING_BAD_LAYOUT},
        {ADVLOG_SINK_SPOOL, ADVLOG_STREAM_SYSTEM, {.position = 63, .next_seq = 1}, ADVLOG_RING_BAD_LAYOUT},
        {ADVLOG_SINK_SPOOL, ADVLOG_STREAM_EVENTS, {.position = 64, .next_seq = 1}, ADVLOG_RING_BAD_LAYOUT},
        {ADVLOG_SINK_KINDS, ADVLOG_STREAM_METRICS, {.position = 64, .next_seq = 1}, ADVLOG_RING_BAD_LAYOUT},
        {-1, ADVLOG_STREAM_METRICS, {.position = 64, .next_seq = 1}, ADVLOG_RING_BAD_LAYOUT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        test_ring t = test_ring_at(64, 64, 3, 2);
        t.ring->header->cursor[0].kind = cases[i].kind;
        t.ring->header->cursor[0].stream = cases[i].stream;
        t.ring->header->cursor[0].copy[0] = cases[i].cursor;
        advlog_repair found;
        CHECK_INT(cases[i].expected, repair(&t, &found));
        test_ring_free(&t);
    }
}

static void a_spool_whose_last_records_were_dropped_is_not_gone_on_with(void) {
    rig r = rig_new(64, 64);
    int spool = rig_add(&r, ADVLOG_SINK_SPOOL, ADVLOG_STREAM_METRICS, NO_LIMIT, 0);
    for (int64_t n = 0; n < 5; n++) rig_push(&r, ADVLOG_KIND_BATCH, n, 0);
    rig_settle(&r);
    advlog_cursor *cursor = &r.t.ring->header->cursor[spool].copy[load_relaxed(&r.t.ring->header->cursor[spool].selected)];
    cursor->dropped += 3; /* as a drain leaves it that dies with the sink set aside */
    cursor->next_seq += 3;
    int fd = r.drain->sink[spool].fd;
    advlog_drain_free(r.drain);
    for (int64_t n = 8; n < 10; n++) rig_push(&r, ADVLOG_KIND_BATCH, n, 0);

    advlog_repair found;
    CHECK_INT(0, repair(&r.t, &found));
    r.drain = advlog_drain_new(r.t.ring);
    CHECK(r.drain != NULL);
    r.sinks = 0;
    rig_add(&r, ADVLOG_SINK_SPOOL, ADVLOG_STREAM_METRICS, NO_LIMIT, 0);
    advlog_sink_resume(r.drain, spool, fd, 5, 1);
    while (!(rig_run(&r, SECOND) & ADVLOG_DRAIN_DONE)) {}
    CHECK_INT(5, spool_records(rig_path(&r, spool, 1), 1, 0));
    CHECK_INT(2, spool_records(rig_path(&r, spool, 2), 9, 0));
    rig_free(&r);
}

int main(void) {
    alarm(60);
    what_was_never_published_is_one_loss_however_often_it_is_repaired();
    a_mark_that_leads_past_the_end_is_damage();
    a_cursor_that_no_drain_commits_is_damage();
    a_spool_whose_last_records_were_dropped_is_not_gone_on_with();
    return 0;
}
