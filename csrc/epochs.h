/* What the drain counts of each epoch: its batches, where perhaps only some of them are logged. */
#pragma once

#include "slot.h"

#include <stdbool.h>

/* The epochs that records came from lately: an evaluation may come between two records of one. The latest stands first. */
typedef struct {
    advlog_epoch *of; /* ADVLOG_EPOCHS of them */
    int32_t stride;   /* between the batch numbers of two records, as it came last twice in a row; 0 before there were two */
    bool has_earlier; /* an epoch before this one was counted: it was not resumed in its middle */
    bool from_zero;   /* a batch has the number 0 */
    uint64_t weight;  /* for how many batches the latest record stands */
    bool resumed;     /* the process goes on behind this batch of another one: */
    int32_t resumed_epoch;
    int32_t resumed_batch;
    int32_t resumed_total; /* -1: unknown */
} epoch_course;

/* Counts a batch record: returns the epoch that it belongs to. */
advlog_epoch *epochs_add(epoch_course *course, const advlog_slot *header);
/* The process goes on from another one, whose last batch this was. Its total is -1 where it is unknown. */
void epochs_resume(epoch_course *course, int32_t epoch, int32_t batch, int32_t total);
/* The wall clock has moved by `ns`: what has begun goes on as if it had begun by the new clock. */
void epochs_move(epoch_course *course, int64_t ns);
