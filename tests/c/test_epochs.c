/* Batches are counted by their numbers: where every n-th is logged, where an epoch comes again, whatever the numbers are. */
#include "totals.h"

#include "check.h"

static advlog_epoch table[ADVLOG_EPOCHS];
static epoch_course course;

static void anew(void) {
    memset(table, 0, sizeof table);
    course = (epoch_course){.of = table};
}

static advlog_epoch *log_total(int32_t epoch, int32_t batch, int32_t total) {
    advlog_slot slot = {.epoch = epoch, .batch = batch, .total_batches = total};
    slot.present = ADVLOG_HAS_EPOCH | ADVLOG_HAS_BATCH | (total >= 0 ? ADVLOG_HAS_TOTAL : 0);
    return epochs_add(&course, &slot);
}

static void every_nth(void) {
    for (int from = 0; from < 2; from++) {
        anew();
        advlog_epoch *found = NULL;
        for (int batch = from; batch < 100 + from; batch++)
            if (batch % 10 == 0) found = log_total(1, batch, 100);
        CHECK_INT(100, found->batches + found->left);
        CHECK_INT(from ? 10 : 1, found->first_batches);
    }
}

static void epochs_side_by_side(void) {
    anew();
    for (int batch = 1; batch <= 10; batch++) {
        log_total(3, batch, 10);
        if (batch % 5 == 0) log_total(3, 1, 2);
        log_total(0, batch, 10);
    }
    CHECK_INT(10, log_total(3, 10, 10)->batches);
    CHECK_INT(10, log_total(0, 10, 10)->batches);
    CHECK_INT(1, log_total(3, 1, 2)->batches);
}

/* Of a stream: its total grows, is told late, or comes with some records only; an evaluation within it has one. */
static void a_stream(void) {
    anew();
    for (int batch = 1; batch <= 100; batch++) log_total(1, batch, batch + 1);
    CHECK_INT(100, table[0].batches);
    CHECK_INT(100, table[0].records);
    anew();
    for (int batch = 1; batch <= 100; batch++) log_total(1, batch, batch <= 50 ? -1 : 100);
    CHECK_INT(100, table[0].records);
    CHECK_INT(100, table[0].total);
    anew();
    for (int batch = 1; batch <= 100; batch++) {
        log_total(1, batch, -1);
        for (int of = 1; batch == 50 && of <= 20; of++) log_total(1, of, 20);
    }
    CHECK_INT(100, table[0].records);
    CHECK_INT(20, log_total(1, 20, 20)->records - 1);
    anew();
    for (int batch = 10; batch <= 100; batch += 10) log_total(1, batch, batch + 1);
    CHECK_INT(100, table[0].batches);
    CHECK_INT(10, table[0].records);
}

/* Where every 50th batch is logged, and a process goes on behind batch 150 of 400. */
static void resumed(void) {
    anew();
    epochs_resume(&course, 1, 150, 400);
    for (int batch = 200; batch <= 400; batch += 50) log_total(1, batch, 400);
    CHECK_INT(250, table[0].batches);
    for (int batch = 50; batch <= 400; batch += 50) log_total(2, batch, 400);
    CHECK_INT(400, table[0].batches);
    /* At an epoch's end. */
    anew();
    epochs_resume(&course, 1, 400, 400);
    log_total(2, 50, 400);
    CHECK_INT(50, table[0].batches);
    /* In an evaluation, which says nothing of the training. */
    anew();
    epochs_resume(&course, 1, 20, 20);
    log_total(1, 153, 400);
    CHECK_INT(1, table[0].batches);
}

static void a_fifth_epoch_takes_the_place_of_the_oldest(void) {
    anew();
    for (int epoch = 1; epoch <= 5; epoch++) log_total(epoch, 1, 10);
    CHECK_INT(5, table[0].epoch);
    CHECK_INT(2, table[3].epoch);
    CHECK_INT(1, log_total(1, 1, 10)->records);
}

/* A damaged ring may hold any of them. */
static void any_numbers(void) {
    static const int32_t numbers[] = {INT32_MIN, -1, 0, 1, 7, INT32_MAX};
    enum { COUNT = sizeof numbers / sizeof *numbers };
    anew();
    for (int a = 0; a < COUNT; a++)
        for (int b = 0; b < COUNT; b++)
            for (int c = 0; c < COUNT; c++) {
                log_total(numbers[a] & 3, numbers[b], numbers[c]);
                log_total(numbers[a] & 3, numbers[c], numbers[b]);
                epochs_move(&course, numbers[b] < 0 ? INT64_MIN : INT64_MAX);
            }
    CHECK(table[0].records > 0);
}

int main(void) {
    every_nth();
    epochs_side_by_side();
    a_stream();
    resumed();
    a_fifth_epoch_takes_the_place_of_the_oldest();
    any_numbers();
    return 0;
}
